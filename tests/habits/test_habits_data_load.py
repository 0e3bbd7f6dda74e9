"""What people do with one DataLoader and its transforms, as in fastai's notebooks 02_data.load and 03_data.core."""

import pytest
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, TensorImage
from fasttransform import Pipeline, Transform

from habits.table import departs


def labels(dl) -> list[int]:
    return [int(y) for _, yb in dl for y in yb]


# DataLoader


def test_new_with_another_bs(dls):
    dl = dls.valid.new(bs=3)
    assert [len(yb) for _, yb in dl] == [3, 3, 2] and dls.valid.bs != 3


def test_new_with_shuffling(dls):
    dl = dls.valid.new(shuffle=True)
    assert sorted(labels(dl)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_new_without_shuffling(dls):
    dl = dls.train.new(shuffle=False, drop_last=False)
    assert labels(dl) == labels(dl) == [int(dls.train_ds[i][1]) for i in range(16)]


def test_new_without_batch_transforms(dls):
    xb, _ = dls.valid.new(after_batch=[IntToFloatTensor]).one_batch()
    assert 0 <= xb.min() and xb.max() <= 1


def test_new_with_a_function_on_batches(dls):
    dl = dls.valid.new(after_batch=Pipeline([IntToFloatTensor(), lambda x: x]))
    assert dl.one_batch()[0].max() <= 1


def test_new_over_another_dataset(dls):
    assert len(dls.train.new(dataset=dls.valid_ds).dataset) == 8


def test_indices_of_ones_own(dls):
    dl = dls.valid.new(get_idxs=lambda: [7, 0, 3])
    dl.n = 3
    got = [int(y) for _, yb in dl for y in yb]
    assert got == [int(dls.valid_ds[i][1]) for i in (7, 0, 3)]


def test_get_idxs(dls):
    assert list(map(int, dls.valid.get_idxs())) == list(range(8))


def test_shuffled_indices(dls):
    assert sorted(map(int, dls.train.get_idxs())) == list(range(16))


def test_a_sampler_by_weights(dls):
    wanted = [i for i in range(16) if int(dls.train_ds[i][1]) == 2]
    dl = dls.train.new(get_idxs=lambda: (wanted * 4)[:16], shuffle=False)
    assert set(labels(dl)) == {2}


def test_shuffling_of_ones_own(dls):
    dl = dls.train.new(shuffle_fn=lambda idxs: list(idxs)[::-1], shuffle=True)
    assert labels(dl) == [int(dls.train_ds[i][1]) for i in reversed(range(16))]


def test_the_seed_of_a_loader(dls):
    import random

    orders = []
    for _ in range(2):
        dls.train.rng = random.Random(3)
        orders.append(labels(dls.train))
    assert orders[0] == orders[1]


def test_two_loaders_at_once(dls):
    assert all(len(a[1]) == len(b[1]) for a, b in zip(dls.train, dls.train.new()))


def test_first_of_a_loader(dls):
    from fastcore.basics import first

    assert first(dls.train)[0].shape == (8, 3, 16, 16)


def test_next_of_an_iterator(dls):
    assert next(iter(dls.train))[1].shape == (8,)


def test_a_loader_without_batches(dls):
    empty = dls.valid.new(dataset=dls.new_empty().valid_ds)
    with pytest.raises(Exception):  # noqa: B017
        empty.one_batch()


def test_a_loader_is_a_fastai_loader(dls):
    assert isinstance(dls.train, TfmdDL) and isinstance(dls.train, DataLoader) and isinstance(dls, DataLoaders)


def test_workers_may_be_asked_for(make_dls, dls):
    assert make_dls(dls.kind, num_workers=0).one_batch()[0].shape[0] == 8


# Transforms


def test_the_batch_transforms(dls):
    assert any(isinstance(o, Normalize) for o in dls.valid.after_batch.fs)


def test_a_batch_transform_by_its_name(dls):
    assert isinstance(dls.valid.after_batch.normalize, Normalize)


def test_add_a_batch_transform(dls):
    class Black(Transform):
        order = 200

        def encodes(self, x: TensorImage):
            return x * 0

    dls.add_tfms([Black()], "after_batch")
    assert not dls.one_batch()[0].any() and not dls.valid.one_batch()[0].any()


def test_add_a_batch_transform_to_training_alone(dls):
    class Black(Transform):
        order = 200

        def encodes(self, x: TensorImage):
            return x * 0

    dls.add_tfms([Black()], "after_batch", "train")
    assert not dls.one_batch()[0].any() and dls.valid.one_batch()[0].any()


def test_a_transform_with_split_idx_of_training(dls):
    class Black(Transform):
        order, split_idx = 200, 0

        def encodes(self, x: TensorImage):
            return x * 0

    dls.add_tfms([Black()], "after_batch")
    assert not dls.one_batch()[0].any() and dls.valid.one_batch()[0].any()


def test_a_transform_of_labels(dls):
    class Next(Transform):
        def encodes(self, y: TensorCategory):
            return (y + 1) % 4

    before = labels(dls.valid)
    dls.valid.after_batch.add(Next())
    assert labels(dls.valid) == [(o + 1) % 4 for o in before]


def test_decode_a_batch(dls):
    xb, _ = dls.valid.decode(dls.valid.one_batch())
    assert 0 <= xb.min() and 100 < xb.max() <= 255


def test_decode_a_batch_to_items(dls):
    items = dls.valid.decode_batch(dls.valid.one_batch(), max_n=3)
    assert len(items) == 3 and str(items[0][1]) in dls.vocab


def test_show_batch(dls):
    import matplotlib.pyplot as plt

    dls.show_batch(max_n=4, nrows=2, figsize=(4, 4))
    titles = {ax.get_title() for ax in plt.gcf().axes}
    plt.close("all")
    assert titles <= set(dls.vocab) | {""} and titles - {""}


def test_show_a_validation_batch(dls):
    dls.valid.show_batch(max_n=2)


def test_show_a_given_batch(dls):
    dls.train.show_batch(dls.train.one_batch(), max_n=2)


def test_show_one_image_again_and_again(dls):
    dls.train.show_batch(unique=True, max_n=2)


def test_show_batch_without_showing(dls):
    _, _, items = dls.train.show_batch(show=False, max_n=2)
    assert len(items) == 2


@departs("batches are made whole, and have no single items to transform", "have no after_item")
def test_item_transforms_of_a_new_loader(dls):
    dls.train.new(after_item=lambda o: o)


@departs("batches are made whole, and have no single items to transform", "have no before_batch")
def test_transforms_of_lists_of_items(dls):
    dls.train.new(before_batch=lambda o: o)


@departs("batches are made whole, and have no single items to transform", "have no create_item")
def test_items_of_ones_own(dls):
    dls.train.new(create_item=lambda i: None)


@departs("batches are made whole, and have no single items to transform", "have no after_item")
def test_item_transforms_put_in_place(dls):
    dls.train.after_item.add([Transform(lambda o: o)])
    dls.one_batch()


@departs("batches are made whole, and have no single items to transform", "have no create_item")
def test_items_of_ones_own_put_in_place(dls):
    plain = dls.train.create_item
    dls.train.create_item = lambda i: plain(i)
    dls.one_batch()


@departs("batches are made whole, and have no single items to transform", "have no after_item")
def test_item_transforms_added(dls):
    dls.add_tfms([Transform(lambda o: o)], "after_item")
