"""Bodies get fitting heads, and take the weights they should take."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cifar_fast.data.download import DownloadError
from cifar_fast.errors import InputError
from cifar_fast.models.networks import Features
from cifar_fast.models.transfer import load_weights, transfer_model
from cifar_files import Hostile
from servers import serving


@pytest.mark.parametrize(("head", "linears"), [("linear", [(512, 7)]), ("fastai", [(1024, 512), (512, 7)])])
def test_heads(head, linears):
    model = transfer_model("resnet18", 7, head, size=32)
    assert [(m.in_features, m.out_features) for m in model[1].modules() if isinstance(m, torch.nn.Linear)] == linears
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (3, linears[0][0])
        torch.testing.assert_close(model(features.as_subclass(Features)), model(x))


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "wide_resnet50_2"])
def test_other_resnets_get_fitting_heads(arch):
    with torch.device("meta"):
        model = transfer_model(arch, 3)
    assert model[1][-1].out_features == 3


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None, num_classes=200).state_dict()


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("half", [False, True])
def test_files_of_weights_become_the_body(state, tmp_path, name, half):
    given = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    weights = load_weights("resnet18", saved(given, tmp_path / name))
    model = transfer_model("resnet18", 10, size=32, weights=weights)
    reference = torchvision.models.resnet18(weights=None, num_classes=200).eval()
    reference.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in given.items()})
    reference.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().features(x), reference(x))
    assert weights.name == "w"


def prefixed(state, prefix):
    return {prefix + k: o for k, o in state.items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda o: prefixed(o, "module."),
        lambda o: prefixed(o, "_orig_mod.module."),
        lambda o: {
            "epoch": 3,
            "state_dict": prefixed(o, "model."),
            "optimizer": {"state": {0: {"step": torch.ones(1)}}},
        },
        lambda o: {"optimizer": {"momentum": torch.ones(2)}, "model": {"state_dict": prefixed(o, "backbone.")}},
        lambda o: {"model_state_dict": {**prefixed(o, "encoder."), "head.weight": torch.ones(3, 512)}, "best": 0.9},
        lambda o: {"net": o, "ema": {k: v * 0 for k, v in o.items()}, "step": torch.tensor(7)},
    ],
)
def test_state_dicts_inside_wrappers_and_under_prefixes_are_found(state, tmp_path, wrapped):
    weights = load_weights("resnet18", saved(wrapped(state), tmp_path / "w.pth"))
    body = transfer_model("resnet18", 10, size=32, weights=weights)[0]
    assert torch.equal(body[0].weight, state["conv1.weight"])
    assert torch.equal(body[7][1].bn2.running_var, state["layer4.1.bn2.running_var"])


def test_weights_none_are_none():
    weights = load_weights("resnet18", "none")
    assert (weights.name, weights.state, weights.stats) == ("none", None, None)


def with_file(arch, path):
    return transfer_model(arch, 10, size=32, weights=load_weights(arch, path))


def test_a_missing_key_and_a_wrong_shape_are_named(state, tmp_path):
    lacking = {k: v for k, v in state.items() if k != "layer2.0.conv1.weight"}
    with pytest.raises(InputError, match=r"no 'layer2\.0\.conv1\.weight'"):
        with_file("resnet18", saved(lacking, tmp_path / "a.pth"))
    wrong = {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(InputError, match=r"'conv1\.weight' has shape \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"):
        with_file("resnet18", saved(wrong, tmp_path / "b.pth"))
    with pytest.raises(InputError, match="resnet34"):
        with_file("resnet34", saved(state, tmp_path / "c.pth"))


@pytest.mark.parametrize("content", ["pickle", "torch", "text", "empty", "list", "missing"])
def test_files_that_are_no_weights_are_refused_and_run_nothing(tmp_path, content):
    path, owned = tmp_path / "w.pth", tmp_path / "owned"
    if content == "torch":
        torch.save({"conv1.weight": Hostile(owned)}, path)
    elif content == "list":
        torch.save([1, 2], path)
    elif content != "missing":
        path.write_bytes({"pickle": pickle.dumps(Hostile(owned)), "text": b"hello", "empty": b""}[content])
    with pytest.raises(InputError, match=r"w\.pth") as error:
        load_weights("resnet18", path)
    assert not owned.exists() and "\n" not in str(error.value)


def test_unknown_architectures_and_heads_are_named():
    with pytest.raises(InputError, match=r"vgg17.*resnet18"):
        load_weights("vgg17", "none")
    with pytest.raises(InputError, match="deep"):
        transfer_model("resnet18", head="deep")


@pytest.fixture
def imagenet_server(resnet18_file, monkeypatch):
    "Serves a file as torchvision's ResNet-18 weights; called with the bytes to send."
    content = resnet18_file.read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"

    def start(body=content):
        server = serving({name: body})
        url = f"{server.__enter__()}/{name}"
        monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
        return server

    return start


def test_imagenet_weights_are_downloaded_once(imagenet_server, resnet18_file):
    server = imagenet_server()
    found = load_weights("resnet18", "imagenet")
    server.__exit__(None, None, None)
    again = load_weights("resnet18", "auto")
    wanted = torch.load(resnet18_file, weights_only=True)["conv1.weight"]
    assert (found.name, again.name) == ("imagenet", "imagenet") and found.stats[0] == [0.485, 0.456, 0.406]
    assert torch.equal(found.state["conv1.weight"], wanted) and torch.equal(again.state["conv1.weight"], wanted)


def test_a_damaged_download_is_refused_and_auto_goes_on_with_random_weights(imagenet_server, capsys):
    server = imagenet_server(b"damaged")
    with pytest.raises(DownloadError, match="checksum"):
        load_weights("resnet18", "imagenet")
    assert load_weights("resnet18", "auto").name == "none"
    assert "RANDOM weights" in capsys.readouterr().err
    server.__exit__(None, None, None)
    assert not list((Path(torch.hub.get_dir()) / "checkpoints").iterdir())


def test_files_of_older_versions_of_torchvision_are_read(tmp_path):
    dense = torchvision.models.densenet121(weights=None).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): o for k, o in dense.items()}
    assert old.keys() != dense.keys()
    body = with_file("densenet121", saved(old, tmp_path / "dense.pth"))[0]
    assert torch.equal(body[0].norm5.weight, dense["features.norm5.weight"])
    mnas = torchvision.models.mnasnet0_5(weights=None).state_dict()  # which asks a file for its version
    body = with_file("mnasnet0_5", saved(mnas, tmp_path / "mnas.pth"))[0]
    assert torch.equal(body[0][0].weight, mnas["layers.0.weight"])


def test_a_prefix_is_found_whatever_a_file_lacks(state, tmp_path):
    given = {f"module.{k}": o for k, o in state.items() if "num_batches_tracked" not in k}
    assert torch.equal(with_file("resnet18", saved(given, tmp_path / "w.pth"))[0][0].weight, state["conv1.weight"])


def test_a_file_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_weights("resnet18", tmp_path / "w.pth")
