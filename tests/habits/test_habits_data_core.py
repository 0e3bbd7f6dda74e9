"""What people do with DataLoaders, datasets and `test_dl`, as in fastai's notebook 03_data.core."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fastai.data.core import show_at
from fastai.data.transforms import get_c, get_image_files
from fastai.torch_core import TensorCategory, TensorImage
from fastai.vision.core import PILImage
from PIL import Image

from habits.table import departs, fails_on_stock, is_stock


@pytest.fixture
def files(photos):
    return sorted(get_image_files(photos / "valid"))


def labels(dl) -> list[int]:
    return [int(y) for _, yb in dl for y in yb]


# DataLoaders


def test_train_and_valid(dls):
    assert dls.train is dls[0] and dls.valid is dls[1] and len(dls) >= 2


def test_train_ds_and_valid_ds(dls):
    assert len(dls.train_ds) == 16 and len(dls.valid_ds) == 8


def test_vocab(dls):
    assert list(dls.vocab) == ["bird", "cat", "dog", "frog"] and dls.vocab.o2i["dog"] == 2


def test_number_of_classes(dls):
    assert dls.c == get_c(dls) == 4


def test_one_batch(dls):
    xb, yb = dls.one_batch()
    assert xb.shape == (8, 3, 16, 16) and yb.shape == (8,) and xb.dtype == torch.float32 and yb.dtype == torch.int64


def test_types_of_a_batch(dls):
    xb, yb = dls.one_batch()
    assert isinstance(xb, TensorImage) and isinstance(yb, TensorCategory)


def test_a_batch_is_normalised(dls):
    xb, _ = dls.valid.one_batch()
    assert xb.min() < 0 and xb.abs().max() < 6


def test_batches_of_a_pass(dls):
    assert len(dls.train) == 2 and len(list(dls.train)) == 2 and len(list(dls.valid)) == len(dls.valid) == 1


def test_training_is_shuffled(dls):
    assert len({tuple(labels(dls.train)) for _ in range(4)}) > 1


def test_validation_is_in_order(dls):
    assert labels(dls.valid) == labels(dls.valid) == [int(dls.valid_ds[i][1]) for i in range(8)]


def test_all_images_come_once_a_pass(dls):
    assert sorted(labels(dls.train)) == sorted([0, 1, 2, 3] * 4)


def test_bs_of_a_loader(dls):
    assert dls.bs == dls.train.bs == 8


def test_another_bs_by_hand(dls):
    dls.train.bs = 4
    assert dls.one_batch()[0].shape[0] == 4 and len(dls.train) == 4


def test_drop_last_by_hand(dls):
    dls.train.bs, dls.train.drop_last = 5, True
    assert [len(yb) for _, yb in dls.train] == [5, 5, 5]


def test_a_last_batch_that_is_smaller(dls):
    dls.train.bs, dls.train.drop_last = 6, False
    assert [len(yb) for _, yb in dls.train] == [6, 6, 4]


@departs("batch norm cannot train on a last batch of one image: it joins the batch before it")
def test_a_last_batch_of_one(dls):
    dls.train.bs, dls.train.drop_last = 5, False
    assert [len(yb) for _, yb in dls.train] == ([5, 5, 5, 1] if is_stock(dls) else [5, 5, 6])


def test_device(dls):
    assert str(dls.device) == str(dls.train.device) == "cpu"


def test_to_a_device(dls):
    assert dls.to(torch.device("cpu")) is dls and dls.cpu() is dls


def test_to_a_device_by_its_name(dls):
    dls.to("cpu")
    assert dls.one_batch()[0].device.type == "cpu"


def test_the_device_put_in_place_by_its_name(dls):
    dls.device = "cpu"
    assert torch.device(dls.device).type == dls.one_batch()[0].device.type == "cpu"


@departs("a device that is not here is named in one line, at once", "'cuda:77' does not work here")
def test_a_device_that_is_not_here(dls):
    with pytest.raises(Exception) if is_stock(dls) else nullcontext():
        dls.to("cuda:77")
        dls.one_batch()


def test_iterating_over_the_loaders(dls):
    assert [len(o.dataset) for o in dls.loaders] == [16, 8]


def test_a_loader_put_in_place(dls):
    dls.valid = dls.train.new(shuffle=False)
    assert len(dls.valid_ds) == 16


def test_path(dls, tmp_path):
    dls.path = tmp_path
    assert dls.path == tmp_path


def test_n_inp(dls):
    assert dls.n_inp == 1


def test_new_empty(dls):
    empty = dls.new_empty()
    assert len(empty.train_ds) == 0 and list(empty.vocab) == list(dls.vocab)


# Datasets


def test_an_item(dls):
    image, label = dls.train_ds[0]
    assert int(label) in range(4) and np.array(image).size == 16 * 16 * 3


def test_the_last_item(dls):
    assert int(dls.valid_ds[-1][1]) == int(dls.valid_ds[7][1])


def test_an_item_out_of_range(dls):
    with pytest.raises(IndexError):
        dls.valid_ds[8]


def test_a_slice_of_items(dls):
    part = dls.train_ds[3:7]
    assert len(part) == 4


def test_several_items(dls):
    part = dls.train_ds[[1, 2]]
    assert len(part) == 2 and int(part[0][1]) == int(dls.train_ds[1][1])


def test_iterating_over_a_dataset(dls):
    assert len([int(y) for _, y in dls.valid_ds]) == 8


def test_the_splits(dls):
    train, valid = dls.splits
    assert dls.train_ds.splits == dls.valid_ds.splits == dls.splits and dls.n_subsets == 2
    assert (len(train), len(valid)) == (len(dls.train_ds), len(dls.valid_ds))
    assert sorted([*train, *valid]) == list(range(24))


def test_which_split_a_dataset_is(dls):
    assert (dls.train_ds.split_idx, dls.valid_ds.split_idx) == (0, 1) == (dls.split_idx, dls.valid.split_idx)


def test_show_at(dls):
    show_at(dls.train_ds, 3)


def test_show_an_item(dls):
    assert dls.train_ds.show(dls.train_ds[0]).get_title() in dls.vocab


def test_decode_an_item(dls):
    item = dls.valid_ds[0]
    assert str(dls.valid_ds.decode(item)[1]) in dls.vocab


def test_the_loss_of_a_dataset(dls):
    from fastai.losses import CrossEntropyLossFlat

    assert isinstance(getattr(dls.train_ds, "loss_func", None) or dls.loss_func, CrossEntropyLossFlat)


# test_dl


@pytest.mark.parametrize("how", ["files", "names", "PILImages", "arrays"])
def test_a_loader_over(dls, files, how):
    items = {
        "files": lambda: files,
        "names": lambda: [str(o) for o in files],
        "PILImages": lambda: [PILImage.create(o) for o in files],
        "arrays": lambda: [np.array(Image.open(o)) for o in files],
    }[how]()
    xb = dls.test_dl(items).one_batch()[0]
    assert torch.allclose(xb, dls.valid.one_batch()[0], atol=1e-2) or xb.shape == (8, 3, 16, 16)


def test_a_loader_over_files_is_fed_as_validation_images(dls, files):
    dl = dls.test_dl(files, with_labels=True)
    wanted = {int(y): x for x, y in zip(*dls.valid.one_batch())}
    got = {int(y): x for x, y in zip(*dl.one_batch())}
    assert all(got[k].mean().item() == pytest.approx(wanted[k].mean().item(), abs=0.2) for k in wanted)


def test_a_loader_over_files_has_no_labels(dls, files):
    assert len(dls.test_dl(files).one_batch()) == 1


def test_a_loader_over_files_with_labels(dls, files):
    dl = dls.test_dl(files, with_labels=True)
    assert [dls.vocab[int(o)] for o in dl.one_batch()[1]] == [o.parent.name for o in files]


def test_a_loader_over_files_with_another_bs(dls, files):
    assert len(dls.test_dl(files, bs=2)) == 4


def test_a_loader_over_files_is_in_order(dls, files):
    dl = dls.test_dl(files[::-1], with_labels=True)
    assert [dls.vocab[int(o)] for o in dl.one_batch()[1]] == [o.parent.name for o in files[::-1]]


def test_a_loader_over_files_is_not_augmented(dls, files):
    dl = dls.test_dl(files)
    assert torch.equal(dl.one_batch()[0], dl.one_batch()[0])


@fails_on_stock("a loader over no items cannot be made")
def test_a_loader_over_no_files(dls):
    assert len(dls.test_dl([])) == 0


@fails_on_stock("`PIL.Image` is none of its items, its own PILImage is")
def test_a_loader_over_images_of_pil(dls, files):
    assert dls.test_dl([Image.open(o) for o in files]).one_batch()[0].shape == (8, 3, 16, 16)


@fails_on_stock("tensors are taken for images with the channels last")
def test_a_loader_over_tensors_with_the_channels_first(dls, files):
    tensors = [torch.from_numpy(np.array(Image.open(o))).permute(2, 0, 1) for o in files]
    xb = dls.test_dl(tensors).one_batch()[0]
    assert torch.allclose(xb, dls.test_dl(files).one_batch()[0], atol=1e-5)


def test_a_label_that_there_is_not(dls, files, tmp_path):
    (tmp_path / "horse").mkdir()
    strange = tmp_path / "horse" / "0.png"
    strange.write_bytes(files[0].read_bytes())
    with pytest.raises(Exception, match="horse"):
        dls.test_dl([strange], with_labels=True).one_batch()
