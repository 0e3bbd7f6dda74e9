"""The door: what a function must be to be an experiment, and what it gets."""

import json
from typing import Literal

import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import F1Score, accuracy
from torch import nn

from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment, Stage, experiment
from cifar_fast.options import count, share
from cifar_fast.progress import say
from cifar_fast.runs.by_hand import write_run
from cifar_fast.training.learner import custom_learner, fast_learner
from conftest import with_cbs
from processes import Dying, Killed

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"data": "digits", "images": 200, "test_images": 60, "epochs": 2, "device": "cpu", "quiet": True}


@experiment
def mlp(
    dls,
    width: count = 16,  # units of the hidden layer
    dropout: share = 0.0,  # after it
    act: Literal["relu", "gelu"] = "relu",  # activation
    norm: bool = True,  # batch norm
    bs: count = 32,  # images a batch
):
    "A network of two dense layers."
    layers = [
        nn.Flatten(),
        nn.Linear(3 * 32 * 32, width),
        {"relu": nn.ReLU, "gelu": nn.GELU}[act](),
        nn.Dropout(dropout),
    ]
    layers += [nn.BatchNorm1d(width)] * norm
    return fast_learner(dls, nn.Sequential(*layers, nn.Linear(width, dls.c)), precision="fp32")


def test_own_parameters_are_options_beside_the_shared_ones(capsys):
    with pytest.raises(SystemExit) as end:
        mlp.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "A network of two dense layers." in text
    for shown in ("units of the hidden layer (default: 16)", "{relu,gelu}", "--no-norm", "--seeds", "--early-stop"):
        assert shown in text
    assert "mlp(width=16, dropout=0.0, act='relu'" in repr(mlp) and ".run()" in repr(mlp)
    assert mlp.options().bs == 32 and mlp.options(no_norm=True).norm is False


@pytest.mark.parametrize("args, said", [
    (["--width", "0"], "at least 1"), (["--act", "tanh"], "relu"), (["--nowhere", "3"], "--nowhere"),
    (["--dropout", "1.5"], "below 1"),
])  # fmt: skip
def test_a_wrong_command_line_is_one_line(args, said, capsys):
    with pytest.raises(SystemExit) as end:
        mlp.main(args)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and said in error


@pytest.mark.parametrize("options, said", [
    ({"width": 0}, "at least 1"), ({"width": True}, "count"), ({"norm": 1}, "True or False"), ({"act": "tanh"}, "relu"),
    ({"nowhere": 1}, "no option 'nowhere'"), ({"width": "many"}, "'many'"), ({"lr": None}, "None"),
    ({"no_dropout": True}, "no option 'no_dropout'"), ({"no_norm": "false"}, "True or False"),
])  # fmt: skip
def test_a_wrong_option_in_python_is_one_line(options, said):
    with pytest.raises(InputError, match=said):
        mlp.run(**options)


def no_dls(width: int = 3):
    pass


def star(dls, *sizes):
    pass


def several(dls, **sizes):
    pass


def without_default(dls, width):
    pass


def wrong_default(dls, width: count = 0):
    pass


def wrong_choice(dls, act: Literal["a", "b"] = "c"):
    pass


def odd_annotation(dls, widths: list[int] = ()):
    pass


def taken_name(dls, resume: str = ""):
    pass


def negated_twice(dls, bn: bool = True, no_bn: bool = False):
    pass


def parsers_name(dls, help: str = ""):
    pass


def other_kind(dls, epochs: float = 2.5):
    pass


def flag_for_a_number(dls, mixup: bool = True):
    pass


def annotated_later(dls, width: "NotImported" = 3):  # noqa: F821
    pass


@pytest.mark.parametrize("function, said", [
    (no_dls, "first parameter is to be dls"), (star, "'sizes'"), (several, "'sizes'"), (without_default, "no default"),
    (wrong_default, "default does not fit: width"), (wrong_choice, "give one of a, b"), (odd_annotation, "'widths'"),
    (taken_name, "'resume'"), (negated_twice, "--no-bn"), (parsers_name, "'help'"),
    (other_kind, "'epochs' .* is no float: annotate it with count"), (flag_for_a_number, "'mixup' .* is no bool"),
    (annotated_later, "'NotImported' is not defined"),
])  # fmt: skip
def test_a_function_that_makes_no_experiment_is_named_when_it_is_decorated(function, said):
    with pytest.raises(InputError, match=said) as caught:
        experiment(function)
    assert function.__name__ in str(caught.value) and "\n" not in str(caught.value)


def test_calling_it_gives_the_learner(digits_dls):
    learn = mlp(digits_dls, width=8)
    with learn.no_bar(), learn.no_logging():
        learn.fit_decay(1, 1e-3, 1e-4)
    assert learn.model[1].out_features == 8 and learn.validate()[1] > 0.1


def test_it_is_run_from_python(tmp_path, capsys):
    found = mlp.run(**SMALL, width=8, seeds=2, run=str(tmp_path / "run"))
    assert found.folder == tmp_path / "run" and found.report.exists() and len(found.accuracies) == 2
    low, high = found.interval
    assert low <= found.accuracy <= high and found.learn.model[1].out_features == 8
    assert "mlp" in found._repr_html_() and found.metrics["experiment"] == "mlp"
    say("loud again")
    assert "loud again" in capsys.readouterr().out
    config = json.loads((tmp_path / "run/seed-0/config.json").read_text())
    assert (config["width"], config["asked"]["width"], config["defaults"]["width"]) == (8, 8, 16)


def test_custom_through_the_door_is_custom_by_hand(tmp_path):
    from fastai.torch_core import set_seed

    from cifar_fast.all import image_dls, load_images
    from cifar_fast.baselines import custom

    options = {**SMALL, "images": 0, "test_images": 0, "epochs": 3, "width": 4, "precision": "fp32"}
    by_door = custom.run(**options, run=str(tmp_path / "run"))
    set_seed(0)
    learn = custom_learner(image_dls(load_images("digits"), device="cpu", size=32), width=4, precision="fp32")
    with learn.no_bar(), learn.no_logging():
        learn.fit_decay(3, 1e-3, 8e-5)
    state = learn.model.state_dict()
    assert all(torch.equal(o, state[name]) for name, o in by_door.learn.model.state_dict().items())


def test_a_function_without_source_is_an_experiment_too():
    space = {"__name__": "nowhere"}
    exec("def idea(dls, width: int = 3, act='relu'):\n    return dls", space)
    assert vars(Experiment(space["idea"]).options(width=4)).items() >= {"width": 4, "act": "relu"}.items()


# What an experiment may return


def plain(dls):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, dls.c))
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), metrics=[F1Score(average=None), accuracy])


def no_learner(dls):
    return nn.Linear(2, 2)


class OwnLearner(Learner):
    pass


def own_learner(dls):
    return OwnLearner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, dls.c)), loss_func=nn.CrossEntropyLoss())


def killed_then_resumed(made, tmp_path, **changed):
    "Weights of a run as it is, and of one that was killed and resumed."
    whole = made.run(**{**SMALL, **changed}, run=str(tmp_path / "whole"))
    dying = with_cbs(made, Dying())
    with pytest.raises(Killed):
        dying.run(**{**SMALL, **changed}, run=str(tmp_path / "killed"))
    again = made.run(resume=str(tmp_path / "killed"))
    return whole, again


def assert_same(whole, again):
    state = whole.learn.model.state_dict()
    assert all(torch.equal(o, state[name]) for name, o in again.learn.model.state_dict().items())
    assert whole.accuracy == again.accuracy


def test_a_plain_learner_is_converted_and_goes_on_bit_for_bit(tmp_path):
    whole, again = killed_then_resumed(Experiment(plain), tmp_path, precision="fp32")
    assert_same(whole, again)
    assert len(again.first.history.epochs) == 2 and again.metrics["model"] == "Sequential"
    assert whole.first.predictions.preds.sum(1).allclose(torch.ones(60))  # of a loss without an activation


def bare_loss(dls):
    def loss(preds, targs):
        return torch.nn.functional.cross_entropy(preds, targs)

    return fast_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, dls.c)), loss_func=loss, precision="fp32")


def test_a_loss_without_losses_of_single_images_is_tested_by_cross_entropy(tmp_path):
    made = Experiment(bare_loss)
    found = made.run(**{**SMALL, "epochs": 1}, run=str(tmp_path / "run"))
    probs = found.first.predictions
    expected = -probs.preds[torch.arange(60), probs.targs].log().mean().item()
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert found.report.exists() and (tmp_path / "run/export.pkl").exists()


def on_training_images(dls):
    return fast_learner(DataLoaders(dls.train, dls.train), nn.Sequential(nn.Flatten(), nn.Linear(3072, dls.c)))


@pytest.mark.parametrize("function, said", [
    (no_learner, "gave a Linear"), (own_learner, "gave a OwnLearner"), (on_training_images, "on other images"),
])  # fmt: skip
def test_other_things_are_refused_in_one_line(function, said, tmp_path):
    with pytest.raises(InputError, match=said):
        Experiment(function).run(**SMALL, run=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def mixed(dls):
    from fastai.callback.mixup import MixUp
    from fastai.losses import CrossEntropyLossFlat

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, dls.c))
    return fast_learner(
        dls, model, loss_func=CrossEntropyLossFlat(weight=torch.ones(10)), cbs=MixUp(), precision="fp32"
    )


class Counter(Callback):
    "Counts batches, over a kill too: it says what it must keep."

    n = 0

    def after_batch(self):
        self.n += self.training

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def counted(dls):
    return mixed(dls).add_cb(Counter())


def test_mixup_a_weighted_loss_and_a_callback_with_state_go_on_bit_for_bit(tmp_path):
    whole, again = killed_then_resumed(Experiment(counted), tmp_path)
    assert_same(whole, again)
    assert again.learn.counter.n == whole.learn.counter.n > 0


def grouped(dls):
    "An optimizer of fastai's, over groups of the user's own."
    from fastai.optimizer import ranger

    def halves(model):
        return [list(model[1].parameters()), list(model[3].parameters())]

    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, dls.c))
    return fast_learner(dls, model, opt=ranger, splitter=halves, precision="fp32")


def test_an_own_optimizer_over_own_groups_goes_on_bit_for_bit(tmp_path):
    whole, again = killed_then_resumed(Experiment(grouped), tmp_path)
    assert_same(whole, again)
    assert len(again.learn.opt.param_lists) == 2


def two_stages(epochs, width):
    def slowly(learn, cbs):
        learn.fit(1, 1e-4, cbs=cbs)

    return [Stage("train", epochs), Stage("slowly", 1, slowly), Stage("left out", 0, slowly)]


def test_stages_have_their_place_in_the_history_and_go_on(tmp_path):
    made = Experiment(mlp.function, two_stages)
    whole, again = killed_then_resumed(made, tmp_path, epochs=1)
    assert_same(whole, again)
    assert [o["stage"] for o in again.first.history.epochs] == ["train", "slowly"]


@pytest.mark.parametrize("names", [("cycle", "cycle"), ("choose a rate",)])
def test_stages_that_could_not_be_told_apart_are_refused(names):
    with pytest.raises(InputError, match="a name of its own"):
        Experiment(mlp.function, lambda epochs: [Stage(o, epochs) for o in names]).run(**SMALL)
    left_out = Experiment(mlp.function, lambda epochs: [Stage("train", 0), Stage("train", epochs)])
    assert [o.epochs for o in left_out.stages(left_out.options(epochs=3))] == [3]


def test_an_own_option_may_be_called_compile(tmp_path):
    def compiling(dls, compile: bool = False):
        return mlp.function(dls)

    run = Experiment(compiling).run(**SMALL, compile=True, run=str(tmp_path / "run"))
    assert run.metrics["compile_seconds"] == 0


class Clashing(nn.Module):
    "Has attributes with the names of a Learner's."

    def __init__(self, n_out):
        super().__init__()
        self.logits = nn.Linear(3072, n_out)
        for name in ("weights", "scaler", "arch", "compiled", "stopwatch", "card", "lr_finder", "recipe"):
            setattr(self, name, nn.Parameter(torch.zeros(2)))

    def forward(self, x):
        return self.logits(x.flatten(1))


def test_a_network_may_have_attributes_with_the_names_of_a_learners(tmp_path, image_folder):
    def clashing(dls):
        return Learner(dls, Clashing(dls.c), loss_func=nn.CrossEntropyLoss())

    again = image_folder({str(i): 1 for i in range(10)})
    run = Experiment(clashing).run(**SMALL, also_test=[str(again)], run=str(tmp_path / "run"))
    assert run.metrics["model"] == "Clashing" and run.metrics["also_tested"]
    assert write_run(run.learn, tmp_path / "by-hand").metrics["model"] == "Clashing"


def test_options_that_own_stages_do_not_look_at_are_refused(tmp_path):
    made = Experiment(mlp.function, lambda epochs: [Stage("mine", epochs, lambda learn, cbs: learn.fit(1, cbs=cbs))])
    with pytest.raises(InputError, match="do not look at --schedule"):
        made.run(**SMALL, schedule="one_cycle")


def own_schedule(dls, schedule: str = "mine"):
    pass


def test_a_schedule_of_its_own_wants_a_stage_that_does_it():
    with pytest.raises(InputError, match="schedule is 'mine': give one of decay"):
        Experiment(own_schedule).run(**SMALL)
