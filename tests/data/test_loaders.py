"""Batches from the resident tensor work everywhere that fastai's do."""

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.torch_core import TensorCategory, TensorImage, set_seed
from fastai.vision.learner import vision_learner  # noqa: F401 - its dispatch shows images
from matplotlib import pyplot as plt
from PIL import Image

import cifar_fast.training.schedules  # noqa: F401 - fit_one_cycle
from cifar_fast.data.loaders import TensorDL, cifar_dls, image_dls
from cifar_fast.data.tensors import ImageTensors
from cifar_fast.errors import InputError
from cifar_fast.training.learner import custom_learner


def first_images(digits, n):
    return replace(digits, train_x=digits.train_x[:n], train_y=digits.train_y[:n])


@pytest.fixture(scope="module")
def learn(digits, tmp_path_factory):
    "A small network, trained for an epoch on digits."
    set_seed(0)
    dls = image_dls(digits, device="cpu")
    learn = custom_learner(dls, precision="fp32", width=8, dense_width=32, path=tmp_path_factory.mktemp("learn"))
    learn.fit_one_cycle(2, 5e-3)
    return learn


def test_batches_are_fastais_types_and_normalised(digits_dls):
    xb, yb = digits_dls.one_batch()
    assert isinstance(xb, TensorImage) and isinstance(yb, TensorCategory)
    assert xb.shape == (64, 3, 32, 32) and yb.shape == (64,) and xb.dtype == torch.float32 and yb.dtype == torch.int64
    whole = torch.cat([o[0] for o in digits_dls.train]).as_subclass(torch.Tensor)
    assert whole.mean().item() == pytest.approx(0, abs=1e-3) and whole.std().item() == pytest.approx(1, abs=1e-3)
    assert (list(digits_dls.vocab), digits_dls.c) == ([str(i) for i in range(10)], 10)


def epoch(dl):
    return torch.cat([xb.idxs for xb, _ in dl])


def test_an_epoch_shows_each_image_once_in_another_order(digits_dls):
    one, two = epoch(digits_dls.train), epoch(digits_dls.train)
    assert sorted(one.tolist()) == sorted(two.tolist()) == list(range(1437))
    assert not torch.equal(one, two)
    assert epoch(digits_dls.valid).tolist() == list(range(360))


def test_the_seed_decides_the_order_whatever_else_is_drawn(digits):
    orders = []
    for draws in (0, 5):
        set_seed(1)
        dl = image_dls(digits, device="cpu").train
        orders.append(epoch(dl))
        for _ in range(draws):
            torch.rand(1), random.random(), np.random.rand()
        orders.append(epoch(dl))
    assert torch.equal(orders[0], orders[2]) and torch.equal(orders[1], orders[3])


@pytest.mark.parametrize(("n", "sizes"), [(65, [65]), (129, [64, 65]), (66, [64, 2]), (40, [40]), (128, [64, 64])])
def test_a_last_batch_of_one_joins_the_one_before(digits, n, sizes):
    dls = image_dls(first_images(digits, n), device="cpu")
    assert [len(xb) for xb, _ in dls.train] == sizes and len(dls.train) == len(sizes)


@pytest.mark.parametrize("n", [2, 65])
def test_few_images_train_with_batch_norm(digits, n):
    learn = custom_learner(image_dls(first_images(digits, n), device="cpu"), precision="fp32", width=4, dense_width=8)
    learn.fit(1)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())


def test_one_training_image_is_refused(digits):
    with pytest.raises(InputError, match="needs two"):
        image_dls(first_images(digits, 1), device="cpu")


def test_drop_last_drops(digits_dls, digits):
    single = image_dls(first_images(digits, 129), device="cpu").train
    for dl, n in ((digits_dls.train.new(drop_last=True), 22), (single.new(drop_last=True), 2)):
        assert len(dl) == n and [len(xb) for xb, _ in dl] == [64] * n


def test_passes_may_take_some_of_the_images(digits):
    chosen = torch.tensor([5, 3, 1430, 7])
    weights = torch.zeros(len(digits.train_y))
    weights[7] = 1
    train = image_dls(digits, bs=2, device="cpu").train
    ordered, weighted = train.new(shuffle=False), train.new(weights=weights)
    for dl, wanted in ((train, {5, 3, 1430, 7}), (ordered, [5, 3, 1430, 7]), (weighted, {7})):
        n = len(dl)
        dl.take(chosen)
        idxs = [i for xb, _ in dl for i in xb.idxs.tolist()]
        assert type(wanted)(idxs) == wanted and len(idxs) == 4 and len(dl) == 2
        assert len(dl.new()) == n
        dl.take(None)
        assert len(dl) == n == len(list(dl))


def test_batches_say_which_images_they_are_whatever_transforms_do(digits):
    def loses(x: TensorImage):
        return TensorImage(x.as_subclass(torch.Tensor) * 1)

    def two_views(x: TensorImage):
        return x, x.flip(-1)

    train = image_dls(digits, device="cpu").train
    xb, yb = next(iter(train.new(after_batch=[loses])))
    assert torch.equal(yb.as_subclass(torch.Tensor), digits.train_y[xb.idxs]) and xb.epoch == 0
    views, _ = next(iter(train.new(after_batch=[two_views])))
    assert torch.equal(views[0].flip(-1), views[1])


def test_decoding_gives_pixels_and_names_back(digits_dls, digits):
    image, label = digits_dls.valid.decode_batch(digits_dls.valid.one_batch(), max_n=3)[2]
    assert (image.as_subclass(torch.Tensor) - digits.test_x[2].long()).abs().max() <= 1  # fastai cuts off, not rounds
    assert label == str(int(digits.test_y[2]))


@pytest.mark.parametrize("unique", [False, True])
def test_show_batch_draws_titled_images(digits_dls, unique):
    digits_dls.show_batch(max_n=4, unique=unique)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.images]
    assert len(titles) == 4 and set(titles) <= set(digits_dls.vocab) and (not unique or len(set(titles)) == 1)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def test_test_dl_takes_images_in_any_form(digits_dls, digits, tmp_path):
    pixels = digits.test_x[5].permute(1, 2, 0).contiguous().numpy()
    (tmp_path / "x.png").write_bytes(png(pixels))
    forms = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        png(pixels),
        Image.fromarray(pixels),
        pixels,
        digits.test_x[5],
    ]
    (xb,) = digits_dls.test_dl(forms).one_batch()
    wanted = digits_dls.valid.one_batch()[0][5]
    assert len(xb) == 6 and all(torch.equal(x, wanted) for x in xb)


def test_test_dl_takes_labels_from_pairs_and_folders(digits_dls, digits, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "x.png").write_bytes(png(digits.test_x[0].permute(1, 2, 0).contiguous().numpy()))
    labels = digits_dls.test_dl(
        [tmp_path / "7/x.png", (digits.test_x[0], 3), (digits.test_x[0], "4")], with_labels=True
    )
    assert labels.one_batch()[1].tolist() == [7, 3, 4]
    with pytest.raises(InputError, match="none of the classes"):
        digits_dls.test_dl([(digits.test_x[0], "cat")], with_labels=True)


def test_an_unreadable_test_item_is_named(digits_dls, tmp_path):
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(InputError, match=r"x\.png"):
        digits_dls.test_dl([tmp_path / "x.png"])


def test_predictions_come_in_the_datasets_order(learn):
    for ds_idx, dl in ((0, learn.dls.train), (1, learn.dls.valid)):
        preds, targs = learn.get_preds(dl=dl)
        assert torch.equal(targs.as_subclass(torch.Tensor), dl.dataset.y)
        torch.testing.assert_close(preds, learn.get_preds(ds_idx=ds_idx)[0], rtol=1e-4, atol=1e-5)
    assert learn.predict(learn.dls.valid_ds[4][0])[2].tolist() == pytest.approx(preds[4].tolist(), abs=1e-5)


def test_fastais_interpretation_works(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    assert interp.confusion_matrix().sum() == 360
    interp.plot_confusion_matrix()
    interp.plot_top_losses(4)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.images]
    assert len(titles) == 4 and all(len(o.split("/")) == 4 for o in titles)
    assert interp.top_losses(1, items=True)[2][0][1] == learn.dls.valid_ds.y[interp.top_losses(1)[1][0]]


def test_export_keeps_no_images_and_predicts_the_same(learn):
    learn.export("small.pkl")
    assert (learn.path / "small.pkl").stat().st_size < 2e6
    loaded = load_learner(learn.path / "small.pkl")
    image = learn.dls.valid_ds[3][0]
    assert loaded.predict(image)[0] == learn.predict(image)[0]
    torch.testing.assert_close(loaded.predict(image)[2], learn.predict(image)[2])


def test_show_results_draws(learn):
    learn.show_results(max_n=2)
    assert len([ax for ax in plt.gcf().axes if ax.images]) == 2


def test_the_holdout_is_a_stratified_seeded_tenth(digits):
    one, same, other = (image_dls(digits, valid="holdout", seed=s, device="cpu") for s in (0, 0, 1))
    assert (len(one.train_ds), len(one.valid_ds)) == (1293, 144)
    assert one.valid_ds.y.bincount().min() >= 14 and not one.valid_ds.is_test
    assert torch.equal(one.valid_ds.x, same.valid_ds.x) and not torch.equal(one.valid_ds.x, other.valid_ds.x)
    assert image_dls(digits, device="cpu").valid_ds.is_test


def test_a_holdout_and_its_rest_are_all_training_images(digits):
    dls = image_dls(digits, valid="holdout", device="cpu")
    both = torch.cat([dls.train_ds.x, dls.valid_ds.x]).flatten(1).long().sum(1).sort().values
    assert torch.equal(both, digits.train_x.flatten(1).long().sum(1).sort().values)


@pytest.mark.parametrize(("changed", "wanted"), [
    ({"bs": "pets"}, "name images by data="), ({"bs": 0}, "bs is 0"), ({"size": -5}, "size is -5"),
    ({"translate": 32}, "from 0 to 31"), ({"translate": -1}, "from 0 to 31"), ({"cutout": 32}, "from 0 to 31"),
    ({"flip": "never"}, "none, random, alternating"), ({"data": "nowhere"}, "auto, cifar10, cifar100"),
    ({"images": 5}, "ask for 10 to 1427"), ({"valid": "train"}, "give test or holdout"),
])  # fmt: skip
def test_unusable_options_are_refused_before_any_batch(changed, wanted):
    with pytest.raises(InputError, match=wanted):
        cifar_dls(**{"data": "digits", "device": "cpu", **changed})


def test_fewer_images_can_be_asked_for():
    dls = cifar_dls(np.int64(64), "digits", images=200, test_images=50, size=64, cutout=40, device="cpu")
    assert (len(dls.train_ds), len(dls.valid_ds)) == (200, 50)


def test_validation_batches_are_large_and_bounded(digits):
    assert image_dls(digits, device="cpu").valid.bs == 512
    assert image_dls(digits, size=224, device="cpu").valid.bs == 16
    assert image_dls(digits, val_bs=7, device="cpu").valid.bs == 7


def test_a_plain_tensor_dl_serves_unlabelled_images(digits):
    dl = TensorDL(ImageTensors(digits.test_x, None, digits.vocab, split_idx=1), bs=100)
    assert [len(b) for b in dl] == [1] * 4 and len(dl) == 4


def test_accuracy_is_measured_over_all_images(learn, digits):
    preds = learn.get_preds()[0].argmax(1)
    assert learn.validate()[1] == pytest.approx((preds == digits.test_y).float().mean().item(), abs=1e-6)
    assert learn.metrics[0].func is accuracy


def test_the_short_way_to_normalised_batches_gives_what_the_pipeline_gives(digits_dls):
    dl = digits_dls.valid
    for i, (xb, yb) in enumerate(dl):
        idxs = torch.arange(i * dl.bs, min((i + 1) * dl.bs, len(dl.dataset)))
        wanted = dl.after_batch(dl.dataset.batch(idxs))
        assert type(xb) is type(wanted[0]) and type(yb) is type(wanted[1])
        assert torch.equal(xb, wanted[0]) and torch.equal(yb, wanted[1])
        assert xb.stride() == wanted[0].stride()
