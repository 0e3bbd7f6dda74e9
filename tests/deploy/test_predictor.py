"""A saved model asked: every kind of input, both backends, several threads, and the script."""

import csv
import io
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_fast.data.loaders import image_dls
from cifar_fast.deploy import export  # noqa: F401 - to_onnx
from cifar_fast.deploy.predictor import Prediction, Predictor, find_images
from cifar_fast.deploy.safemodel import load_safe
from cifar_fast.errors import ImageError, InputError
from cifar_fast.training.learner import custom_learner, transfer_learner

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/kept/digits-format-1"


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, digits):
    "The kept model as ONNX."
    pytest.importorskip("onnxruntime")
    loaded = load_safe(KEPT)
    options = {k: v for k, v in loaded.card.architecture.items() if k not in ("name", "n_out", "size", "n_in")}
    learn = custom_learner(image_dls(digits, device="cpu"), precision="fp32", **options)
    learn.model.load_state_dict(loaded.model.state_dict())
    learn.path = tmp_path_factory.mktemp("onnx")
    assert learn.to_onnx("model.onnx") < 1e-4
    return learn.path / "model.onnx"


@pytest.fixture(scope="module", params=["torch", "onnx"])
def predictor(request):
    return Predictor(KEPT if request.param == "torch" else request.getfixturevalue("onnx_file"), bs=7)


@pytest.fixture
def pixels(digits):
    "uint8 (20, 32, 32, 3)."
    return digits.test_x[:20].permute(0, 2, 3, 1).contiguous().numpy()


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def test_all_kinds_of_input_give_the_same(predictor, pixels, tmp_path):
    image, path = pixels[0], tmp_path / "a.png"
    path.write_bytes(png(image))
    wanted = predictor(image)
    rgba = np.dstack([image, np.full((32, 32), 255, np.uint8)])
    for x in (path, str(path), png(image), Image.fromarray(image), image[..., 0], image / 255, rgba):
        assert predictor(x) == wanted
    assert isinstance(wanted, Prediction) and wanted.label == max(wanted.probabilities, key=wanted.probabilities.get)
    assert sum(wanted.probabilities.values()) == pytest.approx(1)


def test_batches_and_lists_are_answered_in_order(predictor, pixels):
    single = [predictor(o) for o in pixels]
    for x in (pixels, list(pixels)):
        found = predictor(x)
        assert [o.label for o in found] == [o.label for o in single]
        assert [o.probability for o in found] == pytest.approx([o.probability for o in single], abs=1e-5)
    assert predictor([]) == []


def test_it_says_what_the_learner_says(predictor, digits, pixels):
    labels = [int(o.label) for o in predictor(pixels)]
    assert (np.array(labels) == digits.test_y[:20].numpy()).mean() > 0.7


def test_torch_and_onnx_agree(onnx_file, pixels):
    one, two = Predictor(KEPT)(pixels), Predictor(onnx_file)(pixels)
    assert [o.label for o in one] == [o.label for o in two]
    assert [o.probability for o in one] == pytest.approx([o.probability for o in two], abs=1e-5)


def test_several_threads_get_their_own_answers(predictor, pixels):
    wanted = [predictor(o).label for o in pixels]
    with ThreadPoolExecutor(8) as pool:
        assert [o.label for o in pool.map(predictor, np.concatenate([pixels] * 5))] == wanted * 5


@pytest.mark.parametrize("bad", [b"", b"text", np.zeros((2, 2, 2, 2, 2)), np.full((1, 4, 4, 3), np.nan), 7, None])
def test_bad_input_is_one_exception(predictor, bad):
    with pytest.raises(ImageError):
        predictor(bad)


def test_a_stream_goes_on_after_a_bad_image(predictor, pixels):
    found = list(predictor.stream([pixels[0], b"text", pixels[1]]))
    assert isinstance(found[1], ImageError)
    assert [found[0], found[2]] == predictor([pixels[0], pixels[1]])


@pytest.mark.slow
def test_resnets_with_resizing_go_to_onnx_too(digits_dls, tmp_path, pixels):
    pytest.importorskip("onnxruntime")
    learn = transfer_learner(digits_dls, weights="none", size=48, precision="fp32")
    learn.path = tmp_path
    learn.export_safe("model")
    assert learn.to_onnx("model.onnx") < 1e-4
    one, two = Predictor(tmp_path / "model")(pixels[:3]), Predictor(tmp_path / "model.onnx")(pixels[:3])
    assert [o.probability for o in one] == pytest.approx([o.probability for o in two], abs=1e-5)


def test_what_is_no_model_is_one_line(tmp_path):
    (tmp_path / "m.onnx").write_bytes(pickle.dumps({}))
    for path in (tmp_path / "m.onnx", tmp_path / "n.onnx", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            Predictor(path)


def test_a_runs_folder_in_place_of_its_model_gets_the_right_name(tmp_path):
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/model.json").write_text("{}")
    with pytest.raises(InputError, match=r"give .*run/model$"):
        Predictor(tmp_path / "run")


def test_a_missing_onnxruntime_names_the_extra(monkeypatch, digits_dls):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"cifar_fast\[onnx\]"):
        Predictor("model.onnx")
    with pytest.raises(InputError, match=r"cifar_fast\[onnx\]"):
        custom_learner(digits_dls, width=4, precision="fp32").to_onnx("m.onnx")


def test_folders_are_looked_through(image_folder, tmp_path):
    root = image_folder({"train/a": 2, "train/b": 1})
    (root / "notes.txt").write_text("no image")
    assert [Path(o).relative_to(root).as_posix() for o in find_images([root])] == [
        "train/a/0.png", "train/a/1.png", "train/b/0.png",
    ]  # fmt: skip
    with pytest.raises(InputError, match="nowhere"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="is an address"):
        find_images(["https://example.com/a.jpg"])


def script(*args):
    command = [sys.executable, str(ROOT / "experiments/predict.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_script_goes_on_after_unreadable_files(image_folder):
    root = image_folder({"a": 3})
    (root / "a/1.png").write_text("not a picture")
    done = script(KEPT, root, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.returncode == 1 and len(rows) == 2 and rows[0]["file"].endswith("0.png")
    assert "1 of 3 files cannot be read" in done.stderr and "1.png" in done.stderr


def test_the_script_prints_json(image_folder):
    done = script(KEPT, image_folder({"a": 2}), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and len(found) == 2 and len(found[0]["probabilities"]) == 10


@pytest.mark.slow
def test_the_script_refuses_what_is_missing(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    missing = tmp_path / "nothing"
    for args in ((missing, image), (KEPT, missing), (KEPT,), (KEPT, image, "--device", "warp"), (KEPT, KEPT)):
        done = script(*args)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_onnx_model_needs_neither_torch_nor_fastai(onnx_file, tmp_path, pixels):
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    code = (
        "import sys\nfrom cifar_fast.deploy.predictor import Predictor\n"
        f"print(Predictor({str(onnx_file)!r})({str(tmp_path / 'a.png')!r}).label)\n"
        "print(sorted({'torch', 'fastai', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[1] == "[]", done.stderr


def test_a_folders_model_needs_no_fastai():
    code = f"import sys\nfrom cifar_fast.deploy.predictor import Predictor\nPredictor({str(KEPT)!r})\n"
    code += "print('fastai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
