"""What people do with loaders of another make, as in fastai's notebook 14a_callback.data, and with torch's own."""

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.data import CollectDataCallback, PartialDL, WeightedDL
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.learner import vision_learner
from torch import nn
from torchvision.models import resnet18

from habits.table import departs, is_stock, only


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def as_in(dls) -> dict:
    "The transforms of a training loader."
    return dict(num_workers=0, after_item=dls.train.after_item, after_batch=dls.train.after_batch)


@pytest.fixture
def pairs():
    "A dataset of torch: float images and labels."
    return [(torch.rand(3, 16, 16), i % 4) for i in range(16)]


def test_collect_data(learn):
    cb = CollectDataCallback()
    learn.fit(1, cbs=cb)
    assert len(cb.data) == 3 and cb.data[0][0][0].shape[0] == 8


def test_weighted_images(dls):
    weights = [float(int(dls.train_ds[i][1]) == 2) for i in range(16)]
    dl = WeightedDL(dls.train_ds, 8, weights, shuffle=True, **as_in(dls))
    assert {int(y) for _, yb in dl for y in yb} == {2}


def test_a_part_of_the_images_each_epoch(dls):
    dl = PartialDL(dls.train_ds, 4, 8, **as_in(dls))
    assert len(dl) == 2 and sum(len(yb) for _, yb in dl) == 8


def test_weighted_images_are_trained_on(learn):
    dls = learn.dls
    dls.train = WeightedDL(dls.train_ds, 8, np.ones(16), shuffle=True, device="cpu", **as_in(dls))
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


def test_a_loader_of_fastai_over_the_dataset(dls):
    dl = TfmdDL(dls.train_ds, bs=4, **as_in(dls))
    assert dl.one_batch()[0].shape == (4, 3, 16, 16)


def test_a_loader_of_torch_over_the_dataset(dls):
    dl = torch.utils.data.DataLoader(dls.train_ds, 4, collate_fn=lambda items: len(items))
    assert list(dl) == [4] * 4


def test_a_stock_learner_over_the_loaders(dls):
    learn = Learner(dls, network(), CrossEntropyLossFlat(), metrics=accuracy)
    learn.fit(1)
    assert len(learn.validate()) == 2 and learn.get_preds()[0].shape == (8, 4)


def test_the_loss_is_found_in_the_loaders(dls):
    learn = Learner(dls, network())
    learn.fit(1)
    assert learn.get_preds()[0].sum(1).allclose(torch.ones(8))


def test_vision_learner_over_the_loaders(dls):
    learn = vision_learner(dls, resnet18, pretrained=False, metrics=accuracy)
    learn.fit_one_cycle(1, 1e-3)
    assert learn.get_preds()[0].shape == (8, 4)


def test_predict_of_a_stock_learner_over_the_loaders(dls, photos):
    learn = Learner(dls, network(), CrossEntropyLossFlat())
    assert learn.predict(photos / "valid/cat/0.png")[0] in dls.vocab


def test_export_of_a_stock_learner_over_the_loaders(dls, photos):
    from fastai.learner import load_learner

    learn = Learner(dls, network(), CrossEntropyLossFlat())
    learn.export()
    assert load_learner("export.pkl").predict(photos / "valid/cat/0.png")[0] in dls.vocab


@departs("it needs images in memory", "needs DataLoaders of this package", of=("record",))
def test_lr_find_with_plain_loaders_of_torch(again, pairs):
    dls = DataLoaders(*(torch.utils.data.DataLoader(pairs, 8) for _ in range(2)))
    dls.c = 4
    learn = again(dls)
    before = [p.detach().clone() for p in learn.model.parameters()]
    assert 0 < learn.lr_find(show_plot=False).valley <= 10
    assert all(map(torch.equal, before, learn.model.parameters()))


@departs("it needs images in memory", "needs DataLoaders of this package", of=("record",))
def test_plain_loaders_of_torch(again, pairs):
    dls = DataLoaders(*(torch.utils.data.DataLoader(pairs, 8) for _ in range(2)))
    dls.c = 4
    learn = again(dls)
    learn.fit(1)
    assert learn.get_preds(dl=dls.valid)[0].shape == (16, 4) and len(learn.validate()) == 2


@departs("it needs images in memory", "needs DataLoaders of this package", of=("record",))
def test_loaders_of_fastai_over_a_dataset_of_torch(again, pairs):
    dls = DataLoaders.from_dsets(pairs, pairs, bs=8, num_workers=0, device="cpu")
    dls.c = 4
    learn = again(dls)
    learn.fit(1)
    assert learn.get_preds()[0].shape == (16, 4)


@departs("it needs images in memory", "needs DataLoaders of this package", of=("record",))
def test_loaders_of_a_data_block(again, make_dls):
    learn = again(make_dls("stock"))
    learn.fit(1)
    learn.show_results()
    assert learn.get_preds()[0].shape == (8, 4)


@only("stock", "custom", "transfer", "cached")
def test_predict_with_loaders_of_a_data_block(again, make_dls, photos):
    learn = again(make_dls("stock"))
    name, idx, probs = learn.predict(photos / "valid/cat/0.png")
    assert learn.dls.vocab[idx] == name and probs.shape == (4,)


@only("stock", "custom", "transfer", "cached")
def test_export_with_loaders_of_a_data_block(again, make_dls, photos):
    from fastai.learner import load_learner

    learn = again(make_dls("stock"))
    learn.export()
    assert load_learner("export.pkl").predict(photos / "valid/cat/0.png")[0] in learn.dls.vocab


def test_a_loader_of_torch_for_validation(learn, pairs):
    dl = torch.utils.data.DataLoader(pairs, 8)
    assert len(learn.validate(dl=dl)) == 2 and learn.get_preds(dl=dl)[0].shape == (16, 4)


def test_a_list_of_batches_for_validation(learn):
    batches = [(torch.rand(8, 3, 16, 16), torch.arange(8) % 4)]
    assert len(learn.validate(dl=batches)) == 2


def test_tensorboard_is_heard_after_an_interrupt(learn, tmp_path):
    pytest.importorskip("tensorboard")
    from fastai.callback.tensorboard import TensorBoardCallback

    class Stops(Callback):
        def after_batch(self):
            raise KeyboardInterrupt

    board = TensorBoardCallback(tmp_path / "logs", trace_model=False, log_preds=False)
    learn.add_cb(board)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Stops())
    assert learn.get_preds()[0].shape == (8, 4)


def test_tensorboard_with_pictures_of_predictions(learn, tmp_path):
    pytest.importorskip("tensorboard")
    from fastai.callback.tensorboard import TensorBoardCallback

    learn.fit(1, cbs=TensorBoardCallback(tmp_path / "logs", trace_model=False, log_preds=True))
    assert list((tmp_path / "logs").iterdir())


def test_files_of_the_items(dls):
    items = list(dls.valid.items)
    assert len(items) == 8 and len(dls.test_dl(items[:2], with_labels=True).one_batch()[1]) == 2


@departs("`items` are images in memory; their files stand in `files`")
def test_items_are_files(dls):
    first = dls.train_ds.items[0]
    assert hasattr(first, "name") if is_stock(dls) else dls.train_ds.files[0].endswith(".png")
