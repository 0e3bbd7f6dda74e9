"""The page on which a model is tried."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio")
from cifar_fast.deploy.app import Visit, build_app, serve
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import InputError

KEPT = Path(__file__).parents[1] / "kept/digits-format-1"


@pytest.fixture
def model(tmp_path, digits):
    "The kept model with two example images."
    folder = shutil.copytree(KEPT, tmp_path / "model")
    (folder / "examples").mkdir()
    for i in range(2):
        pixels = digits.test_x[i].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"examples/{i}.png")
    return folder


@pytest.fixture
def visit():
    return Visit(Predictor(KEPT))


def test_a_picture_gives_bars_and_a_line(visit, model):
    bars, line = visit.predict(str(model / "examples/0.png"))
    assert len(bars) == 10 and line.startswith(f"**{max(bars, key=bars.get)}**")


def test_a_bad_file_gives_the_error_without_the_servers_path(visit, tmp_path):
    (tmp_path / "bad.png").write_text("hello")
    bars, line = visit.predict(str(tmp_path / "bad.png"))
    assert bars is None and "cannot be used" in line and "bad.png" in line and str(tmp_path) not in line
    assert visit.look_inside(str(tmp_path / "bad.png"), "conv1") is None


def test_layers_are_drawn_of_a_network_that_does_not_predict_meanwhile(visit, model):
    assert "conv1" in visit.layers()
    visit.predictor.model.register_forward_hook(lambda *args: pytest.fail("the network that predicts was looked into"))
    figure = visit.look_inside(str(model / "examples/0.png"), "conv2")
    assert sum(bool(ax.images) for ax in figure.axes) == 8


def test_where_it_looks_is_drawn_for_the_class_that_is_said(visit, model, tmp_path):
    pytest.importorskip("captum")
    assert visit.why_no_look() == ""
    path = str(model / "examples/0.png")
    bars, figure = visit.predict(path)[0], visit.look(path)
    assert [o.get_title() for o in figure.axes[1:]] == [
        f"{view}:\n{max(bars, key=bars.get)}" for view in ("Grad-CAM", "integrated gradients")
    ]
    (tmp_path / "bad.png").write_text("hello")
    assert visit.look(str(tmp_path / "bad.png")) is visit.look(None) is None
    assert not any(o._forward_hooks for o in visit.predictor.model.modules())


def test_where_a_look_is_not_possible_a_line_says_so(visit, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert "explain" in visit.why_no_look() and "\n" not in visit.why_no_look()
    visit.predictor.model = None
    assert "ONNX graph" in visit.why_no_look()


def test_examples_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        build_app(KEPT, tmp_path / "nowhere")


def test_a_missing_gradio_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "cifar_fast.deploy.app", raising=False)
    with pytest.raises(InputError, match=r"cifar_fast\[app\]"):
        import cifar_fast.deploy.app  # noqa: F401


@pytest.fixture
def served(model):
    app = build_app(model)
    yield serve(app, port=7897, block=False)[1]
    app.close()


@pytest.mark.slow
def test_a_visit_in_a_browser(served, browser_page, tmp_path, digits):
    page, outside = browser_page(1000), []
    page.on("request", lambda o: outside.append(o.url) if o.url.startswith("http") and "127.0.0.1" not in o.url else 0)
    page.goto(served)
    page.wait_for_selector("input[type=file]", state="attached")
    Image.fromarray(digits.test_x[2].permute(1, 2, 0).numpy()).save(tmp_path / "digit.png")
    page.set_input_files("input[type=file]", tmp_path / "digit.png")
    page.wait_for_selector("#line :text('sure')")
    assert page.inner_text("#line").startswith(str(int(digits.test_y[2])))
    page.wait_for_selector("#look img, #no-look")
    for name, message in (("bad.png", "This file cannot be used: bad.png"), ("bad.txt", "Invalid file type")):
        (tmp_path / name).write_text("hello")
        page.reload()
        page.wait_for_selector("input[type=file]", state="attached")
        page.set_input_files("input[type=file]", tmp_path / name)
        page.wait_for_selector(f":text('{message.split(':')[0]}')")
        assert message in page.inner_text("body")
    assert outside == []


@pytest.mark.slow
def test_programs_ask_the_same_page(served, model):
    from gradio_client import Client, handle_file

    bars, line = Client(served, verbose=False).predict(handle_file(model / "examples/1.png"), api_name="/predict")
    assert line.startswith(f"**{bars['label']}**")


@pytest.mark.slow
def test_an_upload_that_is_too_large_is_refused(served):
    import requests

    answers = []
    for megabytes in (1, 11):
        file = {"files": ("a.png", b"0" * megabytes * 10**6)}
        answers.append(requests.post(f"{served}gradio_api/upload", files=file, timeout=30).status_code)
    assert answers == [200, 413]
