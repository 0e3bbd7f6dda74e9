"""Networks of every family are frozen, cached, freed, saved and loaded alike."""

import pytest
import torch
from fastai.torch_core import set_seed

import cifar_fast.deploy.export
import cifar_fast.training.schedules  # noqa: F401 - fit_decay
from cifar_fast.analysis.featuremaps import layer_outputs
from cifar_fast.data.loaders import image_dls
from cifar_fast.deploy.safemodel import load_safe
from cifar_fast.errors import InputError
from cifar_fast.models.backbones import backbone
from cifar_fast.models.transfer import load_weights, transfer_model
from cifar_fast.training.learner import transfer_learner

LIGHT = [
    *(("squeezenet1_1", 32), ("googlenet", 32), ("mobilenet_v2", 32), ("mobilenet_v3_small", 32)),
    *(("efficientnet_b0", 32), ("mnasnet0_5", 32), ("shufflenet_v2_x0_5", 32), ("regnet_x_400mf", 32)),
    *(("timm/convnext_atto", 32), ("timm/vit_tiny_patch16_224", 32), ("timm/tf_efficientnet_lite0", 32)),
]
HEAVY = [("densenet121", 32), ("convnext_tiny", 32), ("timm/mixer_s16_224", 32)]
HEAVIEST = [
    *(("alexnet", 64), ("vgg11_bn", 32), ("inception_v3", 75), ("vit_b_32", 32), ("swin_t", 32), ("swin_v2_t", 32)),
    *(("maxvit_t", 224), ("timm/swin_tiny_patch4_window7_224", 64), ("timm/levit_128s", 64)),
]
FAMILIES = [
    *LIGHT,
    *(pytest.param(*o, marks=pytest.mark.slow) for o in HEAVY),
    *(pytest.param(*o, marks=[pytest.mark.slow, pytest.mark.long]) for o in HEAVIEST),
]


@pytest.fixture(scope="module")
def eighty_digits(digits):
    "64 training and 16 test images."
    return digits.fewer(64, 16)


def made(images, arch, size, **kwargs):
    set_seed(3)
    dls = image_dls(images, bs=32, device="cpu")
    return transfer_learner(dls, arch, "none", size=size, precision="fp32", opt="sgd", **kwargs)


def fit(learn):
    set_seed(4)
    learn.fit_decay(2, 3e-2, 1e-2)
    return {k: o.clone() for k, o in learn.model.state_dict().items()}


@pytest.mark.parametrize(("arch", "size"), FAMILIES)
def test_a_frozen_body_stays_as_it_is_cached_or_not_and_comes_back_by_name(eighty_digits, arch, size, tmp_path):
    cached, plain = made(eighty_digits, arch, size), made(eighty_digits, arch, size, cache=False)
    before = {k: o.clone() for k, o in plain.model[0].state_dict().items()}
    with_features, without = fit(cached), fit(plain)
    assert cached.cached_body.cache, "the features of the body were not taken"
    assert all(torch.equal(o, plain.model[0].state_dict()[k]) for k, o in before.items())
    for k, o in without.items():
        torch.testing.assert_close(with_features[k], o, rtol=1e-4, atol=1e-4)

    model = load_safe(cached.export_safe(tmp_path / "model")).model
    xb = cached.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    with torch.inference_mode():
        torch.testing.assert_close(model(xb), cached.model.eval()(xb))

    cached.unfreeze()
    cached.fit_one_cycle(1, slice(1e-4, 1e-2))
    first = next(iter(before))
    assert not torch.equal(cached.model[0].state_dict()[first], before[first])


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm/vit_tiny_patch16_224"])
def test_fastais_head_fits_maps_and_features_alike(eighty_digits, arch):
    learn = made(eighty_digits, arch, 32, head="fastai")
    assert [o.out_features for o in learn.model[1] if isinstance(o, torch.nn.Linear)] == [512, 10]
    assert learn.predict(eighty_digits.test_x[0])[0] in learn.dls.vocab


@pytest.mark.parametrize(
    ("arch", "size", "said"),
    [
        ("inception_v3", 32, "inception_v3 cannot take images of 32 pixels: choose a larger --size"),
        ("vgg17", 32, "vgg17"),
        ("timm/vit_tinny", 32, "no network of timm"),
        ("timm/hf-hub:someone/something", 32, "no network of timm"),
    ],
)
def test_what_a_network_cannot_do_is_said_before_training(eighty_digits, arch, size, said):
    with pytest.raises(InputError, match=said) as error:
        made(eighty_digits, arch, size)
    assert "\n" not in str(error.value)


def own_network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Dropout(0.5), torch.nn.Linear(6, 99),
    )  # fmt: skip


def test_a_function_of_ones_own_is_a_body_too(eighty_digits, tmp_path):
    path = tmp_path / "own.pth"
    torch.save(own_network().state_dict(), path)
    learn = transfer_learner(image_dls(eighty_digits, device="cpu"), own_network, path, precision="fp32")
    assert torch.equal(learn.model[0][0][0].weight, torch.load(path, weights_only=True)["0.weight"])
    assert (learn.arch, learn.weights, learn.model[1][-1].in_features) == ("own_network", "own", 6)


def pooling_first():
    return torch.nn.Sequential(
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(3, 6, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    )


class WithCode(torch.nn.Module):
    "Does more than its children."

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.out = torch.nn.Conv2d(3, 6, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.pool(self.conv(x).relu()).flatten(1))


@pytest.mark.parametrize(("function", "features"), [(own_network, 2 * 6), (pooling_first, 6 * 14**2), (WithCode, 6)])
def test_fastais_head_gets_the_maps_of_a_function_of_ones_own(eighty_digits, function, features):
    learn = made(eighty_digits, function, 32, head="fastai")
    first = next(o for o in learn.model[1] if isinstance(o, torch.nn.Linear))
    assert first.in_features == features
    assert learn.predict(eighty_digits.test_x[0])[0] in learn.dls.vocab


def test_a_network_is_known_by_its_name_without_its_memory(monkeypatch):
    def drawn(tensor, *args, **kwargs):
        assert tensor.is_meta, "memory was taken"

    monkeypatch.setattr(torch.nn.init, "normal_", drawn)
    with torch.device("meta"):
        state = backbone("regnet_y_128gf").build().state_dict()
    assert all(o.is_meta for o in state.values()) and sum(o.numel() for o in state.values()) > 6e8


@pytest.mark.parametrize("arch", [pytest.param("vit_b_32", marks=pytest.mark.slow), "timm/vit_tiny_patch16_224"])
def test_position_embeddings_are_resized_to_the_images(arch, tmp_path):
    network = backbone(arch).build(96)
    path = tmp_path / "vit.pth"
    torch.save({"state_dict": {f"model.{k}": o.half() for k, o in network.state_dict().items()}}, path)
    weights = load_weights(arch, path)
    small, same = (transfer_model(arch, 3, size=o, weights=weights)[0][0] for o in (64, 96))
    name = "encoder.pos_embedding" if arch == "vit_b_32" else "pos_embed"
    given = network.state_dict()[name]
    torch.testing.assert_close(same.state_dict()[name], given, atol=1e-3, rtol=1e-2)
    n = {"vit_b_32": (4, 9), "timm/vit_tiny_patch16_224": (16, 36)}[arch]
    assert (small.state_dict()[name].shape[1], given.shape[1]) == (n[0] + 1, n[1] + 1)


def test_weights_by_torchvisions_name_and_what_they_were_normalised_by(tmp_path):
    assert "IMAGENET1K_V2" in backbone("resnet50").entries()
    assert backbone("timm/tf_efficientnet_lite0").stats() == ([0.5] * 3, [0.5] * 3)
    path = tmp_path / "squeezenet.pth"
    torch.save(backbone("squeezenet1_1").build().state_dict(), path)
    assert load_weights("squeezenet1_1", path).stats[1] == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm/convnext_atto"])
def test_feature_maps_of_other_networks(arch):
    maps = layer_outputs(transfer_model(arch, 3, size=32).eval(), torch.zeros(1, 3, 32, 32))
    assert len(maps) > 5 and all(o.ndim == 3 and o.shape[1] == o.shape[2] for o in maps.values())
