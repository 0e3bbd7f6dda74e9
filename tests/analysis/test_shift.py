"""Changed images, and how a model holds."""

import pytest
import torch
from fastai.learner import Learner
from torch import nn

from cifar_fast.analysis.asking import logits_of
from cifar_fast.analysis.charts import plot_curves
from cifar_fast.analysis.confidence import plot_selective
from cifar_fast.analysis.neighbours import plot_neighbours
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.shift import KINDS, Shift, measure_shift, plot_kinds, plot_shift, shifted
from cifar_fast.deploy.export import model_card
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import InputError
from cifar_fast.training import schedules  # noqa: F401 - fit_decay
from cifar_fast.training.learner import custom_learner


@pytest.fixture(scope="module")
def photo():
    "A coloured picture with edges: uint8 (1, 3, 32, 32)."
    ramp = torch.arange(32).float() * 8
    image = torch.stack([ramp[:, None].expand(32, 32), ramp[None].expand(32, 32), torch.full((32, 32), 90.0)])
    image[:, 8:16, 8:16] = 250
    return image.to(torch.uint8)[None]


@pytest.mark.parametrize("kind", KINDS)
def test_severities_lead_away_from_the_image(photo, kind):
    found = [shifted(photo, kind, o) for o in range(1, 6)]
    assert all(o.shape == photo.shape and o.dtype == torch.uint8 for o in found)
    away = [(o.float() - photo.float()).abs().mean().item() for o in found]
    assert 0 < away[0] < away[2] < away[4]


def test_noise_is_the_same_each_time_and_differs_between_images(photo):
    two = photo.repeat(2, 1, 1, 1)
    state = torch.get_rng_state()
    first = shifted(two, "noise", 3)
    assert torch.equal(first, shifted(two, "noise", 3)) and not torch.equal(first[0], first[1])
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_kinds_and_severities_are_refused(photo):
    for kind, severity in (("fog", 1), ("noise", 0), ("noise", 6)):
        with pytest.raises(InputError):
            shifted(photo, kind, severity)


def test_a_learner_and_its_saved_model_are_measured_alike(digits_dls, digits, tmp_path):
    learn = custom_learner(digits_dls, width=4, precision="fp32", path=tmp_path)
    learn.fit_decay(2, 3e-3, 1e-3)
    predictor = Predictor(learn.export_safe("model"), bs=100)
    images = digits.test_x.permute(0, 2, 3, 1)
    assert torch.allclose(logits_of(learn, images), logits_of(predictor, images), atol=1e-4)
    both = [measure_shift(o, digits.test_x, digits.test_y, ["noise", "rotated"]) for o in (learn, predictor)]
    assert both[0].accuracies["rotated"] == pytest.approx(both[1].accuracies["rotated"], abs=0.01)
    found = both[1]
    assert found.clean == pytest.approx((predictor.logits(images.numpy()).argmax(1) == digits.test_y.numpy()).mean())
    assert found.accuracies["rotated"][-1] < found.clean - 0.1
    assert (
        len(plot_shift(found, both[0]).axes) == 5
        and plot_kinds(digits.test_x[0]).axes[0].get_yticklabels()[-1].get_text() == list(KINDS)[-1]
    )


class NamedAsOurs(nn.Module):
    "A network whose parts have names that objects of the package have too."

    def __init__(self):
        super().__init__()
        self.card, self.logits = nn.Flatten(), nn.Linear(3 * 32 * 32, 10)
        self.arch = self.recipe = self.last_fit = self.weights = nn.Identity()

    def forward(self, x):
        return self.recipe(self.logits(self.card(x)))


def test_a_networks_parts_may_have_any_name(digits_dls, digits):
    learn = Learner(digits_dls, NamedAsOurs(), loss_func=nn.CrossEntropyLoss())
    learn.fit(1, 1e-3)
    assert plot_curves(learn).axes and model_card(learn).weights == "none"
    assert measure_shift(learn, digits.test_x, digits.test_y, ["noise"]).clean > 0.3


def test_a_title_with_dollar_signs_is_no_formula():
    preds = Predictions(torch.eye(3), torch.arange(3), ["a", "b", "c"])
    title = r"$\half$ of it"
    picture = torch.zeros(8, 8, 3).numpy(), "above"
    shift = Shift(0.9, {"a": [0.8] * 5}, {}, 10)
    for fig in (plot_shift(shift, title=title), plot_selective(preds, title), plot_neighbours([picture], [[]], title)):
        fig.draw_without_rendering()


def test_errors_against_a_baseline_are_a_mean_of_ratios():
    own = Shift(0.9, {"a": [0.8] * 5, "b": [0.9] * 5}, {}, 10)
    other = Shift(0.9, {"a": [0.6] * 5, "b": [0.9] * 5}, {}, 10)
    assert own.error_against(other) == pytest.approx((0.5 + 1) / 2)
    assert own.error_against(own) == pytest.approx(1)
    with pytest.raises(InputError, match="other kinds"):
        own.error_against(Shift(0.9, {"a": [0.6] * 5}, {}, 10))
