"""What people do as fastai's notebook 13a_learner does it: fit, validate, predict, save, export, metrics, recorder."""

import copy
import pickle
from functools import partial

import cloudpickle
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, GatherPredsCallback, TrainEvalCallback
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgLoss, AvgMetric, Metric, Recorder, SkipToEpoch, before_batch_cb, load_learner
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import F1Score, Perplexity, RocAuc, accuracy, error_rate, top_k_accuracy
from fastai.optimizer import SGD, Adam
from fastai.vision.core import PILImage
from fastcore.foundation import L
from PIL import Image
from torch import nn

from habits.table import departs, fails_on_stock, only


def rate(learn) -> float:
    "A learning rate that trains; of the record recipe a factor."
    return 1.0 if learn.kind == "record" else 1e-2


def weights(learn) -> list[torch.Tensor]:
    return [o.detach().clone() for o in learn.model.parameters()]


def same(some, others) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(some, others, strict=True))


@pytest.fixture
def cat(photos):
    return photos / "valid" / "cat" / "0.png"


# fit


def test_a_fit_lowers_the_loss(learn):
    before = learn.validate()[0]
    learn.fit(5, rate(learn))
    assert learn.validate()[0] < before


def test_a_fit_of_no_epochs_changes_nothing(learn):
    before = weights(learn)
    learn.fit(0)
    assert same(before, weights(learn))


def test_the_rate_of_a_fit_is_the_optimizers(learn):
    learn.fit(1, 0.003)
    assert [h["lr"] for h in learn.opt.hypers] == [0.003] * len(learn.opt.hypers)


def test_without_a_rate_the_learners_counts(learn):
    learn.lr = 0.004
    learn.fit(1)
    assert learn.opt.hypers[-1]["lr"] == 0.004


def test_a_slice_of_rates_spreads_over_the_groups(learn):
    learn.fit(1, slice(1e-4, 1e-2))
    lrs = [h["lr"] for h in learn.opt.hypers]
    assert lrs[-1] == pytest.approx(1e-2) and lrs == sorted(lrs)


def test_a_slice_with_an_end_alone_gives_a_tenth_to_the_body(learn):
    learn.fit(1, slice(1e-2))
    *body, head = [h["lr"] for h in learn.opt.hypers]
    assert head == 1e-2 and all(o == pytest.approx(1e-3) for o in body)


def test_callbacks_of_a_fit_are_gone_after_it(learn):
    class Mine(Callback):
        pass

    n = len(learn.cbs)
    learn.fit(1, cbs=Mine())
    assert len(learn.cbs) == n and not hasattr(learn, "mine")


def test_a_callback_may_be_given_as_its_class(learn):
    seen = []

    class Mine(Callback):
        def before_fit(self):
            seen.append(self.n_epoch)

    learn.fit(1, cbs=Mine)
    assert seen == [1]


def test_state_of_the_optimizer_goes_over_into_the_next_fit(learn):
    learn.fit(1)
    opt = learn.opt
    learn.fit(1)
    assert learn.opt is opt


def test_reset_opt_makes_the_optimizer_anew(learn):
    learn.fit(1)
    opt = learn.opt
    learn.fit(1, reset_opt=True)
    assert learn.opt is not opt


def test_start_epoch_skips_epochs(learn):
    seen = []
    learn.fit(3, start_epoch=2, cbs=Callback(before_train=lambda self: seen.append(1)))
    assert len(seen) == 1


def test_skip_to_epoch_as_a_callback(learn):
    before = weights(learn)
    learn.fit(2, cbs=SkipToEpoch(2))
    assert same(before, weights(learn))


def test_training_runs_in_train_mode_and_validation_in_eval_mode(learn):
    modes = []
    learn.fit(1, cbs=Callback(after_pred=lambda self: modes.append((self.training, self.model.training))))
    assert modes == [(True, True)] * 2 + [(False, False)]


def test_counters_of_a_fit(learn):
    learn.fit(2)
    assert (learn.n_epoch, learn.epoch, learn.train_iter) == (2, 1, 4) and learn.pct_train == pytest.approx(1)


def test_after_a_fit_the_last_batch_is_let_go(learn):
    learn.fit(1)
    assert learn.dl is None and learn.xb == (None,) and learn.pred is None and learn.loss is None


def test_gradients_are_zero_after_a_fit(learn):
    learn.fit(1)
    assert not any(p.grad is not None and p.grad.any() for p in learn.model.parameters())


def test_one_batch_by_hand(learn):
    learn.create_opt()
    before = weights(learn)
    learn.opt.set_hypers(lr=rate(learn))
    learn.training, learn.n_iter, learn.n_epoch = True, 1, 1
    with learn.no_logging():
        learn.dl = learn.dls.train
        learn("before_fit")
        learn("before_epoch")
        learn("before_train")
        learn.one_batch(0, learn.dls.one_batch())
    assert not same(before, weights(learn))


def test_a_loop_of_torch_over_the_loader(learn):
    opt = torch.optim.SGD(learn.model.parameters(), lr=0.01)
    for xb, yb in learn.dls.train:
        loss = F.cross_entropy(learn.model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert loss.isfinite()


def test_the_learners_loss_by_hand(learn):
    xb, yb = learn.dls.one_batch()
    loss = learn.loss_func(learn.model(xb), yb)
    loss.backward()
    assert any(p.grad is not None for p in learn.model.parameters())


def test_do_one_batch_may_be_patched_on_the_object(learn):
    seen = []
    plain = learn._do_one_batch
    learn._do_one_batch = lambda: (seen.append(1), plain())
    learn.fit(1)
    assert len(seen) == 3


def test_do_fit_may_be_patched_on_the_object(learn):
    seen = []
    learn._do_fit = lambda: seen.append(learn.n_epoch)
    learn.fit(4)
    assert seen == [4]


def test_do_epoch_may_be_patched_on_the_object(learn):
    seen = []
    learn._do_epoch = lambda: seen.append(learn.epoch)
    learn.fit(2)
    assert seen == [0, 1]


def test_backward_and_step_may_be_patched_on_the_object(learn):
    seen = []
    back, step = learn._backward, learn._step
    learn._backward = lambda: (seen.append("backward"), back())
    learn._step = lambda: (seen.append("step"), step())
    learn.fit(1)
    assert seen == ["backward", "step"] * 2


def test_call_one_may_be_patched_on_the_object(learn):
    seen = []
    plain = learn._call_one
    learn._call_one = lambda name: (seen.append(name), plain(name))
    learn.fit(1)
    assert seen.count("after_batch") == 3 and seen[0] == "before_fit"


def test_another_loss_may_be_put_in_place(learn):
    learn.loss_func = lambda pred, y: (pred * 0).sum() + 7.0
    learn.fit(1)
    assert learn.recorder.values[-1][1] == pytest.approx(7)


def test_a_loss_of_torch(again):
    learn = again()
    learn.loss_func = nn.CrossEntropyLoss()
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_label_smoothing_as_the_loss(learn):
    learn.loss_func = LabelSmoothingCrossEntropyFlat(eps=0.1)
    learn.fit(1)
    assert learn.get_preds()[0].sum(1).allclose(torch.ones(8))


@departs("its optimizer is for the groups of its own network", "RecordNet.s 4 groups", of=("record",))
def test_the_model_may_be_replaced(learn):
    learn.model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    learn.model(learn.dls.one_batch()[0])
    learn.opt, learn.splitter = None, lambda m: [list(m.parameters())]
    learn.fit(1, 1e-3)
    assert learn.get_preds()[0].shape == (8, 4)


def test_the_loaders_may_be_replaced(learn, make_dls):
    learn.dls = make_dls(learn.kind, bs=4)
    learn.fit(1)
    assert len(learn.recorder.losses) == 4


def test_the_batch_size_may_be_changed(learn):
    learn.dls.train.bs = 4
    learn.fit(1)
    assert len(learn.recorder.losses) == 4


def test_a_fit_repeats_itself_after_set_seed(again):
    from fastai.torch_core import set_seed

    def run():
        set_seed(3, reproducible=True)
        learn = again()
        learn.fit(1, rate(learn))
        return weights(learn)

    assert same(run(), run())


# validate and get_preds


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


def test_loss_not_reduced(learn):
    xb, yb = learn.dls.valid.one_batch()
    with learn.loss_not_reduced(), torch.no_grad():
        assert learn.loss_func(learn.model(xb), yb).shape == (8,)


def test_no_logging(learn, capsys):
    with learn.no_logging():
        learn.fit(1)
    assert "valid_loss" not in capsys.readouterr().out


def test_no_bar_takes_the_progress_away_for_a_while(learn):
    with learn.no_bar():
        assert not hasattr(learn, "progress")
        learn.fit(1)
    assert isinstance(learn.progress, ProgressCallback)


def test_no_bar_shows_rows_all_the_same(learn, capsys):
    with learn.no_bar():
        learn.fit(1)
    assert "[0," in capsys.readouterr().out


def test_an_own_logger(learn):
    lines = []
    learn.logger = lines.append
    with learn.no_bar():
        learn.fit(2)
    assert [o[0] for o in lines] == [0, 1]


def test_an_own_logger_is_there_again_after_a_fit_with_bars(learn):
    lines = []
    learn.logger = lines.append
    learn.fit(1)
    assert learn.logger == lines.append


# metrics and recorder


def test_metrics_may_be_replaced(learn):
    learn.metrics = [error_rate, accuracy]
    learn.fit(1)
    assert list(learn.recorder.metric_names)[:5] == ["epoch", "train_loss", "valid_loss", "error_rate", "accuracy"]


def test_a_partial_is_a_metric(learn):
    learn.metrics = AvgMetric(partial(top_k_accuracy, k=2))
    assert learn.validate()[1] >= 0.0 and learn.metrics[0].name == "top_k_accuracy"


@pytest.mark.parametrize("metric", [F1Score(average="macro"), Perplexity()], ids=["F1Score", "Perplexity"])
def test_metrics_of_whole_data_sets(learn, metric):
    learn.metrics = metric
    learn.fit(1)
    assert learn.recorder.values[-1][2] >= 0


def test_roc_auc_takes_probabilities(learn):
    learn.metrics = RocAuc()
    assert 0 <= learn.validate()[1] <= 1


def test_an_own_metric(learn):
    class Images(Metric):
        def reset(self):
            self.n = 0

        def accumulate(self, learn):
            self.n += len(learn.y)

        @property
        def value(self):
            return self.n

    learn.metrics = Images()
    learn.fit(1)
    assert learn.recorder.values[-1][-1] == 8 and learn.recorder.metric_names[3] == "images"


def test_metrics_as_a_keyword(again):
    assert again(metrics=[error_rate, accuracy]).metrics.attrgot("name") == ["error_rate", "accuracy"]


def test_without_metrics(learn):
    learn.metrics = None
    assert len(learn.validate()) == 1


def test_a_further_metric_by_adding(learn):
    learn.metrics = learn.metrics + L(AvgMetric(error_rate))
    _, acc, error = learn.validate()
    assert acc + error == pytest.approx(1)


def test_avg_loss_as_a_metric(learn):
    learn.metrics = AvgLoss()
    loss, again = learn.validate()
    assert loss == pytest.approx(again)


def test_the_table_has_a_row_an_epoch(learn):
    learn.fit(3)
    assert [len(o) for o in learn.recorder.values] == [3, 3, 3]


def test_names_of_the_columns(learn):
    learn.fit(1)
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]


def test_losses_and_rates_of_each_batch(learn):
    learn.fit(2, 0.01)
    assert len(learn.recorder.losses) == 4 and learn.recorder.lrs == [0.01] * 4


def test_losses_are_plain_numbers_on_the_cpu(learn):
    learn.fit(1)
    assert np.array(torch.stack(list(map(torch.as_tensor, learn.recorder.losses)))).shape == (2,)


def test_batches_at_the_end_of_each_epoch(learn):
    learn.fit(2)
    assert list(learn.recorder.iters) == [2, 4]


def test_final_record(learn):
    learn.fit(1)
    assert list(learn.final_record) == list(learn.recorder.values[-1])


def test_the_valid_loss_of_the_table_is_that_of_validate(learn):
    learn.fit(1)
    wanted = learn.recorder.values[-1][1]
    assert learn.validate()[0] == pytest.approx(wanted)


def test_plot_loss(learn):
    learn.fit(4)
    axes = learn.recorder.plot_loss(skip_start=0)
    assert len(axes.lines[0].get_xdata()) == 8


def test_plot_loss_by_epochs(learn):
    learn.fit(3)
    learn.recorder.plot_loss(skip_start=0, show_epochs=True, with_valid=True)


def test_metrics_of_training_batches(learn):
    learn.recorder.train_metrics = True
    learn.fit(1)
    names = list(learn.recorder.metric_names)
    assert "train_accuracy" in names and "valid_accuracy" in names


def test_without_the_seconds(learn):
    learn.recorder.add_time = False
    learn.fit(1)
    assert "time" not in learn.recorder.metric_names


def test_smooth_loss(learn):
    learn.fit(1)
    assert float(learn.smooth_loss) > 0


# save, load, export


def test_save_and_load(learn):
    before = weights(learn)
    learn.save("stage")
    learn.fit(1, rate(learn))
    assert not same(before, weights(learn))
    learn.load("stage")
    assert same(before, weights(learn))


def test_save_gives_the_file(learn):
    assert learn.save("stage") == learn.path / "models" / "stage.pth" and learn.save("stage").exists()


def test_save_with_the_optimizer(learn):
    learn.fit(1, 0.003)
    learn.save("stage")
    learn.opt = None
    learn.load("stage", weights_only=False)
    assert learn.opt.hypers[-1]["lr"] == 0.003


def test_save_without_the_optimizer(learn):
    learn.fit(1)
    learn.save("stage", with_opt=False)
    learn.load("stage", with_opt=False)
    assert "opt" not in torch.load(learn.path / "models/stage.pth", weights_only=False)


def test_a_saved_model_goes_into_another_learner(learn, again):
    learn.fit(1, rate(learn))
    learn.save("stage", with_opt=False)
    other = again().load("stage", with_opt=False)
    assert same(weights(learn), weights(other))


def test_load_to_a_named_device(learn):
    learn.save("stage", with_opt=False)
    learn.load("stage", device="cpu", with_opt=False, strict=False)


def test_another_folder_for_saved_models(learn):
    learn.model_dir = "kept"
    assert learn.save("stage").parent.name == "kept"


def test_a_path_as_a_string(again, tmp_path):
    learn = again(path=str(tmp_path))
    learn.save("stage")
    assert (tmp_path / "models/stage.pth").exists()


def test_export_leaves_the_learner_as_it_was(learn):
    learn.fit(1)
    learn.export()
    learn.fit(1)
    assert len(learn.dls.train_ds) == 16


def test_export_into_the_path(again, tmp_path):
    learn = again(path=tmp_path)
    learn.export("mine.pkl")
    assert (tmp_path / "mine.pkl").exists()


def test_an_exported_learner_predicts_many(learn, cat):
    learn.export()
    loaded = load_learner(learn.path / "export.pkl")
    assert loaded.get_preds(dl=loaded.dls.test_dl([cat, cat]))[0].shape == (2, 4)


def test_an_exported_learner_knows_its_classes(learn):
    learn.export()
    assert list(load_learner(learn.path / "export.pkl").dls.vocab) == ["bird", "cat", "dog", "frog"]


def test_an_exported_learner_has_no_images(learn):
    learn.export()
    assert len(load_learner(learn.path / "export.pkl").dls.train_ds) == 0


def test_an_exported_learner_is_given_images_and_trained_on(learn, make_dls):
    learn.export()
    loaded = load_learner(learn.path / "export.pkl")
    loaded.dls = make_dls(learn.kind)
    loaded.fit(1)
    assert len(loaded.recorder.values) == 1


def test_a_deep_copy_is_a_learner_of_its_own(learn):
    before = weights(learn)
    other = copy.deepcopy(learn)
    other.fit(1, rate(learn))
    assert same(before, weights(learn)) and not same(before, weights(other))


@only("stock", "custom", "transfer", "cached")
def test_a_learner_is_pickled(learn):
    other = pickle.loads(cloudpickle.dumps(learn))
    assert torch.allclose(other.get_preds()[0], learn.get_preds()[0], atol=1e-5)


# Attributes and small things


def test_what_a_learner_lacks_its_model_has(learn):
    assert len(list(learn.parameters())) == len(list(learn.model.parameters()))


def test_a_default_callback_by_its_name(learn):
    assert isinstance(learn.recorder, Recorder) and isinstance(learn.train_eval, TrainEvalCallback)


def test_show_training_loop(learn, capsys):
    learn.show_training_loop()
    said = capsys.readouterr().out
    assert "Start Fit" in said and "Recorder" in said


def test_ordered_callbacks_of_an_event(learn):
    assert any(isinstance(o, Recorder) for o in learn.ordered_cbs("after_batch"))


def test_x_and_y_are_the_batch(learn):
    shapes = []
    learn.fit(1, cbs=Callback(after_batch=lambda self: shapes.append((self.x.shape[-1], len(self.y)))))
    assert shapes == [(16, 8)] * 3


def test_before_batch_cb_changes_the_batch(learn):
    @before_batch_cb
    def dark(self, xb, yb):
        return (xb[0] * 0,), yb

    seen = []
    learn.fit(1, cbs=[dark, Callback(after_batch=lambda self: seen.append(self.x.abs().max().item()))])
    assert seen == [0, 0, 0]


def test_default_cbs_may_be_left_out(again):
    learn = again(default_cbs=False, cbs=TrainEvalCallback)
    learn.fit(1)
    assert not hasattr(learn, "recorder")


def test_callbacks_as_a_keyword(again):
    class Mine(Callback):
        pass

    assert isinstance(again(cbs=[Mine()]).mine, Mine)


def test_an_optimizer_of_fastai(again):
    learn = again()
    learn.opt_func = partial(SGD, mom=0.9)
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


@departs("its optimizer is the recipe's", "a recipe has no 'opt_func'", of=("record",))
def test_a_rate_within_the_optimizers_partial(again):
    learn = again(opt_func=partial(Adam, lr=0.02))
    learn.create_opt()
    assert learn.lr == 0.02


def test_to_detach(learn):
    xb, _ = learn.dls.one_batch()
    assert not learn.to_detach(learn.model(xb)).requires_grad


def test_a_model_on_the_loaders_device(learn):
    learn.fit(1)
    assert next(learn.model.parameters()).device.type == "cpu"


def test_dls_to_a_named_device(learn):
    learn.dls.to("cpu")
    learn.fit(1)


def test_a_learner_without_recorder(learn):
    learn.remove_cbs([Recorder, ProgressCallback])
    learn.fit(1)
    assert learn.get_preds()[0].shape == (8, 4)


@only("stock", "custom", "transfer", "cached")  # of the record recipe it is a number of its own
def test_wd_as_a_keyword(again):
    learn = again(wd=0.1)
    learn.fit(1)
    assert learn.opt.hypers[0]["wd"] == 0.1


def test_moms_as_a_keyword(again):
    learn = again(moms=(0.9, 0.8, 0.9))
    learn.fit_one_cycle(1)
    assert learn.recorder.hps["mom"][0] in (0.9, pytest.approx(0.9))


def test_model_dir_as_a_keyword(again):
    assert again(model_dir="kept").save("stage").parent.name == "kept"
