"""The table of training ideas: a row an idea against the plain training, made once."""

import pytest

from bench import ideas
from cifar_fast.baselines import custom
from cifar_fast.errors import InputError


@pytest.mark.slow
def test_ideas_are_compared_and_runs_that_are_there_are_not_made_again(monkeypatch, tmp_path, capsys, no_pictures):
    asked = dict(
        data="digits", epochs=1, seeds=2, images=100, test_images=60, device="cpu", run=str(tmp_path / "ideas"),
        only="flip random; opt lion, lr 3e-4",
    )  # fmt: skip
    ideas.main(**asked)
    table = capsys.readouterr().out
    rows = [o for o in table.splitlines() if o.startswith("| `--")]
    assert [o.split("`")[1] for o in rows] == ["--flip random", "--opt lion, lr 3e-4"] and " to " in rows[0]
    monkeypatch.setattr(type(custom), "run", lambda *args, **kwargs: pytest.fail("trained again"))
    ideas.main(**asked)
    assert [o for o in capsys.readouterr().out.splitlines() if o.startswith("| `--")] == rows

    with pytest.raises(InputError, match="begun with epochs 1, and now it is 2"):
        ideas.main(**{**asked, "epochs": 2})


def test_an_unknown_idea_is_named():
    with pytest.raises(InputError, match="no idea 'flop'"):
        ideas.main(only="flop")
    with pytest.raises(InputError, match="no idea 'warmup 1' for record"):
        ideas.main(experiment="record", only="warmup 1")
