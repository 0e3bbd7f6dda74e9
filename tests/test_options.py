"""The scripts' options, and how scripts end."""

import json
import sys
import sysconfig
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

import cifar_fast
from cifar_fast.baselines import transfer
from cifar_fast.cli import exit_codes
from cifar_fast.commands import main
from cifar_fast.errors import ImageError, InputError, MissingExtra, RunError, own_place
from cifar_fast.options import check_seeds, seed_number


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
