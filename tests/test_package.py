"""What is built for others to install: a source archive, a wheel of it, and the console command."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

import cifar_fast

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_sdist_and_wheel_install_into_a_fresh_environment(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "cifar_fast", source / "cifar_fast", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    sdist = tmp_path / f"cifar_fast-{cifar_fast.__version__}.tar.gz"
    with tarfile.open(sdist) as tar:
        assert f"{sdist.name[:-7]}/LICENSE" in tar.getnames()

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", sdist, "-w", tmp_path], check=True)
    venv.create(tmp_path / "fresh", with_pip=False)
    fresh = tmp_path / "fresh/bin"
    wheel = tmp_path / f"cifar_fast-{cifar_fast.__version__}-py3-none-any.whl"
    subprocess.run([*pip, "--python", fresh / "python", "install", *alone, wheel], check=True)

    # what it needs is borrowed from this environment; the package itself must come from the wheel
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    told = subprocess.run([fresh / "cifar-fast", "--help"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.returncode == 0 and "usage: cifar-fast JOB" in told.stdout, told.stderr
    code = (
        "import cifar_fast.runs, importlib.metadata as m; from importlib.resources import files\n"
        "print(cifar_fast.__file__, (files('cifar_fast') / 'py.typed').is_file(),\n"
        "      (files('cifar_fast.runs') / 'templates/report.html').is_file())"
    )
    told = subprocess.run([fresh / "python", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert str(tmp_path / "fresh") in told.stdout and told.stdout.endswith("True True\n"), told.stderr
