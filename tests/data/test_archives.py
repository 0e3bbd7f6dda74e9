"""Data sets in one file: read whole or refused, never in part, and nothing in them runs."""

import errno
import gzip
import lzma
import pickle
import zipfile

import numpy as np
import pytest
import torch

from cifar_fast.data import sources
from cifar_fast.data.archives import read_cifar_archive, read_cifar_batches
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError
from cifar_files import VOCAB, Hostile, archive, batches, write_batches


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_batch_files_and_archive_hold_the_same_images(tmp_path, protocol):
    files = batches(protocol=protocol)
    (tmp_path / "a.tar.gz").write_bytes(archive(files))
    first = pickle.loads(files["data_batch_1"])
    for images in (
        read_cifar_batches(write_batches(tmp_path / "cifar-10-batches-py", files)),
        read_cifar_archive(tmp_path / "a.tar.gz"),
    ):
        assert (images.name, images.vocab, images.is_cifar10) == ("cifar10", VOCAB, False)
        assert images.train_x.shape == (100, 3, 32, 32) and images.test_x.shape == (20, 3, 32, 32)
        assert images.train_x.dtype == torch.uint8 and images.train_y.dtype == torch.int64
        assert np.array_equal(images.train_x[:20].numpy().reshape(20, 3072), first[b"data"])
        assert images.train_y[:20].tolist() == first[b"labels"]


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    files = {**batches(), "data_batch_3": pickle.dumps({b"data": Hostile(tmp_path / "owned")})}
    with pytest.raises(InputError, match=r"data_batch_3.*open"):
        read_cifar_batches(write_batches(tmp_path / "b", files))
    (tmp_path / "a.tar.gz").write_bytes(archive(files))
    with pytest.raises(InputError, match="data_batch_3"):
        read_cifar_archive(tmp_path / "a.tar.gz")
    assert not (tmp_path / "owned").exists()


ROWS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batches()["test_batch"][:1000], "damaged"),
        (b"", "damaged"),
        (pickle.dumps([1, 2]), "no dictionary"),
        (pickle.dumps({b"data": ROWS, b"labels": [0] * 3}), "4 images and 3 labels"),
        (pickle.dumps({b"data": ROWS[:, :99], b"labels": [0] * 4}), "3,072"),
        (pickle.dumps({b"data": ROWS, b"labels": [0, 1, 2, 10]}), "outside 0 to 9"),
        (pickle.dumps({b"labels": [0]}), "lacks"),
        (None, "has no test_batch"),
    ],
)
def test_a_bad_batch_file_is_named(tmp_path, content, message):
    files = batches()
    files.pop("test_batch")
    if content is not None:
        files["test_batch"] = content
    with pytest.raises(InputError, match=message):
        read_cifar_batches(write_batches(tmp_path / "b", files))


@pytest.mark.parametrize("damage", [lambda o: o[: len(o) // 2], lambda o: b"root:x:0:0"])
def test_what_is_no_whole_archive_is_one_line(tmp_path, damage):
    (tmp_path / "a.tar.gz").write_bytes(damage(archive(batches())))
    with pytest.raises(InputError, match="not a whole") as error:
        read_cifar_archive(tmp_path / "a.tar.gz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("at", [0.5, -8, -4, 30])
def test_an_archive_of_which_a_byte_has_changed_is_refused(tmp_path, at):
    raw = gzip.decompress(archive(batches()))
    whole = gzip.compress(raw, 0)  # stored: a changed byte of a pixel decodes
    i = int(len(whole) * at) if isinstance(at, float) else at % len(whole)
    (tmp_path / "a.tar.gz").write_bytes(whole)
    read_cifar_archive(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar.gz").write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
    with pytest.raises(InputError, match=r"a\.tar\.gz") as error:
        load_images(tmp_path / "a.tar.gz")
    assert "\n" not in str(error.value)


def cifar100(protocol=2):
    rng = np.random.default_rng(0)
    names = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    files = {"meta": pickle.dumps(names, protocol)}
    for name, n in (("train", 100), ("test", 20)):
        fine = list(range(n))
        content = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "fine_labels": fine}
        files[name] = pickle.dumps({**content, "coarse_labels": [o % 20 for o in fine]}, protocol)
    return files


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_cifar100_is_read_with_fine_or_coarse_labels(tmp_path, monkeypatch, protocol):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(archive(cifar100(protocol), "cifar-100-python"))
    monkeypatch.setattr(sources, "cache_dir", lambda: tmp_path)
    fine, coarse = load_images("cifar100"), load_images("cifar100-coarse")
    assert (fine.name, len(fine.vocab)) == ("cifar100", 100)
    assert (coarse.name, coarse.vocab[19]) == ("cifar100-coarse", "c19")
    assert torch.equal(fine.train_x, coarse.train_x) and torch.equal(fine.train_y % 20, coarse.train_y)


def image_archive(root, form, path):
    files = {str(o.relative_to(root.parent)): o.read_bytes() for o in sorted(root.rglob("*.png"))}
    if form == "zip":
        with zipfile.ZipFile(path, "w") as out:
            for name, content in files.items():
                out.writestr(name, content)
    else:
        path.write_bytes(archive(files, "."))
    return path


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_of_a_folder_is_read_as_the_folder_is(tmp_path, image_folder, form):
    root = image_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 2})
    path = image_archive(root, form, tmp_path / f"pets.{form}")
    packed, plain = load_images(path), load_images(root)
    assert (packed.name, packed.vocab) == ("pets", plain.vocab)
    assert packed.files[0] == [f"pets/{o}" for o in plain.files[0]]
    assert torch.equal(packed.train_x, plain.train_x) and torch.equal(packed.test_y, plain.test_y)


def test_folders_written_with_backslashes_are_folders(tmp_path, image_folder):
    root = image_folder({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
        for path in root.rglob("*.png"):
            info = zipfile.ZipInfo("x")
            info.filename = str(path.relative_to(root)).replace("/", "\\")
            file.writestr(info, path.read_bytes())
    images = load_images(tmp_path / "windows.zip")
    assert (images.vocab, len(images.train_y), len(images.test_y)) == (["a", "b"], 12, 4)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "train\\a\\1.png").write_bytes((root / "train/a/1.png").read_bytes())
    with pytest.raises(InputError, match=r"unpacking has lost their folders"):
        load_images(tmp_path / "lost")


@pytest.mark.parametrize("kept", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_part_of_cifars_files_is_called_so(tmp_path, kept):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / kept).write_bytes(b"x")
    with pytest.raises(InputError, match=r"part has no data_batch_1: it needs|part: data_batch_1"):
        load_images(tmp_path / "part")


@pytest.mark.parametrize("form", ["zip", "tar.gz", "tar.xz"])
def test_a_damaged_archive_of_a_folder_is_refused_and_leaves_nothing(tmp_path, image_folder, form):
    path = image_archive(image_folder({"a": 30, "b": 30}), form, tmp_path / f"pets.{form}")
    if form == "tar.xz":
        path.write_bytes(lzma.compress(gzip.decompress(path.read_bytes())))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"pets\.{form} is not a whole archive"):
        load_images(path)
    assert not list(sources.cache_dir().glob("*unpack*"))


KERAS, MEDMNIST = "x_train y_train x_test y_test", "train_images train_labels test_images test_labels"


@pytest.mark.parametrize("names", [KERAS, MEDMNIST])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (28, 28, 3), (3, 28, 28)])
def test_arrays_of_numpy_are_read(tmp_path, names, shape):
    rng = np.random.default_rng(0)
    arrays = []
    for n in (12, 6):
        arrays += [rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % 3]
    np.savez(tmp_path / "d.npz", **dict(zip(names.split(), arrays)))
    images = load_images(tmp_path / "d.npz", 28)
    assert images.vocab == ["0", "1", "2"] and images.train_y.tolist() == [0, 1, 2] * 4
    first = arrays[0][0] if shape != (3, 28, 28) else arrays[0][0].transpose(1, 2, 0)
    grey = first.squeeze()
    expected = np.stack([grey] * 3) if grey.ndim == 2 else grey.transpose(2, 0, 1)
    assert np.array_equal(images.train_x[0], expected)


def arrays(role, form, labels):
    rng = np.random.default_rng(len(role))
    x = rng.integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    return {f"x_{role}": x, f"y_{role}": labels} if form == "keras" else {f"{role}_images": x, f"{role}_labels": labels}


@pytest.mark.parametrize("form", ["keras", "medmnist"])
def test_validation_arrays_choose_or_are_tested_on_and_others_are_named(tmp_path, form, capsys):
    train, val = arrays("train", form, [3, 5] * 5), arrays("val", form, [5, 3, 3])
    path = tmp_path / "d.npz"
    np.savez(path, **train, **val, **arrays("test", form, [5, 5]), ids=[1, 2])
    images = load_images(path, 8)
    assert (len(images.train_y), images.n_valid, images.test_y.tolist()) == (13, 3, [1, 1])
    assert images.train_y[-3:].tolist() == [1, 0, 0]
    said = capsys.readouterr().out
    assert "chooses (early stopping, sweeps)" in said and "Not used: ids of" in said
    np.savez(path, **train, **val)
    images = load_images(path, 8)
    assert (len(images.train_y), images.n_valid, images.test_y.tolist()) == (10, 0, [1, 0, 0])
    assert "Test images: " in capsys.readouterr().out
    np.savez(path, **train)
    images = load_images(path, 8)
    assert (images.train_y.bincount().tolist(), images.test_y.bincount().tolist()) == ([4, 4], [1, 1])


def test_arrays_of_other_shapes_and_labels_are_named(tmp_path):
    x = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"x_train is uint8 \(4, 8, 8\) and y_train \(2,\)"):
        load_images(tmp_path / "d.npz")
    for other in (np.zeros((4, 8, 8, 6), np.uint8), np.zeros((4, 0, 8), np.uint8)):
        np.savez(tmp_path / "d.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=other, y_test=[0, 1, 0, 1])
        with pytest.raises(InputError, match=r"d\.npz: x_test is uint8 \(4, .*give uint8 images"):
            load_images(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[0, 1, 0, float("nan")], x_test=x, y_test=[0, 1, 0, 1])
    with pytest.raises(InputError, match="y_train holds labels that are no numbers"):
        load_images(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[b"caf\xc3\xa9", b"tea"] * 2)
    assert load_images(tmp_path / "d.npz").vocab == ["caf\u00e9", "tea"]
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 2])
    with pytest.raises(InputError, match=r"split test of .* has the class 2, which split train of .* lacks"):
        load_images(tmp_path / "d.npz")


def test_arrays_that_would_run_code_are_refused_and_nothing_runs(tmp_path):
    hostile = np.array([Hostile(tmp_path / "owned")], dtype=object)
    np.savez(tmp_path / "d.npz", x_train=hostile, y_train=[0], x_test=hostile, y_test=[0])
    with pytest.raises(InputError, match="pickled objects"):
        load_images(tmp_path / "d.npz")
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_is_not_taken_for_a_damaged_archive(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        file.writestr("cat/0.png", b"")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(InputError, match=r"d\.zip cannot be unpacked into .*No space left.*\$CIFAR_FAST_CACHE"):
        load_images(tmp_path / "d.zip")
