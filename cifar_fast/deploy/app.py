"""A page on which visitors try a saved model. Needs the extra `app`; loads nothing from the network."""

import os
import re
from copy import deepcopy
from functools import cached_property
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np

from cifar_fast.analysis.explain import grad_cam, plot_looks
from cifar_fast.analysis.featuremaps import draw_layer, layer_outputs
from cifar_fast.data.image import decode_image
from cifar_fast.data.image_files import walk_images
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import ImageError, InputError, MissingExtra
from cifar_fast.text import printable

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise MissingExtra("app", "the page") from error

CSS = "#picture img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }"
FONT = ["system-ui", "sans-serif"]  # gradio's themes take theirs from Google
CONCURRENT = 2  # predictions at a time
WAITING = 32  # visitors in the queue, beyond whom the page says that it is busy
MOST_EXAMPLES = 100  # pictures on the page to choose from


class Visit:
    "What the page does with a picture, for one model."

    def __init__(self, predictor: Predictor):
        self.predictor, self.card = predictor, predictor.card

    def predict(self, path: str | None) -> tuple[dict[str, float] | None, str]:
        "Probabilities by class, and a line about them; for an unusable file nothing, and the error."
        if not path:
            return None, ""
        try:
            found = self.predictor(path)
        except ImageError as error:
            return None, f"**This file cannot be used:** {literal(str(error).replace(path, Path(path).name))}"
        other = (self.card.metrics.get("taken_for") or {}).get(found.label)
        confused = f" Test images of this class were most often mistaken for **{literal(other)}**." if other else ""
        return found.probabilities, f"**{literal(found.label)}**, {found.probability:.0%} sure.{confused}"

    @property
    def blank(self):
        "A black picture as the network takes it."
        import torch

        return torch.zeros(1, 3, self.card.size, self.card.size)

    def pixels(self, path: str | None) -> np.ndarray | None:
        "A picture as uint8 (1, H, W, 3); None where it is not usable."
        try:
            return decode_image(path, self.card.stored_size, self.card.levels)[None] if path else None
        except ImageError:
            return None

    def layers(self) -> list[str]:
        "Layers to look into; none for an ONNX model."
        return [] if self.looked_into is None else list(layer_outputs(self.looked_into, self.blank))

    def look_inside(self, path: str | None, layer: str):
        "The figure of one layer's channels; None without a usable picture."
        if (pixels := self.pixels(path)) is None:
            return None
        return draw_layer(layer_outputs(self.looked_into, self.predictor.inputs(pixels)), layer)

    @cached_property
    def looked_into(self):
        "A copy of the network, None of an ONNX model: hooks in it do not meet predictions made at the same time."
        return deepcopy(self.predictor.model)

    def why_no_look(self) -> str:
        "A line where it cannot be shown where the model looks; empty where it can."
        if self.predictor.model is None:
            return "Where it looks cannot be shown: the model is an ONNX graph, or several models together."
        try:
            grad_cam(self.looked_into, self.blank, self.blank.new_zeros(1).long())
        except InputError as error:  # no captum, or a network without maps
            return f"Where it looks cannot be shown: {literal(str(error))}."
        return ""

    def look(self, path: str | None):
        "The picture, and what of it speaks for the class that is said; None without a usable picture."
        if (pixels := self.pixels(path)) is None:
            return None
        import torch

        said = torch.from_numpy(self.predictor.logits(pixels)).argmax(1)
        return plot_looks(self.looked_into, self.predictor.inputs(pixels), pixels, said, None, self.card.vocab)


def build_app(
    model: str | Path,  # a folder of export_safe, or an .onnx file
    examples: str | Path | None = None,  # folder of example images; None: `examples` in the model's folder
) -> "gr.Blocks":
    "The page. Raises `InputError` for a model that cannot be used."
    matplotlib.use("Agg")
    visit = Visit(Predictor(model))
    layers = visit.layers()
    folder = Path(examples) if examples else Path(model) / "examples"
    if examples and not folder.is_dir():
        raise InputError(f"{folder} does not exist: give a folder of images")
    pictures = list(islice(walk_images(folder), MOST_EXAMPLES)) if folder.is_dir() else []
    with gr.Blocks(title="cifar_fast", analytics_enabled=False) as app:
        gr.Markdown(f"# What is in the picture?\n{_about(visit)}")
        with gr.Row():
            with gr.Column():
                sources = ["upload", "clipboard", "webcam"]
                picture = gr.Image(type="filepath", sources=sources, label="Picture", height=280, elem_id="picture")
                # the file as it was uploaded: gradio itself would decode it, with errors of its own
                picture.preprocess = lambda payload: payload.path if payload else None
                if pictures:
                    gr.Examples(pictures, picture, label="Examples")
            with gr.Column():
                line = gr.Markdown(elem_id="line")
                bars = gr.Label(num_top_classes=5, label="Classes")
        picture.change(visit.predict, picture, [bars, line], api_name="predict", concurrency_limit=CONCURRENT)
        figures = dict(concurrency_limit=1, concurrency_id="figures", api_name=False)
        if why := visit.why_no_look():
            gr.Markdown(why, elem_id="no-look")
        else:
            gr.Markdown("Where it looks: bright is what speaks for the class")  # a label would cover a small plot
            looks = gr.Plot(show_label=False, elem_id="look")
            picture.change(visit.look, picture, looks, **figures)
        if layers:
            with gr.Accordion("Inside the network", open=False):
                layer = gr.Dropdown(layers, value=layers[0], label="Layer")
                gr.Markdown("All channels of this layer")
                maps = gr.Plot(show_label=False)
            for event in (picture.change, layer.change):
                event(visit.look_inside, [picture, layer], maps, **figures)
    return app.queue(max_size=WAITING)


def _about(visit: Visit) -> str:
    card, accuracy = visit.card, visit.card.metrics.get("accuracy")
    measured = f", {accuracy:.1%} of its test images right" if isinstance(accuracy, float) else ""
    classes = ", ".join(map(literal, card.vocab[:20])) + (" and others" if len(card.vocab) > 20 else "")
    return f"{literal(card.architecture['name'])} trained on {literal(card.data)}{measured}. It knows: {classes}."


def literal(text: str) -> str:
    "A name, or a message with names in it, as Markdown shows it letter for letter."
    return re.sub(r"[^\w\s.,:/()-]|_", lambda o: f"&#{ord(o[0])};", printable(text))


def serve(
    app: "gr.Blocks",  # from `build_app`
    host: str = "127.0.0.1",  # address to listen on
    port: int = 7860,
    max_upload: int = 10,  # megabytes a picture may have
    block: bool = True,  # whether to stay until Ctrl-C
):
    "Serve the page: no share link, nothing from the network. Raises `InputError` where the port is taken."
    for name in ("no_proxy", "NO_PROXY"):  # gradio asks its own page whether it is up, through a proxy if one is set
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host, "127.0.0.1", "localhost"]))
    theme = gr.themes.Default(font=FONT, font_mono=["monospace"])
    try:
        return app.launch(
            server_name=host, server_port=port, max_file_size=max_upload * 10**6, share=False, show_error=False,
            theme=theme, css=CSS, footer_links=["api"], ssr_mode=False, enable_monitoring=False, quiet=True,
            prevent_thread_lock=not block,
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on: give another --port or --host") from error
