"""Serve a page on which a saved model can be tried: upload, paste or photograph, and see what it says and why."""

from fastcore.script import call_parse

from cifar_fast.options import count, exit_codes, one_line_errors


@call_parse
@one_line_errors
def main(
    model: str,  # folder of a saved model (a run's model/), or .onnx file
    examples: str | None = None,  # folder of example images; default: examples/ in the model's folder
    host: str = "127.0.0.1",  # address to listen on; 0.0.0.0 lets others in
    port: count = 7860,  # port to listen on
    max_upload: count = 10,  # megabytes a picture may have
):
    "Serve a page on which a saved model can be tried, until Ctrl-C."
    with exit_codes():
        from cifar_fast.app import build_app, serve

        app = build_app(model, examples)
        print(f"http://{host}:{port}", flush=True)
        serve(app, host, port, max_upload)
