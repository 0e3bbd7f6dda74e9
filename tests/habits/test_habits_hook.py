"""What people do with hooks, as in fastai's notebook 15_callback.hook."""

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.hook import (
    ActivationStats,
    Hook,
    HookCallback,
    Hooks,
    dummy_eval,
    has_params,
    hook_output,
    hook_outputs,
    layer_info,
    model_sizes,
    module_summary,
    num_features_model,
    total_params,
)
from fastai.layers import flatten_model
from torch import nn

from habits.table import fails_on_stock, only


def conv(learn) -> nn.Module:
    return next(m for m in learn.model.modules() if isinstance(m, nn.Conv2d))


def dense(learn) -> nn.Module:
    return [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1]


def hooked(learn) -> bool:
    return any(m._forward_hooks or m._backward_hooks for m in learn.model.modules())


class Stops(Callback):
    def after_batch(self):
        raise KeyboardInterrupt


def test_hook_an_output(learn):
    xb, _ = learn.dls.one_batch()
    with hook_output(dense(learn)) as hook:
        out = learn.model(xb)
    assert hook.stored.shape == (8, 4) and out.shape == (8, 4) and not hooked(learn)


def test_hook_outputs_of_several(learn):
    xb, _ = learn.dls.one_batch()
    with hook_outputs([conv(learn), dense(learn)]) as hooks:
        learn.model(xb)
    assert [o.shape[0] for o in hooks.stored] == [8, 8] and len(hooks) == 2


def test_hook_gradients(learn):
    xb, yb = learn.dls.one_batch()
    with hook_output(dense(learn), grad=True) as hook:
        learn.loss_func(learn.model(xb), yb).backward()
    assert hook.stored[0].shape == (8, 4)


def test_a_hook_in_get_preds(learn):
    with hook_output(dense(learn)) as hook:
        learn.get_preds()
    assert hook.stored.shape == (8, 4)


def test_a_hook_on_the_first_layer_in_get_preds(learn):
    with hook_output(conv(learn)) as hook:
        learn.get_preds()
    assert hook.stored.shape[0] == 8 and hook.stored.ndim == 4


def test_a_hook_on_the_first_layer_in_a_fit(learn):
    shapes = []
    with Hook(conv(learn), lambda m, i, o: shapes.append(tuple(o.shape[:1]))):
        learn.fit(1)
    assert len(shapes) >= 3


def test_a_hook_with_a_function_of_ones_own(learn):
    with Hook(dense(learn), lambda m, i, o: o.mean().item()) as hook:
        learn.validate()
    assert isinstance(hook.stored, float)


def test_a_hook_of_torch(learn):
    seen = []
    handle = dense(learn).register_forward_hook(lambda m, i, o: seen.append(o.shape))
    learn.validate()
    handle.remove()
    assert seen == [(8, 4)]


def test_a_hook_that_changes_what_comes_out(learn):
    handle = dense(learn).register_forward_hook(lambda m, i, o: o * 0)
    preds = learn.get_preds()[0]
    handle.remove()
    assert torch.allclose(preds, torch.full((8, 4), 0.25))


def test_hooks_are_removed_by_hand(learn):
    hooks = Hooks([conv(learn)], lambda m, i, o: o)
    assert hooked(learn)
    hooks.remove()
    assert not hooked(learn)


def test_a_hook_callback(learn):
    class Means(HookCallback):
        def hook(self, m, i, o):
            return o.mean()

        def after_batch(self):
            self.means = [o.item() for o in self.hooks.stored]

    cb = Means(modules=[dense(learn)])
    learn.fit(1, cbs=cb)
    assert len(cb.means) == 1 and not hooked(learn)


def test_a_hook_callback_with_a_function(learn):
    seen = []
    learn.fit(1, cbs=HookCallback(hook=lambda m, i, o: seen.append(type(m)), modules=[conv(learn)]))
    assert len(seen) == 3


def test_a_hook_callback_on_all_layers_with_weights(learn):
    cb = HookCallback(hook=lambda m, i, o: 1)
    learn.fit(1, cbs=cb)
    assert len(cb.modules) == sum(has_params(m) for m in flatten_model(learn.model))


def test_a_hook_callback_every_other_batch(learn):
    seen = []
    learn.fit(1, cbs=HookCallback(hook=lambda m, i, o: seen.append(1), modules=[dense(learn)], every=2))
    assert seen and not hooked(learn)


def test_activation_stats_of_a_fit(learn):
    cb = ActivationStats(modules=[conv(learn), dense(learn)])
    learn.fit(2, cbs=cb)
    assert len(cb.stats) == 4 and cb.stats[0][0].keys() == {"mean", "std", "near_zero"}


def test_activation_stats_in_the_constructor(again):
    learn = again(cbs=ActivationStats(with_hist=True))
    learn.fit(1)
    assert len(learn.activation_stats.stats) == 2 and not hooked(learn)


def test_layer_stats(learn):
    learn.add_cb(ActivationStats())
    learn.fit(2)
    mean, std, near_zero = learn.activation_stats.layer_stats(-1)
    assert len(mean) == 4 and all(o >= 0 for o in std) and all(0 <= o <= 1 for o in near_zero)


def test_plot_layer_stats(learn):
    learn.add_cb(ActivationStats())
    learn.fit(1)
    learn.activation_stats.plot_layer_stats(0)


def test_the_colourful_dimension(learn):
    learn.add_cb(ActivationStats(with_hist=True))
    learn.fit(1)
    assert learn.activation_stats.hist(-1).shape == (40, 2)
    learn.activation_stats.color_dim(-1)


def test_activation_stats_every_other_batch(learn):
    learn.add_cb(ActivationStats(every=2))
    learn.fit(2)
    assert len(learn.activation_stats.stats) == 2


@fails_on_stock("hooks of an interrupted fit stay on the model")
def test_no_hook_stays_after_an_interrupt(learn):
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[ActivationStats(), Stops()])
    assert not hooked(learn)


def test_summary(learn):
    text = str(learn.summary())
    assert "Total params" in text and "Conv2d" in text and "Loss function" in text


def test_summary_says_what_is_frozen(learn):
    learn.create_opt()
    learn.freeze()
    text, groups = str(learn.summary()), len(learn.opt.param_lists)
    assert ("frozen up to parameter group" in text) == (groups > 1)


def test_summary_lists_the_callbacks(learn):
    assert "TrainEvalCallback" in str(learn.summary()) and "Recorder" in str(learn.summary())


def test_a_fit_after_summary(learn):
    learn.summary()
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_module_summary_of_a_batch(learn):
    assert "8 x 3 x 16 x 16" in str(module_summary(learn, learn.dls.one_batch()[0]))


def test_layer_info(learn):
    infos = layer_info(learn, learn.dls.one_batch()[0])
    assert any(o and o[0] == "Conv2d" for o in infos)


def test_parameters_of_a_layer(learn):
    layer = dense(learn)
    n, trains = total_params(layer)
    assert n == sum(p.numel() for p in layer.parameters()) and trains


@only("stock", "transfer", "cached")
def test_sizes_of_activations(learn):
    body = learn.model[0]
    body = body[0] if len(body) == 1 else body
    layers = nn.Sequential(*list(body.children())[:6])
    assert model_sizes(layers, (16, 16))[-1] == (1, 16, 4, 4) and num_features_model(layers) == 16
    assert dummy_eval(layers, (16, 16)).shape == (1, 16, 4, 4)


def test_maps_for_cam(learn):
    xb, _ = learn.dls.one_batch()
    learn.unfreeze()
    with hook_output(conv(learn)) as maps, hook_output(conv(learn), grad=True) as grads:
        learn.model.eval()(xb.as_subclass(torch.Tensor))[:, 0].sum().backward()
    assert maps.stored.shape == grads.stored[0].shape
