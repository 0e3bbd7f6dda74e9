"""Say what is in image files, with a saved model: a folder of export_safe (a run's model/) or an .onnx file."""

from fastcore.script import call_parse

from cifar_fast.options import count, exit_codes, one_line_errors


@call_parse
@one_line_errors
def main(
    model: str,  # folder of a saved model, or .onnx file
    *images: str,  # image files, and folders to look through
    json: bool = False,  # print JSON: file, label, probability and all probabilities
    csv: bool = False,  # print CSV: file, label, probability
    device: str = "cpu",  # for a folder's model: cpu, cuda or another torch device
    bs: count = 256,  # images a batch
):
    "Predict images. Unreadable ones are listed at the end, and make the exit code 1."
    with exit_codes():
        import sys

        from cifar_fast.errors import InputError
        from cifar_fast.predict import Predictor, find_images
        from cifar_fast.tables import print_predictions

        if json and csv:
            raise InputError("--json and --csv exclude each other: give one")
        if not images:
            raise InputError("no image is named: give image files or folders")
        files = find_images(images)
        sys.exit(print_predictions(Predictor(model, device, bs), files, "json" if json else "csv" if csv else "table"))
