"""record_learner: a fastai Learner like any other, trained by a table of numbers."""

from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner

import cifar_fast.deploy.export  # noqa: F401 - patches the Learner
from bench.speedrun import RecordRuns
from cifar_fast.analysis.charts import plot_curves
from cifar_fast.data.loaders import fast_bs, image_dls
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import InputError
from cifar_fast.records.callbacks import TestTimeViews
from cifar_fast.records.recipes import record_learner
from cifar_fast.training.learner import custom_learner

TINY = dict(widths=(8, 16, 16), precision="fp32")


class Watch(Callback):
    "Notes sizes, rates and the bias's state, batch by batch."

    order = 20

    def before_fit(self):
        self.sizes, self.lrs, self.trained = [], [], []

    def after_pred(self):
        if self.training:
            self.sizes.append(self.xb[0].shape[-1])
            self.lrs.append([o["lr"] for o in self.opt.hypers])
            self.trained.append(self.model.whitening.bias.requires_grad)


@pytest.fixture
def trained(digits_dls, tmp_path):
    "A small Learner after two epochs, with what it watched."
    recipe = dict(epochs=2, whitening_share=0.5, sizes=(16,), **TINY)
    learn = record_learner(digits_dls, 94, path=tmp_path, cbs=Watch(), **recipe)
    learn.fit_record()
    return learn


def test_it_learns_by_its_recipe(trained):
    watch, n = trained.watch, len(trained.dls.train)
    assert n >= 25 and watch.sizes == [16] * n + [32] * n
    assert watch.trained == [True] * n + [False] * n
    lrs = torch.tensor(watch.lrs)
    assert (
        lrs[0].tolist() == [1.0] * 4 and lrs[n, 0] == 0 and torch.allclose(lrs[n, 1:], torch.full((3,), 0.5).double())
    )
    assert trained.validate(cbs=TestTimeViews(6))[1] > 0.8


def test_curves_show_the_filters_rate(trained):
    rates = plot_curves(trained).axes[2].lines[0].get_ydata()
    assert rates[0] == pytest.approx(trained.recipe.filter_lr)


def test_a_shorter_fit_still_ends_with_whole_images_and_an_earlier_one_leaves_nothing_behind(trained):
    trained.fit_one_cycle(1, 0.5)  # whose momentum is another
    trained.fit_record(1)
    watch, n = trained.watch, len(trained.dls.train)
    half = -(-n // 2)
    assert watch.sizes == [16] * half + [32] * (n - half) and watch.trained == [True] * half + [False] * (n - half)
    recipe = trained.recipe
    moms = [o["mom"] for o in trained.opt.hypers]
    assert moms == [recipe.momentum, recipe.momentum, recipe.filter_momentum, recipe.momentum]


def test_a_failed_fit_leaves_the_bias_trainable(trained):
    class Fails(Callback):
        def after_epoch(self):
            assert not self.model.whitening.bias.requires_grad
            raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError):
        trained.fit_record(1, cbs=Fails())
    assert trained.model.whitening.bias.requires_grad


def test_what_is_frozen_stays_so_and_trains_again_when_unfrozen(trained, tmp_path):
    def weights(select):
        return torch.cat([p.detach().flatten() for name, p in trained.model.named_parameters() if select(name)]).clone()

    body, norms = (lambda name: not name.startswith("head")), (lambda name: "norm" in name and name.endswith("bias"))
    trained.freeze()
    before = weights(body)
    trained.fit_record(1)
    trained.get_preds()
    assert torch.equal(weights(body), before) and not trained.model.whitening.bias.requires_grad
    trained.export("frozen.pkl")
    assert len(trained.dls.train_ds) == 1437 and load_learner(tmp_path / "frozen.pkl").recipe == trained.recipe
    trained.unfreeze()
    before = weights(norms)
    trained.fit_record(1)
    assert not torch.equal(weights(norms), before)


@pytest.mark.parametrize("args", [(-1,), (1.5,), (1, "auto"), (1, 0)])
def test_fits_of_unusable_numbers_are_refused(trained, args):
    with pytest.raises(InputError, match="give"):
        trained.fit_record(*args)


def test_a_learner_without_images_asks_for_some(trained):
    trained.export()
    loaded = load_learner(trained.path / "export.pkl")
    with pytest.raises(InputError, match="no training images"):
        loaded.fit_record(1)


def test_a_rate_of_0_leaves_its_parameters(digits_dls):
    learn = record_learner(digits_dls, 94, head_lr=0.0, **TINY)
    before, filters = learn.model.head.weight.clone(), [o.clone() for o in learn.model.groups.parameters()]
    learn.fit_record(1)
    assert torch.equal(learn.model.head.weight, before)
    assert not any(torch.equal(*pair) for pair in zip(learn.model.groups.parameters(), filters) if pair[1].ndim == 4)


def test_no_epochs_are_none(trained):
    before = trained.model.head.weight.clone()
    trained.fit_record(0)
    assert torch.equal(trained.model.head.weight, before)


def test_images_smaller_than_a_recipes_sizes_are_not_enlarged(digits):
    learn = record_learner(image_dls(digits.fewer(100, 50), size=20, device="cpu"), 90, cbs=Watch(), epochs=4, **TINY)
    learn.fit_record()
    assert set(learn.watch.sizes) == {16, 20}


def test_lr_find_sees_one_kind_of_batch(trained):
    trained.lr_find(num_it=2 * len(trained.dls.train), show_plot=False)
    assert set(trained.watch.sizes) == {16} and set(trained.watch.trained) == {True}


def test_whitening_sees_images_of_all_classes(digits, monkeypatch):
    order = digits.train_y.argsort()  # as a folder of images has them
    images = replace(digits, train_x=digits.train_x[order], train_y=digits.train_y[order])
    monkeypatch.setattr("cifar_fast.records.recipes.N_WHITENING", 100)
    seen = []
    monkeypatch.setattr("cifar_fast.records.recipes.RecordNet.whiten", lambda self, images: seen.append(images))
    learn = record_learner(image_dls(images, device="cpu"), 94, **TINY)
    assert len(seen[0]) <= 100
    all_images = torch.cat([xb for xb, _ in learn.dls.valid.new(dataset=learn.dls.train_ds, shuffle=False)])
    found = {int(images.train_y[(all_images - o).abs().flatten(1).sum(1).argmin()]) for o in seen[0]}
    assert found == set(range(10))


def test_larger_images_are_whitened_by_fewer(digits, monkeypatch):
    monkeypatch.setattr("cifar_fast.records.recipes.N_WHITENING", 1000)
    seen = []
    monkeypatch.setattr("cifar_fast.records.recipes.RecordNet.whiten", lambda self, images: seen.append(images.shape))
    for size in (16, 64):
        record_learner(image_dls(digits, size=size, device="cpu"), 94, **TINY)
    assert [shape[-1] for shape in seen] == [16, 64] and seen[0][0] > 700 and seen[1][0] < 360


def test_validation_batches_are_sized_by_the_pixels_that_are_fed(digits):
    learn = record_learner(image_dls(digits, size=96, device="cpu"), 94, **TINY)
    assert learn.dls.valid.bs <= fast_bs(96, torch.device("cpu")) < len(digits.test_y)


def test_what_works_on_a_learner_works_on_it(trained, tmp_path):
    interp = ClassificationInterpretation.from_learner(trained)
    assert interp.confusion_matrix().sum() == len(trained.dls.valid_ds)
    trained.lr_find(num_it=5, show_plot=False)
    trained.fit_one_cycle(1, 0.5)
    preds = trained.get_preds()[0]
    trained.export("record.pkl")
    again = load_learner(tmp_path / "record.pkl")
    with pytest.raises(InputError, match="has none"):
        again.whiten()
    assert torch.allclose(again.get_preds(dl=trained.dls.valid)[0], preds, atol=1e-5)
    predictor = Predictor(trained.export_safe("model"))
    image = trained.dls.valid_ds.x[0].permute(1, 2, 0).numpy()
    assert abs(predictor(image).probabilities[predictor(image).label] - preds[0].max()) < 1e-4


def test_the_callers_data_stay(digits_dls):
    before = digits_dls.train.bs, len(digits_dls.train.after_batch.fs)
    record_learner(digits_dls, 96, **TINY)
    assert (digits_dls.train.bs, len(digits_dls.train.after_batch.fs)) == before


@pytest.mark.parametrize("args, wanted", [
    ((99, {}), "90, 94, 96"), ((94, {"depths": 3}), "no 'depths'"), ((94, {"views": 5}), "1, 2 or 6"),
    ((94, {"flip": "never"}), "none, random, alternating"), ((94, {"sizes": (8,)}), "8 pixels are too small"),
    ((94, {"bs": 0}), "bs is 0: give 1 or more"), ((94, {"epochs": -1}), "epochs is -1"),
    ((94, {"head_lr": -0.1}), "at least 0"), ((94, {"wd": "no"}), "wd is 'no'"), ((94, {"bn_momentum": 5}), "0 to 1"),
    ((94, {"widths": ()}), "tuple of one count"), ((94, {"sizes": 16}), "tuple of counts"),
    ((94, {"hard": (1, 0)}), "shares above 0"), ((94, {"hard": 0.5}), "tuple of shares"),
])  # fmt: skip
def test_unusable_options_are_refused(digits_dls, args, wanted):
    with pytest.raises(InputError, match=wanted):
        record_learner(digits_dls, args[0], **args[1])
    with pytest.raises(InputError, match="1, 2 or 6"):
        TestTimeViews(3)


def test_cutout_is_bounded_by_what_the_network_sees(digits):
    dls = image_dls(digits.fewer(100, 50), size=10, device="cpu")
    with pytest.raises(InputError, match="from 0 to 9"):
        record_learner(dls, 96, **TINY)


def test_other_learners_have_no_recipe(digits_dls):
    with pytest.raises(InputError, match="fit_decay"):
        custom_learner(digits_dls, width=4).fit_record()


def test_the_same_seed_gives_the_same_weights(digits):
    def weights(runs, seed):
        runs.run(seed)
        return torch.cat([p.detach().flatten() for p in runs.learn.model.parameters()])

    one, other = (RecordRuns(digits.fewer(300, 60), 90, torch.device("cpu"), epochs=1, **TINY) for _ in range(2))
    first = weights(one, 3)
    assert torch.equal(weights(other, 3), first)
    assert not torch.equal(weights(one, 5), first) and torch.equal(weights(one, 3), first)  # whatever came before
