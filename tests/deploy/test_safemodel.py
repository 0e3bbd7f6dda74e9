"""Models saved without pickle: exact, strict, and never code."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from fastai.data.core import DataLoaders
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cifar_fast.data.loaders import image_dls
from cifar_fast.deploy import export
from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.deploy.safemodel import load_safe, normalise
from cifar_fast.errors import InputError
from cifar_fast.models.networks import build_model
from cifar_fast.models.transfer import transfer_model
from cifar_fast.training.learner import custom_learner, transfer_learner
from processes import Bomb

KEPT = Path(__file__).parents[1] / "kept/digits-format-1"


@pytest.fixture
def kept(tmp_path):
    "A copy of the model in tests/models."
    return shutil.copytree(KEPT, tmp_path / "model")


@pytest.fixture(params=["CustomCNN", "linear", "fastai"])
def learn(request, digits_dls, tmp_path):
    if request.param == "CustomCNN":
        learn = custom_learner(digits_dls, width=4, dense_width=8, n_convs=4, bn=False, precision="fp32")
    else:
        learn = transfer_learner(digits_dls, weights="none", head=request.param, size=48, precision="fp32")
    learn.path = tmp_path
    return learn


def test_the_round_trip_is_exact(learn, digits):
    folder = learn.export_safe("model", {"accuracy": 0.5})
    loaded = load_safe(folder)
    state, again = learn.model.state_dict(), loaded.model.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[o], again[o]) and state[o].dtype == again[o].dtype for o in state)
    xb = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)[:4]
    with torch.no_grad():
        assert torch.equal(learn.model.eval()(xb), loaded.model(xb))
        assert torch.allclose(loaded.logits(digits.test_x[:4].permute(0, 2, 3, 1)), loaded.model(xb), atol=1e-5)
    assert loaded.card.metrics == {"accuracy": 0.5} and loaded.card.data == "digits"
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_networks_built_by_name_are_those_of_the_learners():
    for head in ("linear", "fastai"):
        ours = build_model({"name": "resnet18", "n_out": 7, "head": head}).state_dict()
        fastais = transfer_model("resnet18", 7, head).state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in fastais.items()}


def test_a_model_of_format_1_stays_loadable(digits):
    loaded = load_safe(KEPT)
    right = loaded.logits(digits.test_x.permute(0, 2, 3, 1)).argmax(1) == digits.test_y
    assert right.float().mean().item() == pytest.approx(loaded.card.metrics["accuracy"], abs=0.01)


def test_other_loaders_are_refused(digits_dls, tmp_path):
    learn = custom_learner(digits_dls, width=4, precision="fp32")
    learn.dls, learn.path = DataLoaders.from_dsets(*[[(torch.zeros(3, 8, 8), 0)] * 4] * 2, bs=2), tmp_path
    with pytest.raises(InputError, match=r"learn\.export"):
        learn.export_safe("model")
    assert not (tmp_path / "model").exists()


def edit(folder, **changes):
    card = json.loads((folder / "model.json").read_text())
    card.update(changes)
    (folder / "model.json").write_text(signed({k: v for k, v in card.items() if v is not None}))


def signed(card):
    "The card as JSON with the hash that belongs to it: a forger can compute it too."
    rest = json.dumps({k: v for k, v in card.items() if k != "card_sha256"}, sort_keys=True)
    return json.dumps({**card, "card_sha256": hashlib.sha256(rest.encode()).hexdigest()})


def test_a_card_that_was_changed_is_refused(kept):
    text = (kept / "model.json").read_text()
    (kept / "model.json").write_text(text.replace('"stored_size": 32', '"stored_size": 33'))
    with pytest.raises(InputError, match="not as it was written"):
        load_safe(kept)


ARCHITECTURE = json.loads((KEPT / "model.json").read_text())["architecture"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "lacks 'onnx_sha256'"),
        ({"format": 3}, "format is 3"),
        ({"vocab": None}, "lacks 'vocab'"),
        ({"vocab": ["a"]}, "1 names for 10 outputs"),
        ({"vocab": "digits"}, "vocab does not fit"),
        ({"std": [0, 1, 1]}, "std does not fit"),
        ({"size": True}, "size does not fit"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"architecture": {"name": "os.system", "n_out": 10, "head": "linear"}}, "os.system"),
        ({"architecture": {**ARCHITECTURE, "width": 10**9}}, "width does not fit"),
        ({"architecture": {**ARCHITECTURE, "width": 5}}, "conv1"),
        ({"architecture": {**ARCHITECTURE, "depth": 5}}, "unknown parameter 'depth'"),
        ({"architecture": {"name": "CustomCNN"}}, "no parameter"),
        ({"architecture": {**ARCHITECTURE, "n_convs": 12}}, "12 convolutions"),
    ],
)
def test_what_does_not_fit_is_named(kept, changes, message):
    edit(kept, **changes)
    with pytest.raises(InputError, match=message):
        load_safe(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.bias"), r"lacks 'conv1\.bias'"),
        (lambda state: state.update(more=torch.zeros(1)), "has 'more'"),
        (lambda state: state.update({"conv1.bias": torch.zeros(3)}), r"'conv1\.bias' is \[3"),
        (lambda state: state.update({"conv1.bias": state["conv1.bias"].half()}), "float16"),
    ],
)
def test_weights_that_do_not_fit_are_named(kept, change, message):
    state = load_file(kept / "model.safetensors")
    change(state)
    save_file(state, kept / "model.safetensors")
    edit(kept, sha256=hashlib.sha256((kept / "model.safetensors").read_bytes()).hexdigest())
    with pytest.raises(InputError, match=message):
        load_safe(kept)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), b"", b"[" * 100_000, None])
def test_pickles_and_garbage_are_refused_and_nothing_runs(kept, name, content):
    if content is None:
        (kept / name).unlink()
    else:
        (kept / name).write_bytes(content)
    with pytest.raises(InputError):
        load_safe(kept)
    assert not Path("exploded").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda o: st.lists(o, max_size=3) | st.dictionaries(st.text(max_size=5), o, max_size=3),
    max_leaves=5,
)
FIELDS = json.loads((KEPT / "model.json").read_text())


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([*FIELDS, *(f"architecture.{o}" for o in ARCHITECTURE)]), JSON)
def test_fuzzed_cards_are_read_or_refused(name, value):
    card = json.loads(json.dumps(FIELDS))
    outer, _, inner = name.partition(".")
    if inner:
        card[outer][inner] = value
    else:
        card[outer] = value
    try:
        found = ModelCard.parse(signed(card))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert found.architecture["n_out"] == len(found.vocab)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_fuzzed_bytes_are_refused(content):
    with pytest.raises(InputError):
        ModelCard.parse(content)


def test_sizes_other_than_stored_are_resized_as_in_training(digits):
    dls = image_dls(digits, device="cpu", size=20)
    learn = custom_learner(dls, width=4, dense_width=8, precision="fp32")
    card = export.model_card(learn)
    xb = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)[:4]
    assert torch.allclose(normalise(digits.test_x[:4].permute(0, 2, 3, 1), card), xb, atol=1e-5)
