"""The cached fit is the uncached fit; features never stand in where they would not be exact."""

import psutil
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import load_learner
from fastai.torch_core import TensorImage, set_seed
from fasttransform import Transform

import cifar_fast.training.schedules  # noqa: F401 - fit_decay
from cifar_fast.data.augment import Erase
from cifar_fast.data.loaders import image_dls
from cifar_fast.training.callbacks.averages import StochasticAverage
from cifar_fast.training.callbacks.measure import TrainAccuracy
from cifar_fast.training.frozen import CachedBody, FeatureTensors
from cifar_fast.training.learner import transfer_learner


class BatchSpy(Callback):
    "Notes what each training batch holds."

    order, needs_images = 12, False

    def before_fit(self):
        self.shapes, self.labels = [], []

    def before_batch(self):
        if self.training:
            self.shapes.append(tuple(self.xb[0].shape[1:]))
            self.labels.append(self.yb[0].clone())


@pytest.fixture(scope="module")
def few_digits(digits):
    "320 training and 96 test images."
    return digits.fewer(320, 96)


@pytest.fixture
def make(few_digits, resnet18_file):
    "Makes a transfer learner on the few digits; options of `image_dls` go in `dls`."

    def _make(dls=None, **kwargs):
        set_seed(3)
        kwargs = {"weights": resnet18_file, "precision": "fp32", "opt": "sgd", **kwargs}
        return transfer_learner(image_dls(few_digits, device="cpu", **(dls or {})), **kwargs)

    return _make


def fit(learn, n_epoch=2, **kwargs):
    spy = BatchSpy()
    set_seed(4)
    learn.fit_decay(n_epoch, 3e-2, 1e-2, cbs=[spy, *kwargs.pop("cbs", [])], **kwargs)
    return spy


def head(learn):
    return torch.cat([p.detach().flatten() for p in learn.model[1].parameters()])


def trained_on_features(spy):
    return all(len(o) == 1 for o in spy.shapes)


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
@pytest.mark.parametrize("head_name", ["linear", "fastai"])
def test_cached_fit_equals_the_uncached_fit(make, flip, head_name):
    cached, plain = make({"flip": flip}, head=head_name), make({"flip": flip}, head=head_name, cache=False)
    assert torch.equal(head(cached), head(plain))
    spy, plain_spy = fit(cached), fit(plain)
    assert trained_on_features(spy) and not trained_on_features(plain_spy)
    assert all(torch.equal(a, b) for a, b in zip(spy.labels, plain_spy.labels, strict=True))
    torch.testing.assert_close(head(cached), head(plain), rtol=0, atol=1e-4)
    assert cached.recorder.values[-1][-1] == pytest.approx(plain.recorder.values[-1][-1], abs=0.011)


def test_features_agree_with_the_body(make):
    learn = make()
    fit(learn, 1)
    dl = learn.dls.train.new(shuffle=False)
    features = learn.cached_body.loaded[learn.dls.train_ds].x
    learn.model.eval()
    with torch.no_grad():
        wanted = torch.cat([learn.model.features(xb) for xb, _ in dl])
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)


def test_a_part_of_the_features_is_mirrored_as_they_are(make):
    learn = make({"flip": "alternating"})
    fit(learn, 1)
    features = learn.cached_body.loaded[learn.dls.train_ds]
    part, idxs = features.subset(torch.arange(8)), torch.arange(8)
    for epoch in range(2):
        assert torch.equal(part.batch(idxs, epoch)[0], features.batch(idxs, epoch)[0])


def test_body_is_bit_identical_after_training_and_needs_no_gradient(make):
    learn = make(cache=False)
    before = {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    fit(learn, 1)
    assert all(torch.equal(v, before[k]) for k, v in learn.model[0].state_dict().items())
    assert not any(p.requires_grad for p in learn.model[0].parameters())


def test_frozen_bn_train_moves_statistics_and_turns_the_cache_off(make, capsys):
    learn = make(frozen_bn="train")
    before = {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    spy = fit(learn, 1)
    moved = {k for k, v in learn.model[0].state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("running" in k or "num_batches" in k for k in moved)
    assert not trained_on_features(spy)
    assert "its batch norms train" in capsys.readouterr().out


def test_batch_norms_keep_their_statistics_while_a_body_is_fine_tuned(make):
    learn = make(frozen_bn="always", cbs=StochasticAverage(0.5))
    before = {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    learn.unfreeze()
    fit(learn, 1)
    after = learn.model[0].state_dict()
    statistics = {k for k in before if "running" in k}
    assert statistics and all(torch.equal(after[k], before[k]) for k in statistics)
    assert all(not torch.equal(after[k], before[k]) for k in before if k.endswith("weight"))


def test_outside_a_fit_the_learner_is_the_whole_model_on_images(make):
    learn = make()
    fit(learn, 1)
    assert learn.dls.one_batch()[0].shape[1:] == (3, 32, 32)
    logits = learn.model.eval()(learn.dls.valid.one_batch()[0])
    preds, _ = learn.get_preds()
    torch.testing.assert_close(logits.softmax(1).detach().as_subclass(torch.Tensor), preds, rtol=1e-4, atol=1e-5)
    assert learn.predict(learn.dls.valid_ds[0][0])[0] in learn.dls.vocab


def test_an_exception_in_the_fit_leaves_the_learner_on_images(make):
    class Fails(Callback):
        def after_step(self):
            raise ZeroDivisionError

    learn = make()
    with pytest.raises(IndexError):  # fastai indexes the empty message
        learn.fit(1, cbs=Fails())
    assert learn.dls.one_batch()[0].shape[1:] == (3, 32, 32)
    assert learn.validate()[0] > 0 and not learn.cached_body.active


class Noise(Transform):
    "Noise, by a transform without split_idx."

    order = 100

    def encodes(self, x: TensorImage):
        return x + 0.1 * torch.randn_like(x)


def noisy(loaders):
    "A callback that adds noise, to these loaders, before features are made."
    return lambda: Callback(before_fit=lambda self: self.dls.add_tfms([Noise()], "after_batch", loaders))


@pytest.mark.parametrize(
    ("dls", "cbs", "reason"),
    [
        ({"translate": 2}, [], "RandomTranslate"),
        ({}, [MixUp], "mix_up"),
        ({}, [ActivationStats], "hooks look into it"),
        ({}, [noisy([0])], "Noise"),
        ({}, [noisy([0, 1])], "Noise"),
    ],
)
def test_what_features_cannot_express_turns_the_cache_off(make, capsys, dls, cbs, reason):
    spy = fit(make(dls), 1, cbs=[cb() for cb in cbs])
    assert not trained_on_features(spy)
    assert capsys.readouterr().out.count(reason) == 1


def test_an_unknown_callback_that_reads_batches_gets_images(make):
    class LooksAtImages(Callback):
        def before_batch(self):
            assert self.xb[0].shape[1:] == (3, 32, 32)

    assert not trained_on_features(fit(make(), 1, cbs=[LooksAtImages()]))
    assert not trained_on_features(fit(make(), 1, cbs=[Callback(before_batch=lambda self: None)]))


def test_features_are_kept_for_the_next_fit_and_made_anew_when_anything_changes(make, capsys):
    learn = make()

    def computed():
        fit(learn, 1)
        return capsys.readouterr().out.count("Features of")

    assert computed() == 2
    assert computed() == 0
    with torch.no_grad():
        learn.model[0][0].weight.mul_(1.01)
    assert computed() == 2
    learn.dls.valid_ds.x[0] = 0
    assert computed() == 1
    learn.dls.train_ds.x[0] = 0
    assert computed() == 1


def test_unfreezing_trains_on_images_and_forgets_the_features(make):
    learn = make()
    fit(learn, 1)
    learn.unfreeze()
    before = learn.model[0][0].weight.clone()
    assert not trained_on_features(fit(learn, 1))
    assert not torch.equal(before, learn.model[0][0].weight)
    assert not learn.cached_body.cache


def test_a_body_that_is_unfrozen_in_the_middle_of_a_fit_trains_from_then_on(make):
    class Unfreezes(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                self.learn.unfreeze()

    learn = make()
    before, n = learn.model[0][0].weight.clone(), len(learn.dls.train)
    spy = fit(learn, 2, cbs=[Unfreezes()])
    assert [len(o) for o in spy.shapes] == [1] * n + [3] * n
    assert not torch.equal(before, learn.model[0][0].weight)
    accuracy = learn.recorder.values[-1][-1]
    assert accuracy == pytest.approx(learn.validate()[1], abs=1e-6)  # of the body as it is now


@pytest.mark.parametrize(
    ("change", "on_features"),
    [
        (lambda learn, images: learn.dls.train.after_batch.add([Erase()]), False),
        (lambda learn, images: setattr(learn, "dls", image_dls(images, device="cpu")), True),
    ],
)
def test_loaders_that_are_changed_in_a_fit_are_looked_at_again(make, few_digits, change, on_features, capsys):
    class Changes(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                change(self.learn, few_digits)

    learn = make()
    n = len(learn.dls.train)
    spy = fit(learn, 2, cbs=[Changes()])
    assert {len(o) for o in spy.shapes[n:]} == {1 if on_features else 3}
    assert ("from here on: Erase" in capsys.readouterr().out) is not on_features
    assert len(spy.shapes) == n + len(learn.dls.train)
    assert learn.recorder.values[-1][-1] == pytest.approx(learn.validate()[1], abs=0.011)


def test_saved_and_exported_models_are_whole(make, tmp_path):
    learn = make({"valid": "holdout"}, path=tmp_path)
    fit(learn, 1, cbs=[SaveModelCallback(monitor="accuracy")])
    state = torch.load(tmp_path / "models/model.pth", weights_only=True)
    assert set(state) == set(learn.model.state_dict())
    learn.export()
    assert (tmp_path / "export.pkl").stat().st_size < 60e6
    item = learn.dls.valid_ds[0][0]
    loaded = load_learner(tmp_path / "export.pkl")
    torch.testing.assert_close(loaded.predict(item)[2], learn.predict(item)[2], rtol=1e-4, atol=1e-5)


def test_train_accuracy_and_lr_find_work_on_features(make):
    learn = make()
    fit(learn, 2, cbs=[TrainAccuracy()])
    measured = learn.recorder.values[-1][list(learn.recorder.metric_names).index("train_accuracy") - 1]
    preds, targs = learn.get_preds(ds_idx=0)
    assert measured == pytest.approx((preds.argmax(1) == targs).float().mean().item(), abs=0.004)
    before = head(learn)
    assert learn.lr_find(num_it=10, show_plot=False).valley > 0
    assert torch.equal(before, head(learn))


def test_features_on_disk_are_read_by_others_and_made_anew_where_damaged(make, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path))
    first, second, third = (make(cache_on_disk=True) for _ in range(3))
    fit(first, 1)
    capsys.readouterr()
    fit(second, 1)
    assert capsys.readouterr().out.count("read from") == 2
    for path in tmp_path.glob("features-*"):
        path.write_bytes(path.read_bytes()[:100])
    fit(third, 1)
    assert "read from" not in capsys.readouterr().out
    assert torch.equal(head(first), head(second)) and torch.equal(head(first), head(third))


def test_a_disk_that_takes_no_features_ends_no_training(make, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path / "file"))
    learn = make(cache_on_disk=True)
    assert trained_on_features(fit(learn, 1)) and len(learn.recorder.values) == 1
    assert capsys.readouterr().out.count("not kept for other runs") == 2


def test_fine_tuning_leaves_the_features_that_learners_share(make, capsys):
    shared = {}
    learn = make(cache=shared)
    fit(learn, 1)
    learn.unfreeze()
    fit(learn, 1)
    other = make(cache=shared)
    other.fit(1, cbs=MixUp())
    capsys.readouterr()
    for again in (other, make(cache=shared)):
        assert trained_on_features(fit(again, 1)) and "Features of" not in capsys.readouterr().out


def test_features_too_large_for_memory_are_mapped(make, monkeypatch, tmp_path, capsys):
    plain = make()
    fit(plain, 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path / "cache"))
    mapped = make()
    fit(mapped, 1)
    assert "in a mapped file" in capsys.readouterr().out
    assert torch.equal(head(plain), head(mapped))
    assert not list((tmp_path / "cache").iterdir())


def test_half_precision_caches_what_the_uncached_fit_computes(make):
    cached, plain = make(precision="bf16"), make(precision="bf16", cache=False)
    fit(cached)
    fit(plain)
    features = cached.cached_body.loaded[cached.dls.train_ds]
    assert isinstance(features, FeatureTensors) and features.x.dtype == torch.bfloat16
    torch.testing.assert_close(head(cached), head(plain), rtol=0, atol=2e-2)


def test_the_cache_is_not_pickled(make, tmp_path):
    learn = make(path=tmp_path)
    fit(learn, 1)
    learn.export("a.pkl")
    assert load_learner(tmp_path / "a.pkl")._grab_cbs(CachedBody)[0].cache == {}


def test_heads_that_pool_otherwise_do_not_take_each_others_features(digits, resnet18_file):
    dls, shared = image_dls(digits.fewer(100, 50), device="cpu"), {}
    for head, n_features in (("linear", 512), ("fastai", 1024), ("linear", 512)):
        learn = transfer_learner(dls, weights=resnet18_file, head=head, cache=shared, cache_on_disk=True)
        learn.fit_decay(1, 1e-3)
        assert {o.shape[1] for o in shared.values()} == {n_features}


def test_a_small_head_trains_in_one_thread_and_what_follows_has_all_of_them(make):
    class Counter(Callback):
        needs_images, seen = False, ()

        def before_batch(self):
            self.seen += (torch.get_num_threads(),)
            if self.epoch == 1:
                raise ZeroDivisionError("on purpose")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counter = Counter()
        with pytest.raises(ZeroDivisionError):
            fit(make(), cbs=[counter])
        assert set(counter.seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
