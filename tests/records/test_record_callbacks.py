"""What the record recipes do beside a plain fit."""

from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from cifar_fast.data.loaders import image_dls
from cifar_fast.records.callbacks import TestTimeViews, shifts
from cifar_fast.records.recipes import record_learner

TINY = dict(widths=(8, 16, 16), precision="fp32")


class Trained(Callback):
    "Notes which images each epoch trains on."

    order = 0

    def before_fit(self):
        if not self.learn.lock.locked():
            self.epochs = []

    def before_train(self):
        self.epochs.append([])

    def before_batch(self):
        if self.training and hasattr(self.xb[0], "idxs"):
            self.epochs[-1] += self.xb[0].idxs.tolist()


@pytest.fixture
def learn(digits, tmp_path):
    "A small Learner whose last two epochs of four are to take the harder half of the images."
    dls = image_dls(digits.fewer(300, 100), device="cpu")
    res = record_learner(dls, 94, path=tmp_path, cbs=Trained(), epochs=4, hard=(1, 0.5), **TINY)
    yield res


def n_of_a_pass(learn):
    "Images that a whole pass trains on."
    return len(learn.dls.train) * learn.dls.train.bs


class KeepsLosses(Callback):
    "Keeps the losses that each epoch leaves."

    def before_fit(self):
        self.kept = []

    def after_train(self):
        self.kept.append(self.learn.hard_images.loss_of.clone())


def test_the_last_epochs_train_on_the_hardest_images(learn):
    losses = KeepsLosses()
    learn.fit_record(cbs=losses)
    n, bs = len(learn.dls.train_ds), learn.dls.train.bs
    first, second, third, fourth = (set(o) for o in learn.trained.epochs)
    assert len(first) == len(second) == n_of_a_pass(learn) and len(third) == len(fourth) == round(n / 2) // bs * bs
    hardest = [set(o.topk(round(n / 2)).indices.tolist()) for o in losses.kept[1:3]]
    assert third <= hardest[0] and fourth <= hardest[1] and hardest[0] != hardest[1]
    assert learn.dls.train.n == n and learn.dls.train.chosen is None
    assert learn.validate()[1] > 0.6


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_whatever_ends_a_fit_the_next_one_has_all_images(learn, error):
    class Ends(Callback):
        def after_batch(self):
            if self.training and self.epoch == 3:
                assert len(self.dls.train) < len(self.dls.train_ds) / 1.5 / self.dls.train.bs
                raise error("on purpose")

    with pytest.raises(error):
        learn.fit_record(cbs=Ends())
    assert learn.dls.train.n == len(learn.dls.train_ds)
    learn.fit_record(1)
    assert len(learn.trained.epochs[0]) == n_of_a_pass(learn)


@pytest.mark.parametrize("epoch", [0, 2])
def test_predictions_within_a_fit_change_nothing(learn, epoch):
    class Looks(Callback):
        order = 70

        def after_epoch(self):
            if self.training is False and self.epoch == epoch and not self.learn.lock.locked():
                self.learn.get_preds(ds_idx=0)

    learn.fit_record(cbs=Looks())
    sizes = [len(o) for o in learn.trained.epochs if o]
    assert sizes[0] == sizes[1] == n_of_a_pass(learn) and sizes[2] == sizes[3] < 0.6 * sizes[0]
    assert learn.dls.train.chosen is None


def test_where_no_loss_is_known_all_images_are_trained_on(learn):
    learn.recipe = replace(learn.recipe, hard=(0.5,))
    learn.fit_record(2)
    first, second = (len(o) for o in learn.trained.epochs)
    assert first == n_of_a_pass(learn) and second < 0.6 * first


def test_processes_that_share_the_images_tell_each_other_the_losses(learn, monkeypatch):
    told = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda losses, op: told.append(losses.isfinite().sum().item()))
    learn.dls.train.shard(0, 2)
    learn.recipe = replace(learn.recipe, hard=(1, 1e-6))
    learn.fit_record(2)
    bs = learn.dls.train.bs
    assert told[0] == len(learn.trained.epochs[0]) and told[1] == len(learn.trained.epochs[1]) == bs


def test_other_loaders_train_on_all_images(learn, capsys):
    plain = learn.dls.train_ds.x[:60].float().as_subclass(torch.Tensor) / 255, learn.dls.train_ds.y[:60]
    data = list(zip(*plain))
    learn.dls = DataLoaders(DataLoader(data, bs=20, shuffle=True), DataLoader(data, bs=20), device="cpu")
    learn.fit_record(2)
    assert "All images are trained on" in capsys.readouterr().out


def test_fits_by_other_schedules_and_lr_find_take_all_images(learn):
    learn.fit_one_cycle(2, 0.5)
    assert [len(o) for o in learn.trained.epochs] == [n_of_a_pass(learn)] * 2
    learn.lr_find(num_it=3 * len(learn.dls.train), show_plot=False)
    assert {len(o) for o in learn.trained.epochs[:3]} == {n_of_a_pass(learn)}


def test_a_share_smaller_than_a_batch_is_a_batch(learn):
    learn.recipe = replace(learn.recipe, hard=(1, 1e-6))
    learn.fit_record(2)
    assert len(learn.trained.epochs[1]) == learn.dls.train.bs


def test_views_are_the_weighted_mean_of_flips_and_shifts(digits_dls):
    learn = record_learner(digits_dls, 94, **TINY)
    learn.model.eval()
    x = learn.dls.valid.one_batch()[0][:8].as_subclass(torch.Tensor)
    down, up = shifts(x)
    assert torch.equal(down[:, :, 1:, 1:], x[:, :, :-1, :-1]) and torch.equal(up[:, :, :-1, :-1], x[:, :, 1:, 1:])
    with torch.no_grad():
        one, mirrored = learn.model(x), learn.model(x.flip(-1))
        shifted = [learn.model(o) for o in (down, down.flip(-1), up, up.flip(-1))]
    for views, wanted in ((1, one), (2, (one + mirrored) / 2), (6, (one + mirrored) / 4 + sum(shifted) / 8)):
        with learn.added_cbs(TestTimeViews(views)):
            logits = learn.get_preds(dl=learn.dls.valid, act=torch.nn.Identity())[0][:8]
        assert torch.allclose(logits, wanted, atol=1e-4)
