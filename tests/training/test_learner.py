"""Learners as a user makes them."""

import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback, FetchPredsCallback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ShowGraphCallback
from fastai.data.core import Datasets
from fastai.data.transforms import Categorize, IntToFloatTensor, Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.learner import vision_learner  # noqa: F401 - its dispatch for show_results
from torch import nn
from torchvision.models import resnet34

import cifar_fast.records.recipes
import cifar_fast.training.schedules  # noqa: F401 - fit_decay
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError
from cifar_fast.training.adapt import as_lean
from cifar_fast.training.callbacks.guards import Interruptible
from cifar_fast.training.callbacks.measure import TrainAccuracy
from cifar_fast.training.learner import custom_learner, fast_learner, transfer_learner
from cifar_fast.training.precision import DeviceMixedPrecision

SMALL = {"width": 4, "dense_width": 16}


def trained(digits, epochs=1, find=False, **kwargs):
    "A small Learner after a fit from seed 0, and what lr_find said before it where asked."
    set_seed(0)
    learn = custom_learner(image_dls(digits.fewer(200, 40), flip="random", device="cpu", **kwargs), **SMALL)
    found = learn.lr_find(show_plot=False, num_it=30).valley if find else None
    learn.fit(epochs, 1e-3)
    return learn, found


def test_lr_find_leaves_the_fit_as_it_was_and_says_the_same_again(digits):
    (without, _), (one, first), (_, second) = (trained(digits, find=o) for o in (False, True, True))
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(without.model.parameters(), one.model.parameters()))
    assert one.lr_find(show_plot=False, num_it=30) == one.lr_find(show_plot=False, num_it=30)


def test_lr_find_that_is_too_short_for_a_suggestion_tries_all_rates_or_is_one_line(digits, capsys):
    learn, _ = trained(digits)
    rising = {"show_plot": False, "start_lr": 10, "end_lr": 1e4}  # the loss rises at once, as after a long fit
    assert 10 <= learn.lr_find(**rising).valley <= 1e4
    assert "all rates are tried" in capsys.readouterr().out
    with pytest.raises(InputError, match="no rate can be suggested") as error:
        learn.lr_find(**rising, stop_div=True)
    assert "\n" not in str(error.value)


def test_an_exported_learner_holds_no_paths_of_this_system(digits_dls, tmp_path):
    learn = custom_learner(digits_dls, path=tmp_path, **SMALL)
    learn.export()
    with zipfile.ZipFile(tmp_path / "export.pkl") as file:
        content = file.read(next(o for o in file.namelist() if o.endswith("data.pkl")))
    assert not [o for _, o, _ in pickletools.genops(content) if isinstance(o, str) and "PosixPath" in o]
    loaded = load_learner(tmp_path / "export.pkl")
    assert loaded.path == tmp_path and isinstance(loaded.dls.path, Path)


def pipeline(dls):
    return [[f"{o.name} {vars(o)}" for o in dl.after_batch.fs] for dl in dls.loaders]


def test_the_callers_dls_stay_as_they_were(digits_dls, resnet18_file):
    before = pipeline(digits_dls)
    transfer = transfer_learner(digits_dls, weights=resnet18_file, size=48)
    custom = custom_learner(digits_dls, size=64, **SMALL)
    assert pipeline(digits_dls) == before
    assert digits_dls.one_batch()[0].shape[-1] == 32
    assert transfer.dls.one_batch()[0].shape[-1] == 48
    assert custom.dls.one_batch()[0].shape[-1] == 64


def test_transfer_normalises_by_the_statistics_of_the_weights(digits_dls, resnet18_file):
    def mean(learn):
        return next(o.mean for o in learn.dls.after_batch.fs if isinstance(o, Normalize)).flatten().tolist()

    assert mean(transfer_learner(digits_dls, weights=resnet18_file)) == pytest.approx([0.485, 0.456, 0.406])
    own = digits_dls.after_batch[-1].mean.flatten().tolist()
    assert mean(transfer_learner(digits_dls, weights="none")) == pytest.approx(own)


def test_a_new_transfer_learner_is_frozen_but_for_its_head(digits_dls, resnet18_file):
    learn = transfer_learner(digits_dls, weights=resnet18_file)
    assert [n for n, p in learn.model.named_parameters() if p.requires_grad] == ["1.2.weight", "1.2.bias"]
    assert sum(p.numel() for p in learn.model[1].parameters()) == 5130
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def test_fine_tune_trains_the_body_with_smaller_rates(digits, resnet18_file):
    learn = transfer_learner(image_dls(digits.fewer(128, 20), device="cpu"), weights=resnet18_file, precision="fp32")
    before = learn.model[0][0].weight.clone()
    learn.fine_tune(1, 1e-3)
    assert not torch.equal(before, learn.model[0][0].weight)
    assert learn.opt.hypers[0]["lr"] < learn.opt.hypers[-1]["lr"]


def test_the_body_that_is_loaded_is_the_one_in_the_file(digits_dls, resnet18_file):
    state = torch.load(resnet18_file, weights_only=True)
    learn = transfer_learner(digits_dls, weights=resnet18_file)
    assert torch.equal(learn.model[0][0].weight, state["conv1.weight"])
    assert torch.equal(learn.model[0][7][1].conv2.weight, state["layer4.1.conv2.weight"])
    assert (learn.arch, learn.weights) == ("resnet18", "resnet18-random")


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (custom_learner, {"opt": "adagrad"}, "adagrad"),
        (custom_learner, {"precision": "fp8"}, "fp8"),
        (transfer_learner, {"head": "deep", "weights": "none"}, "deep"),
        (transfer_learner, {"arch": "resnet19", "weights": "none"}, "resnet19"),
        (transfer_learner, {"frozen_bn": "never", "weights": "none"}, "never"),
    ],
)
def test_options_that_do_not_exist_are_named(digits_dls, make, options, named):
    with pytest.raises(InputError, match=named):
        make(digits_dls, **options)


def test_a_resnet_may_be_named_by_its_function_as_in_vision_learner(digits_dls):
    assert transfer_learner(digits_dls, resnet34, weights="none").arch == "resnet34"


@pytest.mark.parametrize("opt", ["adam", "sgd"])
def test_one_step_is_torchs_own_optimizer_with_its_defaults(digits_dls, opt):
    set_seed(0)
    learn = custom_learner(digits_dls, opt=opt, precision="fp32", dropout=0, logit_dropout=0, **SMALL)
    twin = custom_learner(digits_dls, precision="fp32", dropout=0, logit_dropout=0, **SMALL).model
    twin.load_state_dict(learn.model.state_dict())
    xb, yb = (o.as_subclass(torch.Tensor) for o in learn.dls.one_batch())
    learn.create_opt()
    reference = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[opt](twin.parameters(), lr=1e-3)
    for model, optimizer in ((learn.model, learn.opt), (twin, reference)):
        torch.nn.functional.cross_entropy(model.train()(xb), yb).backward()
        optimizer.step()
    for ours, torchs in zip(learn.model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-6)


def test_a_custom_learner_learns_digits(digits):
    learn = custom_learner(image_dls(digits, device="cpu"), precision="fp32", width=8, dense_width=64)
    learn.fit_one_cycle(2, 3e-3)
    assert learn.validate()[1] > 0.8


class Named(nn.Module):
    "A network that has names for its own which a Learner has, too."

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3 * 32 * 32, 10))
        for name in OF_LEARNERS:
            setattr(self, name, torch.zeros(2))

    def forward(self, x):
        return x.flatten(1) @ self.weights


OF_LEARNERS = (
    "arch", "pretrained", "progress", "precision", "batch_graphs", "mixed_precision", "interruptible", "stopwatch",
    "sharded_trainer", "metric", "recipe",
)  # fmt: skip


def test_a_network_may_have_attributes_of_any_name(digits_dls):
    learn = as_lean(Learner(digits_dls, Named(), loss_func=CrossEntropyLossFlat(), cbs=Interruptible()), "fp32")
    assert (learn.arch, learn.weights, learn.precision) == ("Named", None, "fp32")
    learn.remove_cb(learn.progress)
    with learn.no_bar():
        learn.fit(1, cbs=TrainAccuracy(n=50))
    with pytest.raises(InputError, match="record_learner"):
        learn.fit_record()


def test_a_learner_that_keeps_no_curves_is_refused(digits_dls):
    with pytest.raises(InputError, match="default_cbs=False"):
        as_lean(Learner(digits_dls, nn.Linear(2, 2), loss_func=CrossEntropyLossFlat(), default_cbs=False))


def test_lazy_layers_learn_their_sizes_before_an_optimizer_asks(digits_dls):
    net = nn.Sequential(nn.LazyConv2d(4, 3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    learn = fast_learner(digits_dls, net, precision="fp32")
    with learn.no_bar():
        learn.fit(2, 1e-2)
    assert learn.validate()[1] > 0.5 and net[1].num_batches_tracked == 2 * len(digits_dls.train)


def test_predictions_that_fail_at_once_leave_nothing_locked(digits_dls):
    class Unready(Callback):
        def before_fit(self):
            raise ValueError("not ready")

    learn = custom_learner(digits_dls, precision="fp32", **SMALL)
    for _ in range(2):
        with pytest.raises(ValueError, match="not ready"), learn.no_bar():
            learn.get_preds(cbs=Unready())
    with learn.no_bar():
        assert len(learn.get_preds()[0]) == 360


def test_a_callback_that_predicts_does_not_wait_for_predictions_to_end(digits_dls):
    learn = custom_learner(digits_dls, precision="fp32", cbs=FetchPredsCallback(), **SMALL)
    with learn.no_bar():
        learn.fit(1)
        fetched = learn.fetch_preds.preds[0]
        assert torch.equal(fetched, learn.get_preds()[0]) and learn.validate()[1] > 0
    assert learn.fetch_preds.preds[0] is fetched


def test_one_precision_replaces_another(digits_dls):
    learn = custom_learner(digits_dls, precision="bf16", **SMALL)
    assert learn.precision == "bf16" and learn.to_fp16().precision == "fp16" and learn.to_fp32().precision == "fp32"
    learn.to_bf16().fit(1)
    assert not torch.is_autocast_enabled("cpu")
    learn.add_cb(MixedPrecision("bf16"))
    with pytest.raises(InputError, match="two precisions"):
        learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("make", [custom_learner, transfer_learner])
def test_tta_sees_training_augmentations_and_leaves_the_data_as_they_were(digits, make, capsys):
    options = SMALL if make is custom_learner else {"weights": "none"}
    dls = image_dls(digits.fewer(100, 50), flip="random", translate=4, device="cpu")
    learn = make(dls, precision="fp32", **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        plain, targs = learn.get_preds()
        capsys.readouterr()
    with learn.added_cbs(ShowGraphCallback()):
        (augmented, _), (mixed, found) = learn.tta(beta=0), learn.tta(1, None, 2, beta=0.5)
    assert hasattr(learn, "progress")
    assert capsys.readouterr().out == ""
    with learn.no_bar():
        again = learn.get_preds()[0]
    assert augmented.shape == mixed.shape == plain.shape and torch.equal(found, targs)
    assert not torch.allclose(augmented, plain, atol=1e-3) and torch.equal(again, plain)


def test_a_size_that_the_cutout_would_blank_is_refused(digits):
    dls = image_dls(digits, cutout=20, device="cpu")
    with pytest.raises(InputError, match="blanks images of 16 pixels"):
        custom_learner(dls, size=16)


def test_the_same_seed_gives_the_same_weights(digits):
    def weights():
        set_seed(5)
        learn = custom_learner(image_dls(digits, flip="random", translate=2, cutout=4, device="cpu"), **SMALL)
        learn.fit_decay(1, 1e-3, 1e-4)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    assert torch.equal(weights(), weights())


def test_fastai_dataloaders_of_other_kinds_work(digits):
    pairs = [(TensorImage(x), str(int(y))) for x, y in zip(digits.train_x[:96], digits.train_y[:96])]
    dsets = Datasets(
        range(96), [[lambda i: pairs[i][0]], [lambda i: pairs[i][1], Categorize()]], splits=[range(64), range(64, 96)]
    )
    dls = dsets.dataloaders(bs=32, num_workers=0, after_batch=IntToFloatTensor(), device="cpu")
    learn = transfer_learner(dls, weights="none", precision="fp32")
    learn.fit(1)
    assert isinstance(learn, Learner) and learn.model[1][2].out_features == 10


def test_a_precision_that_nobody_asked_for_gives_way_to_one_added_by_hand(digits_dls, monkeypatch):
    monkeypatch.setattr("cifar_fast.training.precision.has_fast_bf16", lambda device: True)
    learn, types = custom_learner(digits_dls, **SMALL), []
    look = Callback(after_pred=lambda self: types.append(self.pred.dtype))
    learn.fit(1, cbs=[look, DeviceMixedPrecision("fp16")])
    assert set(types) == {torch.float16} and learn.precision == "bf16"
    types.clear()
    learn.fit(1, cbs=[look])
    assert set(types) == {torch.bfloat16} and learn.mixed_precision.learn is learn
    learn.add_cb(MixedPrecision("fp16"))
    learn.fit(1)
    assert learn.precision == "fp16" and not torch.is_autocast_enabled("cpu")
