"""Files are written whole, for whom the umask says, on disks that lock and sync nothing too."""

import errno
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cifar_fast import files
from cifar_fast.data.cache import cache_dir
from cifar_fast.errors import InputError
from cifar_fast.files import write_atomically, write_tensors
from cifar_fast.runs.folder import Run
from conftest import make_run


@pytest.mark.parametrize(("umask", "wanted"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_written_files_are_for_whom_the_umask_says(tmp_path, umask, wanted):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {})
        write_atomically(tmp_path / "b.txt", lambda tmp: tmp.write_text("b"))
    finally:
        os.umask(before)
    assert {o.name: stat.S_IMODE(o.stat().st_mode) for o in tmp_path.iterdir()} == {
        "a.safetensors": wanted, "b.txt": wanted,
    }  # fmt: skip


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_colleagues_read_all_that_a_run_leaves_as_the_umask_says(tmp_path, image_folder, umask):
    root, before = image_folder({"cat": 10, "dog": 10}), os.umask(umask)
    shutil.make_archive(str(tmp_path / "pets"), "zip", root)
    try:
        make_run(tmp_path / "run", data=str(tmp_path / "pets.zip"), epochs=1, lr="auto", bs=2, size=8, width=4)
        pytest.importorskip("ray")
        from cifar_fast.runs.sweep import KeepTrials

        trials = tmp_path / "run/trials"
        trials.mkdir()
        trial = SimpleNamespace(last_result={"accuracy": 0.5, "epoch": 1}, config={})
        KeepTrials(trials).on_trial_complete(1, [], trial)
    finally:
        os.umask(before)
    found = [*(tmp_path / "run").rglob("*"), *cache_dir().rglob("*")]
    modes = {o: stat.S_IMODE(o.stat().st_mode) for o in found}
    assert {o: oct(mode) for o, mode in modes.items() if mode != (0o777 if o.is_dir() else 0o666) & ~umask} == {}
    names = {o.name for o in found}
    assert {"predictions.safetensors", "checkpoint.pt", "lr_find.png", "model.json", "report.html", "0.png"} <= names


@pytest.fixture(params=[errno.ENOTSUP, errno.ENOSYS])  # the second one makes filelock lock in a way of its own
def bare_disk(request, monkeypatch):
    "A disk that locks no files and syncs no folders, as some network disks."
    fcntl = pytest.importorskip("fcntl")
    sync = os.fsync

    def no_lock(*args):
        raise OSError(request.param, os.strerror(request.param))

    def no_folder_sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(fcntl, "flock", no_lock)
    monkeypatch.setattr(os, "fsync", no_folder_sync)
    files.warn_once.cache_clear()


def test_a_disk_without_locks_and_syncs_gets_one_warning_each(bare_disk, capsys, tmp_path):
    run = Run(tmp_path / "run")
    run.write_json("config.json", {})
    run.write_json("metrics.json", {})
    run.release()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all(o.startswith("warning: this disk ") for o in warnings)
    assert {o.name for o in run.folder.iterdir()} == {"config.json", "metrics.json"}


def test_a_disk_that_fails_is_an_error_still(monkeypatch, tmp_path):
    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "a.txt", lambda tmp: tmp.write_text("a"))
    assert list(tmp_path.iterdir()) == []


def test_a_named_cache_needs_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() == Path(os.environ["CIFAR_FAST_CACHE"])
    monkeypatch.delenv("CIFAR_FAST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match=r"no home folder.*\$CIFAR_FAST_CACHE"):
        cache_dir()


def refused(folder):
    "A run that unusable input ends, after it has written something."
    run = Run(folder)
    run.write_json("config.json", {})
    run.discard()
    run.release()


def test_a_refused_run_leaves_the_users_own_folder_and_removes_what_it_has_made(tmp_path, monkeypatch):
    own, made, link, here = (tmp_path / o for o in ("own", "made", "link", "here"))
    own.mkdir()
    here.mkdir()
    link.symlink_to(own, target_is_directory=True)
    monkeypatch.chdir(here)
    for folder in (own, made, link, "."):
        refused(folder)
    assert not made.exists() and link.is_symlink()
    assert list(own.iterdir()) == [] and list(here.iterdir()) == []


def test_a_folder_that_cannot_be_removed_does_not_hide_the_reason(tmp_path, monkeypatch):
    def busy(*args, **kwargs):
        raise OSError(errno.EBUSY, "Device or resource busy")

    run = Run(tmp_path / "mount")
    monkeypatch.setattr(os, "rmdir", busy)
    run.discard()
    run.release()
