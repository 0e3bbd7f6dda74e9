"""How people validate and predict, as in fastai's notebook 13a_learner."""

import copy

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, GatherPredsCallback
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.vision.core import PILImage
from PIL import Image

from habits.probes import same
from habits.table import fails_on_stock, only


def test_validate_gives_the_loss_and_the_metrics(learn):
    loss, acc = learn.validate()
    assert loss > 0 and 0 <= acc <= 1


def test_validate_on_the_training_images(learn):
    assert len(learn.validate(ds_idx=0)) == 2 and list(learn.validate(0)) != list(learn.validate(1))


def test_validate_on_a_loader(learn):
    assert list(learn.validate(dl=learn.dls.valid)) == pytest.approx(list(learn.validate()))


def test_validate_with_a_callback(learn):
    seen = []
    learn.validate(cbs=Callback(after_batch=lambda self: seen.append(self.y.shape)))
    assert seen == [(8,)]


def test_validate_trains_nothing(learn):
    before = copy.deepcopy(learn.model.state_dict())
    learn.validate()
    assert same(before.values(), learn.model.state_dict().values())


def test_predictions_are_probabilities(learn):
    preds, targs = learn.get_preds()
    assert preds.shape == (8, 4) and preds.sum(1).allclose(torch.ones(8)) and targs.shape == (8,)


def test_predictions_come_in_the_order_of_the_items(learn):
    targs = learn.get_preds(ds_idx=0)[1]
    wanted = [int(learn.dls.train_ds[i][1]) for i in range(len(learn.dls.train_ds))]
    assert targs.tolist() == wanted


@only("stock", "custom", "transfer", "cached")  # the record recipe flips training images
def test_predictions_of_training_images_are_repeated(learn):
    a, b = learn.get_preds(ds_idx=0)[0], learn.get_preds(ds_idx=0)[0]
    assert torch.allclose(a, b, atol=1e-5)


def test_predictions_agree_with_the_metric(learn):
    preds, targs = learn.get_preds()
    assert accuracy(preds, targs).item() == pytest.approx(learn.validate()[1])


def test_predictions_with_their_inputs(learn):
    inputs, preds, _ = learn.get_preds(with_input=True)
    assert inputs.shape == (8, 3, 16, 16) and len(preds) == 8


def test_predictions_with_their_classes(learn):
    preds, _, classes = learn.get_preds(with_decoded=True)
    assert torch.equal(classes, preds.argmax(1))


def test_predictions_with_their_losses(learn):
    _, _, losses = learn.get_preds(with_loss=True)
    assert losses.shape == (8,) and losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-3)


def test_logits_by_another_activation(learn):
    logits = learn.get_preds(act=lambda o: o)[0]
    assert torch.allclose(logits.softmax(1), learn.get_preds()[0], atol=1e-5)


def test_predictions_without_reordering(learn):
    assert torch.allclose(learn.get_preds(reorder=False)[0], learn.get_preds()[0], atol=1e-5)


def test_predictions_of_files(learn, cat):
    dl = learn.dls.test_dl([cat] * 3)
    preds, targs = learn.get_preds(dl=dl)
    assert preds.shape == (3, 4) and targs is None


def test_predictions_of_files_with_labels(learn, cat):
    dl = learn.dls.test_dl([cat] * 3, with_labels=True)
    assert learn.get_preds(dl=dl)[1].tolist() == [1, 1, 1]


def test_predictions_of_a_batch(learn):
    batch = learn.dls.valid.one_batch()
    assert torch.allclose(learn.get_preds(dl=[batch])[0], learn.get_preds()[0], atol=1e-5)


def test_predictions_saved_batch_by_batch(learn, tmp_path):
    learn.get_preds(save_preds=tmp_path, save_targs=tmp_path, with_preds=True)
    assert (tmp_path / "0").exists()


def test_predictions_without_targets(learn):
    preds, targs = learn.get_preds(with_targs=False)
    assert targs is None and len(preds) == 8


def test_predictions_with_a_callback(learn):
    seen = []
    learn.get_preds(cbs=Callback(after_pred=lambda self: seen.append(self.pred.shape)))
    assert seen == [(8, 4)]


def test_predictions_within_a_context(learn):
    with learn.no_logging(), learn.no_mbar():
        learn("before_fit")
        learn("before_epoch")
        assert len(learn.get_preds(inner=True)[0]) == 8
        learn("after_fit")


def test_the_learner_as_a_context(learn):
    with learn.no_logging(), learn as entered:
        assert entered is learn and len(learn.get_preds(inner=True)[0]) == 8


def test_gather_preds_as_a_callback(learn):
    cb = GatherPredsCallback(with_input=True)
    learn.validate(cbs=cb)
    inputs, preds, _ = cb.all_tensors()
    assert len(inputs) == len(preds) == 8


def test_predicting_does_not_change_the_weights_nor_the_mode_of_the_next_fit(learn):
    learn.get_preds()
    modes = []
    learn.fit(1, cbs=Callback(before_batch=lambda self: modes.append(self.model.training)))
    assert modes == [True, True, False]


@pytest.mark.parametrize("how", ["file", "name", "array", "bytes"])
def test_predict_one_image(learn, cat, how):
    image = {
        "file": lambda: cat,
        "name": lambda: str(cat),
        "array": lambda: np.array(Image.open(cat)),
        "bytes": lambda: cat.read_bytes(),
    }[how]()
    name, idx, probs = learn.predict(image)
    assert name == learn.dls.vocab[idx] and probs.shape == (4,) and probs.argmax() == idx


@fails_on_stock("`PIL.Image` is none of its items, its own PILImage is")
def test_predict_an_image_of_pil(learn, cat):
    assert torch.allclose(learn.predict(Image.open(cat))[2], learn.predict(cat)[2], atol=1e-5)


def test_predict_a_pilimage(learn, cat):
    assert torch.allclose(learn.predict(PILImage.create(cat))[2], learn.predict(cat)[2], atol=1e-5)


@fails_on_stock("tensors are taken for images with the channels last")
def test_predict_a_tensor_with_the_channels_first(learn, cat):
    image = torch.from_numpy(np.array(Image.open(cat))).permute(2, 0, 1)
    assert torch.allclose(learn.predict(image)[2], learn.predict(cat)[2], atol=1e-5)


def test_predict_with_the_input(learn, cat):
    image, name, _, _ = learn.predict(cat, with_input=True)
    assert image.shape[-2:] == (16, 16) and str(name) in learn.dls.vocab


def test_predict_is_get_preds(learn, cat):
    dl = learn.dls.test_dl([cat])
    assert torch.allclose(learn.predict(cat)[2], learn.get_preds(dl=dl)[0][0], atol=1e-5)


def test_predict_after_export_is_the_same(learn, cat):
    learn.export("model.pkl")
    assert torch.allclose(load_learner(learn.path / "model.pkl").predict(cat)[2], learn.predict(cat)[2], atol=1e-4)


def test_show_results(learn):
    learn.show_results(max_n=4)


def test_show_results_of_the_training_images(learn):
    learn.show_results(ds_idx=0, max_n=2, shuffle=False)
