"""Every accepted form of input gives the right tensors, and every bad one a clear line."""

import pickle

import numpy as np
import pytest
import torch

from cifar_fast.data.archives import read_cifar_archive, read_cifar_batches
from cifar_fast.data.decoding import read_image_folder
from cifar_fast.data.folders import list_images
from cifar_fast.data.image import decode_image
from cifar_fast.data.image_set import pixel_stats, stratified_split
from cifar_fast.errors import InputError
from cifar_files import VOCAB, archive, batches, write_batches


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


def test_statistics_are_those_of_the_training_pixels(tmp_path):
    images = read_cifar_batches(write_batches(tmp_path / "b", batches()))
    pixels = images.train_x.double() / 255
    assert images.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert images.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


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


def test_an_image_folder_keeps_classes_splits_and_pixels(image_folder):
    root = image_folder({"train/cat": 3, "train/ant": 2, "test/cat": 1, "test/ant": 2})
    images = read_image_folder(root, list_images(root), 24)
    assert (images.name, images.vocab) == ("pets", ["ant", "cat"])
    assert images.train_y.tolist() == [0, 0, 1, 1, 1] and images.test_y.tolist() == [0, 0, 1]
    assert np.array_equal(images.train_x[2].permute(1, 2, 0), decode_image(root / "train/cat/0.png", 24))


@pytest.mark.parametrize("prefix", ["train/", ""])
def test_without_a_test_folder_a_fifth_of_each_class_is_set_aside(image_folder, prefix):
    root = image_folder({f"{prefix}a": 10, f"{prefix}b": 20})
    one, two = (read_image_folder(root, list_images(root), 8) for _ in range(2))
    assert one.train_y.bincount().tolist() == [8, 16] and one.test_y.bincount().tolist() == [2, 4]
    assert torch.equal(one.test_x, two.test_x)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/a": 0}, "no images"),
        ({"train/a": 2, "train/b": 0}, "b has no images"),
        ({"train/a": 2, "test/b": 1}, "class 'b'"),
        ({"test/a": 2}, "no train/"),
    ],
)
def test_a_folder_that_lacks_something_says_what(image_folder, counts, message):
    with pytest.raises(InputError, match=message):
        list_images(image_folder(counts))


def test_an_unreadable_image_is_named(image_folder):
    root = image_folder({"train/a": 3, "test/a": 1})
    (root / "train/a/1.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"train/a/1\.png"):
        read_image_folder(root, list_images(root), 8)


def test_splits_are_stratified_disjoint_and_seeded():
    y = torch.arange(200) % 10
    one, other = stratified_split(y, 0.1, seed=1)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(200))
    assert y[other].bincount().tolist() == [2] * 10
    assert torch.equal(other, stratified_split(y, 0.1, seed=1)[1])
    assert not torch.equal(other, stratified_split(y, 0.1, seed=2)[1])


def test_digits_are_small_fixed_and_not_cifar10(digits):
    assert digits.train_x.shape == (1437, 3, 32, 32) and digits.test_x.shape == (360, 3, 32, 32)
    assert digits.test_y.bincount().min() >= 34 and not digits.is_cifar10
    assert digits.train_x.max() == 255 and digits.train_x.min() == 0


def test_a_channel_that_is_the_same_everywhere_can_be_divided_by():
    x = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    x[:, 0] = torch.arange(6)[:, None, None] * 40
    mean, std = pixel_stats(x)
    assert mean[1:] == (0.0, 0.0) and std[1:] == (1.0, 1.0) and 0 < std[0] < 1
