"""Data sets are found, downloaded, cached and decoded anew as promised."""

import hashlib
import multiprocessing
import os
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from cifar_fast.data import image_set
from cifar_fast.data import sources as data
from cifar_fast.data.cache import cache_dir
from cifar_fast.data.download import DownloadError
from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError
from cifar_files import VOCAB, archive, batches, write_batches
from servers import serving


@pytest.fixture
def tiny_cifar10(monkeypatch):
    "Lets 100 + 20 images count as CIFAR-10, and points all downloads at a closed port."
    for module in (data, image_set):
        monkeypatch.setattr(module, "CIFAR10_SIZES", (100, 20))
    for name in ("CIFAR10_URL", "MIRROR_URL"):
        monkeypatch.setattr(data, name, "http://127.0.0.1:9/nothing")


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


def cached():
    return sorted(o.name for o in cache_dir().iterdir())


@pytest.mark.parametrize("form", ["archive", "batches", "parent", "folder of the archive"])
def test_every_form_of_cifar10_is_recognised(tmp_path, tiny_cifar10, form):
    root = tmp_path / "data"
    if "archive" in form:
        root.mkdir()
        (root / "cifar-10-python.tar.gz").write_bytes(archive(batches()))
        path = root / "cifar-10-python.tar.gz" if form == "archive" else root
    else:
        path = write_batches(root / "cifar-10-batches-py", batches())
        path = path.parent if form == "parent" else path
    assert load_images(path).is_cifar10


def test_a_second_start_reads_the_cache(image_folder, monkeypatch):
    root = image_folder({"train/a": 4, "test/a": 2})
    first = load_images(root)
    monkeypatch.setattr(data, "read_image_folder", None)
    second = load_images(root)
    assert torch.equal(first.train_x, second.train_x) and torch.equal(first.test_y, second.test_y)
    assert (first.name, first.vocab, first.mean, first.std) == (second.name, second.vocab, second.mean, second.std)


def test_a_changed_source_is_decoded_again(image_folder):
    root = image_folder({"train/a": 4, "test/a": 2})
    first = load_images(root)
    os.replace(root / "train/a/0.png", root / "train/a/9.png")
    assert not torch.equal(first.train_x, load_images(root).train_x)
    os.utime(root / "train/a/9.png", ns=(1, 1))
    (root / "train/a/9.png").unlink()
    assert len(load_images(root).train_y) == 3
    assert len(cached()) == 1


def test_a_folder_is_stored_at_the_size_asked_for(image_folder):
    root = image_folder({"train/a": 4, "test/a": 2})
    assert load_images(root, 20).train_x.shape[-1] == 20
    assert load_images(root, 32).train_x.shape[-1] == 32


def test_other_images_of_the_same_size_and_time_are_decoded_anew(tmp_path):
    root, before = tmp_path / "pets", {}
    for i in range(20):
        path = root / "ab"[i % 2] / f"{i}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
        before[path] = path.stat()
    assert load_images(root).train_x.max() < 20
    for i, (path, stat) in enumerate(before.items()):
        Image.new("RGB", (8, 8), (200 + i, 200, 200)).save(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as tar and rsync do
        assert path.stat().st_size == stat.st_size
    assert load_images(root).train_x.min() == 200


def test_images_of_one_grey_are_refused(tmp_path):
    for i in range(10):
        (tmp_path / "pets" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 7).save(tmp_path / "pets" / "ab"[i % 2] / f"{i}.png")
    with pytest.raises(InputError, match="all pixels of all training images are the same"):
        load_images(tmp_path / "pets")


@pytest.mark.parametrize("damage", [lambda b: b[:50], lambda b: b"", lambda b: b"\xff" * 100])
def test_a_damaged_cache_is_made_anew(image_folder, damage):
    root = image_folder({"train/a": 4, "test/a": 2})
    first = load_images(root)
    path = cache_dir() / cached()[0]
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(load_images(root).train_x, first.train_x)


def test_a_cache_that_cannot_be_written_is_a_warning(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_images(image_folder({"train/a": 4, "test/a": 2})).train_y) == 4
    assert "not cached" in capsys.readouterr().err


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 100_000}))


def mapped(x):
    "Whether a tensor lies in a mapped file: its pages are in no memory of the process's own."
    with open("/proc/self/maps") as file:
        spans = [(line.split()[0].split("-"), line) for line in file]
    return any(int(a, 16) <= x.data_ptr() < int(b, 16) and "/" in line for (a, b), line in spans)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_images_that_memory_cannot_hold_are_mapped_and_the_same(image_folder, little_memory, capsys, monkeypatch):
    root = image_folder({"train/a": 20, "train/b": 20, "test/a": 6, "test/b": 6})
    (root / "train/a/3.png").write_bytes(b"")
    large = load_images(root, skip_bad=True)
    assert "GB of training images are mapped from" in capsys.readouterr().out and mapped(large.train_x)
    assert not list(cache_dir().glob(".mapped-*"))
    dls = image_dls(large, bs=8, valid="holdout", device="cpu")
    assert mapped(dls.train_ds.x)
    parts = [large.without([0, 1]), large.fewer(30), large.fold(1, 3)]
    monkeypatch.undo()
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(root.parent / "other"))
    small = load_images(root, skip_bad=True)
    assert not mapped(small.train_x[:1].clone()) and torch.equal(large.train_x, small.train_x)
    for part, other in zip(parts, [small.without([0, 1]), small.fewer(30), small.fold(1, 3)]):
        assert torch.equal(part.train_x, other.train_x) and torch.equal(part.test_x, other.test_x)
    again = image_dls(small, bs=8, valid="holdout", device="cpu")
    for made in (dls, again):
        made.train.rng.seed(0)
    for a, b in zip(dls.train, again.train, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_disk_without_room_for_mapped_images_is_said(image_folder, little_memory, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"more than half of the free memory.*CIFAR_FAST_CACHE"):
        load_images(image_folder({"train/a": 20, "train/b": 20}))


def test_what_is_too_long_for_a_path_is_none():
    with pytest.raises(InputError, match="does not exist"):
        load_images("nowhere" * 99)


def test_the_environment_names_the_data(tmp_path, tiny_cifar10, monkeypatch):
    monkeypatch.setenv("CIFAR_FAST_DATA", str(write_batches(tmp_path / "b", batches())))
    assert load_images("auto").is_cifar10 and load_images("cifar10").is_cifar10


@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_the_environment_naming_something_else_is_an_error(image_folder, monkeypatch, name):
    monkeypatch.setenv("CIFAR_FAST_DATA", str(image_folder({"train/a": 4, "test/a": 2})))
    with pytest.raises(InputError, match="is not CIFAR-10"):
        load_images(name)


def test_auto_falls_back_to_digits_with_a_banner(tiny_cifar10, capsys):
    assert load_images("auto").name == "digits"
    assert "NOT CIFAR-10" in capsys.readouterr().err


def test_cifar10_is_strict(tiny_cifar10):
    with pytest.raises(DownloadError, match="nor from the mirror"):
        load_images("cifar10")
    assert cached() == []


def test_the_official_archive_is_downloaded_once(tiny_cifar10, monkeypatch):
    content = archive(batches())
    monkeypatch.setattr(data, "CIFAR10_MD5", md5(content))
    with serving({"c.tar.gz": content}) as url:
        monkeypatch.setattr(data, "CIFAR10_URL", f"{url}/c.tar.gz")
        assert load_images("cifar10").is_cifar10
    assert load_images("cifar10").is_cifar10
    assert len(cached()) == 2


def mirror_archive(image_folder):
    counts = {f"{split}/{c}": n for split, n in (("train", 10), ("test", 2)) for c in VOCAB}
    root = image_folder(counts, size=(32, 32), name="cifar10")
    return archive({str(o.relative_to(root)): o.read_bytes() for o in root.rglob("*.png")}, "cifar10")


def test_the_mirror_serves_where_the_first_fails(image_folder, tiny_cifar10, monkeypatch):
    content = mirror_archive(image_folder)
    monkeypatch.setattr(data, "MIRROR_MD5", md5(content))
    with serving({"m.tgz": content}) as url:
        monkeypatch.setattr(data, "MIRROR_URL", f"{url}/m.tgz")
        assert load_images("cifar10").is_cifar10
    assert load_images("cifar10").vocab == VOCAB
    assert cached()[0] == "cifar10" and len(cached()) == 2


def test_wrong_checksums_leave_nothing_behind(tiny_cifar10, monkeypatch):
    with serving({"c": b"something else"}) as url:
        for name in ("CIFAR10_URL", "MIRROR_URL"):
            monkeypatch.setattr(data, name, f"{url}/c")
        with pytest.raises(DownloadError, match="checksum"):
            load_images("cifar10")
    assert cached() == []


def test_unreadable_images_leave_no_cache(image_folder):
    root = image_folder({"train/a": 3, "test/a": 1})
    (root / "train/a/1.png").write_text("not a picture")
    with pytest.raises(InputError):
        load_images(root)
    assert not cache_dir().exists() or cached() == []


def _load(root: str, queue) -> None:
    queue.put(int(load_images(Path(root)).train_x.long().sum()))


def test_two_processes_at_once_agree(image_folder):
    root = image_folder({"train/a": 40, "test/a": 20})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(str(root), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert sums == {int(load_images(root).train_x.long().sum())}
    assert len(cached()) == 1
