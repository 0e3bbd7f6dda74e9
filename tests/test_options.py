"""The scripts' options, and how scripts end."""

import json
import sys
import sysconfig
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Literal

import pytest

import cifar_fast
from cifar_fast.baselines import transfer
from cifar_fast.cli import exit_codes
from cifar_fast.commands import main
from cifar_fast.errors import ImageError, InputError, MissingExtra, RunError, own_place
from cifar_fast.experiment import Experiment
from cifar_fast.files import read_json, stored, write_json
from cifar_fast.options import check_seeds, count, seed_number


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("give less"), 2, "error: give less"),
        (ImageError("a.png is none"), 2, "error: a.png is none"),
        (MissingExtra("onnx", "this"), 2, "error: this needs what is not installed: pip install 'cifar_fast[onnx]'"),
        (RunError("the loss is nan"), 1, "error: the loss is nan"),
        (RunError("Exception occured in `StopOnNaN`:\n\n\tthe loss is nan"), 1, "error: the loss is nan"),
        (OSError(28, "No space left on device", "x"), 1, "error: [Errno 28] No space left on device: 'x'"),
        (RuntimeError("CUDA error: device lost\nmore"), 1, "error: the GPU failed (CUDA error: device lost)"),
        (InputError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_scripts_end_with_one_line_and_their_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as end, exit_codes():
        raise error
    assert end.value.code == code and capsys.readouterr().err == line + "\n"


def test_an_error_in_own_code_is_shown_without_libraries_lines(capsys):
    with pytest.raises(SystemExit) as end, exit_codes():
        json.loads("{")
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("File ") == 1 and "test_options.py" in said and "JSONDecodeError" in said


@pytest.mark.parametrize(
    "folder", [Path(cifar_fast.__file__).parent, sysconfig.get_path("stdlib")], ids=["ours", "Python"]
)
def test_own_code_beside_a_librarys_folder_is_not_the_librarys(folder):
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", f"{folder}_idea.py", "exec"))
    assert own_place(caught.value) == f"{Path(folder).name}_idea.py, line 1, <module>"


def test_bugs_of_the_package_are_not_hidden():
    with pytest.raises(TypeError), exit_codes():
        check_seeds("one", 3)


@pytest.mark.parametrize(
    ("args", "said"),
    [(["custom", "--epohcs", "3"], "did you mean --epochs?"), (["custom", "--epo", "3"], "did you mean --epochs?"),
     (["custom", "--prec=bf16"], "did you mean --precision?"), (["costum"], "did you mean custom?"),
     (["wide.py"], "cifar-fast run wide.py")],
)  # fmt: skip
def test_what_is_mistyped_is_guessed(args, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cifar-fast", *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(InputError, match="did you mean epochs"):
        transfer.options(epohcs=3)


def test_a_seed_is_what_torch_and_numpy_take():
    assert seed_number(str(2**32 - 1)) == 2**32 - 1
    for text in ("4294967296", "-1", "one"):
        with pytest.raises(ArgumentTypeError, match="from 0 to"):
            seed_number(text)


def test_seeds_that_follow_one_another_stay_seeds():
    check_seeds(2**32 - 3, 3)
    with pytest.raises(InputError, match="smaller --seed"):
        check_seeds(2**32 - 2, 3)


def test_programs_get_a_scripts_defaults():
    options = transfer.options(epochs=3)
    assert (options.epochs, options.bs, options.lr, options.head, options.seeds) == (3, 64, 1e-3, "linear", 1)
    assert transfer.options(cutmix=1.0).cutmix == transfer.options(mixup=1).mixup == 1  # as published
    with pytest.raises(InputError, match="no option 'width'"):
        transfer.options(width=3)


def odd(
    dls,
    depth: int | None = 3,
    act: Literal["a", None] = "a",
    mode: str | None = "x",
    width: count | None = 8,
    called: Literal["none", "b"] | None = "b",
    pool: bool | None = True,
    floor: float = float("-inf"),
    fill: float = float("nan"),
    place: Path = Path("here"),
):
    pass


def asked(capsys, monkeypatch, *args):
    "The options that a command line gives."
    found = []
    monkeypatch.setattr("cifar_fast.runs.launch.train", lambda made, options, given: found.append(options) or (0,))
    with pytest.raises(SystemExit) as end:
        Experiment(odd).main(list(args))
    return found[0] if found else (end.value.code, capsys.readouterr())


def test_none_is_given_where_the_annotation_has_it(capsys, monkeypatch):
    names = ("depth", "act", "mode", "width", "pool")
    args = [o for name, value in zip(names, ("none", "None", "none", "NONE", "none")) for o in (f"--{name}", value)]
    found = asked(capsys, monkeypatch, *args, "--called", "none")
    assert [getattr(found, o) for o in names] == [None] * 5 and found.called == "none"
    found = Experiment(odd).options(**dict.fromkeys(names), called=None)
    assert [getattr(found, o) for o in (*names, "called")] == [None] * 6
    assert Experiment(odd).options(mode="none").mode == "none" and Experiment(odd).options(no_pool=None).pool is None
    assert Experiment(odd).parse_option("depth", "none") == ("depth", None)


def test_help_shows_none_and_what_does_not_fit_is_one_line(capsys, monkeypatch):
    _, said = asked(capsys, monkeypatch, "--help")
    assert all(o in said.out for o in ("--depth (int|none)", "--act {a,none}", "--width (count|none)", "[(bool|none)]"))
    for args, wanted in ((("--depth", "x"), "int|none"), (("--width", "0"), "at least 1"), (("--act", "b"), "choose")):
        code, said = asked(capsys, monkeypatch, *args)
        assert code == 2 and said.err.count("\n") == 1 and wanted in said.err
    assert [asked(capsys, monkeypatch, *o).pool for o in ([], ["--pool"], ["--pool", "false"])] == [True, True, False]
    with pytest.raises(InputError, match="give one of a, none"):
        Experiment(odd).options(act="b")
    with pytest.raises(InputError, match="place is None: give a Path"):
        Experiment(odd).options(place=None)


def never_none(dls, size: int | None = 32):
    pass


def test_an_option_of_every_experiment_is_not_made_none():
    with pytest.raises(InputError, match=r"'size' .* never None: annotate it without None"):
        Experiment(never_none)


def test_values_of_options_survive_their_file(tmp_path):
    made = Experiment(odd)
    for changed in (
        {},
        {"depth": None, "floor": float("inf"), "mode": "none", "place": Path("there"), "lr": 0.1 + 0.2},
    ):
        options = vars(made.options(**changed))
        write_json(tmp_path / "config.json", stored(options))
        again = vars(made.options(**read_json(tmp_path / "config.json")))
        assert repr(again) == repr(options) and stored(again) == stored(options) == read_json(tmp_path / "config.json")
    write_json(tmp_path / "metrics.json", {"loss": float("nan"), "f1": [float("inf"), 0.5]})
    assert read_json(tmp_path / "metrics.json") == {"loss": None, "f1": [None, 0.5]}


def test_what_pages_annotate_with_is_in_all():
    from cifar_fast import all as names

    assert names.Literal is Literal and names.Path is Path and names.count is count
