"""What people do in training, as in fastai's notebooks 18 (fp16), 18a (training), 19 (mixup), 18b (preds)."""

import pytest
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.preds import MCDropoutCallback
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from torch import nn

from habits.probes import rate, weights
from habits.table import departs, fails_on_stock, only


def same(some, others) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


class Stops(Callback):
    "Jupyter's stop button after a batch."

    def after_batch(self):
        raise KeyboardInterrupt


# 18a


def test_a_short_epoch(learn):
    learn.fit(1, cbs=ShortEpochCallback(0.0))
    assert learn.train_iter == 1


def test_a_short_epoch_with_whole_validation(learn):
    seen = []
    learn.fit(1, cbs=[Callback(after_batch=lambda self: seen.append(1)), ShortEpochCallback(0.0, short_valid=False)])
    assert len(seen) == 2


def test_accumulated_gradients_step_less_often(learn):
    steps = []
    learn.fit(1, cbs=[GradientAccumulation(16), Callback(after_step=lambda self: steps.append(1))])
    assert len(steps) == 1


@only("stock", "custom", "transfer", "cached")  # the record recipe's weights move at a rate of 0, too
def test_accumulated_gradients_are_those_of_the_larger_batch(learn):
    class Keeps(Callback):
        order = 20  # of evaluation mode, in which an image's gradient does not depend on the others

        def before_fit(self):
            self.grads = []

        def before_train(self):
            self.model.eval()

        def before_step(self):
            self.grads.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])

    whole, parts = Keeps(), Keeps()
    learn.unfreeze()
    learn.fit(1, 0.0, cbs=[GradientAccumulation(16), whole])
    learn.fit(1, 0.0, cbs=parts)
    assert len(whole.grads) == 1 and len(parts.grads) == 2
    assert all(torch.allclose(a, (b + c) / 2, atol=1e-4) for a, b, c in zip(*whole.grads, *parts.grads))


@fails_on_stock("gradients of an interrupted accumulation count in the next fit")
def test_an_interrupted_accumulation_leaves_no_gradients(learn):
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[GradientAccumulation(16), Stops()])
    assert not any(p.grad is not None and p.grad.any() for p in learn.model.parameters())


def test_clipped_gradients(learn):
    norms = []

    class Looks(Callback):
        order = 20

        def before_step(self):
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    learn.fit(1, cbs=[GradientClip(0.01), Looks()])
    assert norms and max(norms) <= 0.0101


def test_clipped_and_accumulated(learn):
    learn.fit(1, cbs=[GradientAccumulation(16), GradientClip(0.1)])
    assert len(learn.recorder.losses) == 2


@only("stock", "custom", "transfer", "cached")
def test_frozen_batch_norms_keep_their_statistics(learn):
    norms = [m for m in learn.model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.affine]
    for m in norms:
        m.requires_grad_(False)
    before = [m.running_mean.clone() for m in norms]
    learn.fit(1, cbs=BnFreeze())
    assert same(before, [m.running_mean for m in norms])


@only("stock", "transfer", "cached")
def test_frozen_batch_norms_train_all_the_same_where_train_bn_is_given(again):
    learn = again(train_bn=True)
    learn.freeze()
    norms = [m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.weight.requires_grad for m in norms)


def test_train_bn_false_freezes_batch_norms(again):
    learn = again(train_bn=False)
    learn.freeze()
    learn.fit(1)
    frozen = [p for group in learn.opt.param_lists[:-1] for p in group]
    assert not any(p.requires_grad for p in frozen)


# 18


def test_fp16_and_back(learn):
    learn.to_fp16()
    assert isinstance(learn.mixed_precision, MixedPrecision)
    learn.to_fp32()
    assert not hasattr(learn, "mixed_precision")


def test_bf16_and_back(learn):
    learn.to_bf16()
    learn.fit(1)
    learn.to_fp32()
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_bf16_trains(learn):
    learn.to_bf16()
    before = weights(learn)
    learn.fit(1, rate(learn))
    assert not same(before, weights(learn)) and all(p.dtype == torch.float32 for p in learn.model.parameters())


@departs(
    "fastai's mixed precision is for CUDA, and computes in fp32 elsewhere without a word; here it is whatever device"
)
def test_bf16_computes_in_bf16(learn):
    dtypes = []
    hook = [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1].register_forward_hook(
        lambda m, i, o: dtypes.append(o.dtype)
    )
    learn.to_bf16()
    learn.fit(1)
    hook.remove()
    assert set(dtypes) == {torch.float32 if learn.kind == "stock" else torch.bfloat16}


def test_predictions_after_bf16_are_floats(learn):
    learn.to_bf16()
    learn.fit(1)
    assert learn.get_preds()[0].dtype == torch.float32


def test_to_bf16_gives_the_learner_for_chaining(learn):
    assert learn.to_bf16().to_fp32() is learn


@departs("two precisions at once would leave autocast on for good: they are refused", "two precisions")
def test_mixed_precision_added_twice(learn):
    learn.to_bf16()
    learn.add_cb(MixedPrecision("bf16"))
    learn.fit(1)


def test_mixed_precision_added_by_hand(learn):
    learn.add_cb(MixedPrecision("bf16"))
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_mixed_precision_of_a_fit_alone(learn):
    learn.fit(1, cbs=MixedPrecision("bf16"))
    assert not hasattr(learn, "mixed_precision")


def test_loss_scaling_of_ones_own(learn):
    learn.to_fp16(init_scale=2.0)
    assert learn.mixed_precision.kwargs["init_scale"] == 2.0


def test_a_bf16_learner_is_exported_and_loaded_in_fp32(learn):
    from fastai.learner import load_learner

    learn.to_bf16().export()
    loaded = load_learner(learn.path / "export.pkl")
    assert not hasattr(loaded, "mixed_precision") and loaded.get_preds is not None


def test_channels_last(learn):
    assert learn.to_channelslast(use_amp=False) is learn
    learn.fit(1)
    assert isinstance(learn.channels_last, ChannelsLast)


@departs("these compute in channels last already, in a precision of their own: change it by `to_fp16` or `to_bf16`")
def test_channels_last_in_fp16(learn):
    learn.to_channelslast()
    assert hasattr(learn, "mixed_precision") == (learn.kind == "stock")


def test_channels_last_and_back(learn):
    learn.to_channelslast()
    learn.to_contiguous(to_fp32=True)
    learn.fit(1)
    assert not hasattr(learn, "channels_last") and not hasattr(learn, "mixed_precision")


# 19


@pytest.mark.parametrize("mix", [MixUp, CutMix], ids=lambda o: o.__name__)
def test_mixed_images_train(learn, mix):
    learn.fit(2, cbs=mix())
    assert len(learn.recorder.values) == 2


@pytest.mark.parametrize("mix", [MixUp, CutMix], ids=lambda o: o.__name__)
def test_mixing_changes_training_images_alone(learn, mix):
    seen = []

    class Looks(Callback):
        order = 90

        def before_batch(self):
            seen.append((self.training, self.x.clone(), self.y))

    learn.fit(1, cbs=[mix(), Looks()])
    inputs = learn.get_preds(with_input=True)[0]
    assert torch.allclose(seen[-1][1], inputs, atol=1e-5) and [o[0] for o in seen] == [True, True, False]


@pytest.mark.parametrize("mix", [MixUp, CutMix], ids=lambda o: o.__name__)
def test_the_loss_is_itself_again_after_mixing(learn, mix):
    loss = learn.loss_func
    learn.fit(1, cbs=mix())
    assert learn.loss_func is loss


@pytest.mark.parametrize("mix", [MixUp, CutMix], ids=lambda o: o.__name__)
@fails_on_stock("the mixing loss of an interrupted fit stays on")
def test_the_loss_is_itself_again_after_an_interrupt(learn, mix):
    loss = learn.loss_func
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[mix(), Stops()])
    assert learn.loss_func is loss
    learn.fit(1)


def test_mixup_with_label_smoothing(learn):
    learn.loss_func = LabelSmoothingCrossEntropyFlat()
    learn.fit(1, cbs=MixUp(0.4))
    assert len(learn.recorder.values) == 1


def test_mixup_with_a_loss_of_torch_on_soft_labels(learn):
    class Soft(Callback):
        order = -1

        def before_batch(self):
            self.learn.yb = (nn.functional.one_hot(self.y.as_subclass(torch.Tensor).long(), 4).float(),)

    learn.loss_func, learn.metrics = nn.CrossEntropyLoss(), None
    learn.fit(1, cbs=[Soft(), MixUp()])
    assert len(learn.recorder.values) == 1


def test_mixup_in_the_constructor(again):
    learn = again(cbs=MixUp())
    learn.fit(1)
    assert learn.get_preds()[0].shape == (8, 4) and len(learn.validate()) == 2


def test_mixup_and_accumulation(learn):
    learn.fit(1, cbs=[MixUp(), GradientAccumulation(16)])
    assert len(learn.recorder.losses) == 2


def test_mixup_and_bf16(learn):
    learn.to_bf16().fit(1, cbs=MixUp())
    assert len(learn.recorder.losses) == 2


def test_lr_find_with_mixup(learn):
    learn.add_cb(MixUp())
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)


# 18b


def test_dropout_stays_on_in_predictions(learn):
    if not any(isinstance(m, nn.Dropout) for m in learn.model.modules()):
        learn.model.add_module("drop", nn.Dropout(0.5)) if isinstance(learn.model, nn.Sequential) else None
    if not isinstance(learn.model, nn.Sequential):
        learn.model.head = nn.Sequential(nn.Dropout(0.5), learn.model.head)
    a, b = (learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(2))
    assert not torch.allclose(a, b)


def test_dropout_is_off_again_afterwards(learn):
    learn.get_preds(cbs=MCDropoutCallback())
    assert torch.allclose(learn.get_preds()[0], learn.get_preds()[0])
