"""Model folders of networks that the package cannot build, and of sizes beyond the usual."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import cifar_fast.deploy.export  # noqa: F401 - patches export_safe onto Learner
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.loaders import image_dls
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.deploy.safemodel import load_safe
from cifar_fast.errors import InputError
from cifar_fast.models.networks import CustomCNN
from cifar_fast.records.recipes import record_learner
from cifar_fast.training.learner import custom_learner, fast_learner


class Mixer(nn.Module):
    "Patches as tokens, mixed across and along; two layers share their weights."

    def __init__(self, n_out=10, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.tokens, self.channels, self.again = nn.Linear(16, 16), nn.Linear(width, width), nn.Linear(width, width)
        self.again.weight = self.channels.weight
        self.head = nn.Linear(width, n_out)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        x = x + self.tokens(x).relu()
        x = x.transpose(1, 2)
        return self.head((x + self.again(self.channels(x).relu())).mean(1))


class Undecided(nn.Module):
    "Looks at what it computes to choose its way, which a graph cannot."

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y * 2 if y.mean().item() > 0 else y


@pytest.fixture(scope="module")
def mixer(tmp_path_factory, digits):
    "A Learner of a Mixer, not trained, and its saved model."
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    learn = fast_learner(
        image_dls(digits, device="cpu"), Mixer(), precision="fp32", path=tmp_path_factory.mktemp("mixer")
    )
    return learn, learn.export_safe("model", {"accuracy": float("nan")})


def test_a_predictor_needs_nobodys_code(mixer, digits):
    learn, folder = mixer
    predictor = Predictor(folder)
    images = digits.test_x[:20].permute(0, 2, 3, 1).numpy()
    found = np.array([list(o.probabilities.values()) for o in predictor(images)])
    wanted = learn.get_preds(dl=learn.dls.test_dl(list(digits.test_x[:20])))[0].numpy()
    assert np.abs(found - wanted).max() < 1e-4 and predictor.card.architecture["name"] == "Mixer"
    assert predictor.model is None


def test_the_card_is_valid_json_where_a_number_is_none(mixer):
    def refuse(name):
        raise AssertionError(name)

    content = json.loads((mixer[1] / "model.json").read_text(), parse_constant=refuse)
    assert content["metrics"]["accuracy"] is None


def test_weights_go_back_into_the_users_own_network(mixer, digits):
    learn, folder = mixer
    loaded = load_safe(folder, build=Mixer)
    state = learn.model.state_dict()
    assert all(torch.equal(o, state[name]) for name, o in loaded.model.state_dict().items())
    assert loaded.model.again.weight is loaded.model.channels.weight
    assert loaded.logits(digits.test_x[:2].permute(0, 2, 3, 1)).shape == (2, 10)
    with pytest.raises(InputError, match="build="):
        load_safe(folder)
    with pytest.raises(InputError, match=r"'head\.bias' is"):
        load_safe(folder, build=lambda: Mixer(7))
    for wrong in (3, lambda: 3):
        with pytest.raises(InputError, match="give a function that makes the network"):
            load_safe(folder, build=wrong)


def test_a_large_networks_graph_has_its_weights(mixer, tmp_path, monkeypatch):
    limit = "torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD"  # beyond it torch writes two files
    monkeypatch.setattr(limit, 0, raising=False)
    mixer[0].to_onnx(tmp_path / "model.onnx")
    assert Predictor(tmp_path / "model.onnx")(np.zeros((8, 8), np.uint8)).label in mixer[0].dls.vocab


def test_another_graph_in_its_place_is_refused(mixer, tmp_path):
    folder = shutil.copytree(mixer[1], tmp_path / "model")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" ")
    with pytest.raises(InputError, match="SHA-256"):
        Predictor(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"load_safe\(folder, build=\)"):
        Predictor(folder)


def test_what_a_graph_cannot_hold_is_said_in_a_line_and_the_rest_is_whole(digits_dls, tmp_path, capsys):
    learn = fast_learner(digits_dls, Undecided(), precision="fp32", path=tmp_path)
    folder = learn.export_safe("model")
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and not said.err and "\x1b" not in said.out
    assert "model.onnx is left out" in said.out and "data-dependent" in said.out
    assert not (folder / "model.onnx").exists()
    assert load_safe(folder, build=Undecided).card.architecture["name"] == "Undecided"


def test_without_the_extra_the_line_names_it(digits_dls, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fast_learner(digits_dls, Undecided(), precision="fp32", path=tmp_path).export_safe("model")
    assert "pip install 'cifar_fast[onnx]'" in capsys.readouterr().out


def test_a_network_that_was_changed_is_not_taken_for_what_it_was(digits_dls, tmp_path):
    learn = custom_learner(digits_dls, width=4, dense_width=8, precision="fp32", path=tmp_path)
    learn.model.dense2 = nn.Linear(8, 10, bias=False)
    assert json.loads((learn.export_safe("model") / "model.json").read_text())["format"] == 2


class OtherForward(CustomCNN):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.slow
def test_a_network_that_computes_otherwise_is_not_taken_for_what_it_was(digits_dls, tmp_path):
    changed = CustomCNN(width=4, dense_width=8)
    changed.relu1 = nn.GELU()
    for model in (OtherForward(width=4, dense_width=8), changed):
        learn = fast_learner(digits_dls, model, precision="fp32", path=tmp_path)
        assert json.loads((learn.export_safe("model") / "model.json").read_text())["format"] == 2


@pytest.mark.parametrize(
    "options", [dict(n_dense=17, width=2, dense_width=4), dict(n_convs=1, width=5000, dense_width=1)]
)
def test_large_networks_by_name_are_read_back(digits_dls, tmp_path, options):
    learn = custom_learner(digits_dls, precision="fp32", path=tmp_path, **options)
    assert load_safe(learn.export_safe("model")).card.format == 1


def test_a_record_network_of_two_groups_is_read_back(digits_dls, tmp_path):
    learn = record_learner(digits_dls, 90, widths=(4, 8), precision="fp32", path=tmp_path)
    assert load_safe(learn.export_safe("model")).card.architecture["widths"] == [4, 8]


def test_thousands_of_long_class_names_are_read_back(digits, tmp_path):
    names = [f"class {i:04} " + "x" * 300 for i in range(4000)]
    x, y = digits.train_x[:64], torch.arange(64)
    dls = image_dls(ImageSet.from_splits("many", names, (x, y), (x, y)), device="cpu")
    learn = fast_learner(dls, CustomCNN(4000, width=2, dense_width=4), precision="fp32", path=tmp_path)
    assert load_safe(learn.export_safe("model")).card.vocab == names


def test_a_device_that_an_onnx_graph_cannot_use_is_refused(mixer):
    with pytest.raises(InputError, match="leave the device 'warp' out"):
        Predictor(mixer[1], device="warp")


def test_an_architecture_that_no_card_can_hold_is_written_as_somebodys_own(digits_dls, tmp_path):
    learn = custom_learner(digits_dls, width=4, dense_width=8, path=tmp_path)
    learn.model.architecture["conv_dropout"] = 7.0  # as a subclass might note something of its own
    folder = learn.export_safe("model")
    card = json.loads((folder / "model.json").read_text())
    assert card["format"] in (1, 2) and Predictor(folder)(np.zeros((8, 8), np.uint8)).label in digits_dls.vocab


def test_a_graph_of_another_model_does_not_stay(digits_dls, tmp_path):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    fast_learner(digits_dls, model, path=tmp_path).export_safe("model")
    assert (tmp_path / "model/model.onnx").exists()
    folder = custom_learner(digits_dls, width=4, dense_width=8, path=tmp_path).export_safe("model")
    assert not (folder / "model.onnx").exists() and Predictor(folder).card.architecture["name"] == "CustomCNN"
