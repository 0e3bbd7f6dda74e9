"""Files of experiments as modules: by the name that Python imports them by, alone and in packages."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_fast.errors import InputError
from cifar_fast.experiment import load_experiment
from processes import ROOT

BLOCKS = "def block():\n    return 8\n"
IDEAS = """
from cifar_fast.experiment import experiment
from {}blocks import block


class Net:
    pass


@experiment
def rel(dls, width: int = block()):
    return Net
"""


@pytest.fixture(autouse=True)
def own_modules(monkeypatch, tmp_path):
    "What a test imports of its own files, the next one does not find."
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("pkg") or str(vars(module).get("__file__")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def package(tmp_path):
    "Makes the package `pkg.nets` with an experiment in `ideas.py`; gives that file."

    def make(dots: str = ".", inits: tuple[str, ...] = ("pkg", "pkg/nets"), name: str = "pkg/nets/ideas.py") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "blocks.py").write_text(BLOCKS)
        for folder in inits:
            (tmp_path / folder / "__init__.py").touch()
        file.write_text(IDEAS.format(dots))
        return file

    return make


def python(*args, cwd=None):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_file_in_a_package_is_imported_by_its_whole_name(package, tmp_path):
    made = load_experiment(file := package())
    assert made.options().width == 8 and made.module == "pkg.nets.ideas" == made.function(None).__module__
    assert pickle.loads(pickle.dumps(made.function(None))) is made.function(None)
    assert sys.modules["pkg.nets"].ideas.rel is made
    assert load_experiment(f"{file}:rel") is made and pickle.loads(pickle.dumps(made)) is made
    assert sys.path[0] == str(tmp_path) and sys.path[-1] == str(file.parent)


@pytest.mark.parametrize("dots, inits", [("", ("pkg", "pkg/nets")), ("pkg.nets.", ("pkg/nets",)), ("", ())])
def test_what_lies_beside_it_or_in_its_package_is_found_too(package, dots, inits, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))  # as by PYTHONPATH
    assert load_experiment(package(dots, inits)).options().width == 8


def test_a_file_that_is_edited_is_imported_anew(package):
    before = load_experiment(file := package())
    file.write_text(file.read_text().replace("block()):", "block() + 8):"))
    assert load_experiment(file).options().width == 16 and before.options().width == 8
    assert sys.modules["pkg.nets"].ideas is sys.modules["pkg.nets.ideas"]


def test_an_experiment_that_its_package_imports_is_loaded_once(package):
    file = package()
    (file.parent / "__init__.py").write_text("from .ideas import rel\n")
    assert load_experiment(file) is sys.modules["pkg.nets"].rel
    again = load_experiment(package(name="other/__init__.py", inits=()))
    assert again.module == "other" and again.options().width == 8


@pytest.mark.parametrize("name, inits", [("random.py", ()), ("json/ideas.py", ("json",)), ("colorsys.py", ())])
def test_files_and_folders_may_be_called_as_pythons_own(package, name, inits):
    theirs = sys.modules.get("random"), sys.modules.get("json")
    made = load_experiment(package("", inits, name))
    assert made.options().width == 8 and made.function(None) is pickle.loads(pickle.dumps(made.function(None)))
    assert theirs == (sys.modules.get("random"), sys.modules.get("json"))


def test_a_packages_modules_do_not_hide_pythons_own(package):
    file = package()
    (file.parent / "colorsys.py").write_text("raise RuntimeError('not me')\n")
    sys.modules.pop("colorsys", None)
    load_experiment(file)
    import colorsys

    assert colorsys.rgb_to_hls


@pytest.mark.parametrize("inits", [("pkg", "pkg/nets"), ()])
def test_it_is_started_by_its_name_and_known_by_it_in_other_processes(package, tmp_path, monkeypatch, inits):
    package(inits=inits)
    told = python("-m", "pkg.nets.ideas", "--help", cwd=tmp_path)
    assert told.returncode == 0 and "--width (int)" in told.stdout, told.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    made = __import__("pkg.nets.ideas", fromlist=["rel"]).rel
    (tmp_path / "made.pkl").write_bytes(pickle.dumps(made))  # as a sweep hands it to its processes
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).module)"
    assert python("-c", code, tmp_path / "made.pkl").stdout == "pkg.nets.ideas\n"


def test_relative_imports_without_a_package_are_one_line(package):
    with pytest.raises(InputError, match=r"give each folder of its package an __init__\.py"):
        load_experiment(package(inits=()))


@pytest.mark.parametrize("where, said", [("pkg", ZeroDivisionError), ("pkg/nets", ModuleNotFoundError)])
def test_an_error_in_a_package_is_its_own(package, tmp_path, where, said):
    file = package()
    (tmp_path / where / "__init__.py").write_text("1 / 0" if said is ZeroDivisionError else "import nobody_has_this")
    with pytest.raises(said):
        load_experiment(file)


def test_a_name_that_an_annotation_lacks_is_one_line(tmp_path):
    file = tmp_path / "acts.py"
    text = (
        "from cifar_fast.experiment import experiment\n@experiment\ndef acts(dls, act: Literal['a'] = 'a'):\n    pass\n"
    )
    file.write_text(text)
    with pytest.raises(InputError, match=r"acts\.py: an annotation .*'Literal' is not defined\): import"):
        load_experiment(file)
    file.write_text(text.replace("Literal['a']", "str") + "nothing\n")
    with pytest.raises(NameError):
        load_experiment(file)


@pytest.mark.slow
def test_a_sweep_finds_a_package_in_its_processes(package, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    file = package()
    lines = (
        "from cifar_fast.all import CustomCNN, fast_learner",
        "return fast_learner(dls, CustomCNN(dls.c, width=width))",
    )
    file.write_text(file.read_text().replace("return Net", "\n    ".join(lines)))
    small = ["epochs=1", "images=200", "test_images=60", "device=cpu"]
    found = load_experiment(file).sweep(
        ["width=choice(2,4)", *small], data="digits", trials=2, run=str(tmp_path / "run")
    )
    assert len(list((tmp_path / "run/trials").glob("*.json"))) == 2 and found.metrics["experiment"] == "rel"
