"""A decoded data set: its pixels, statistics and splits, and folders that lack something."""

import numpy as np
import pytest
import torch

from cifar_fast.data.archives import read_cifar_batches
from cifar_fast.data.decoding import read_image_folder
from cifar_fast.data.folders import list_images
from cifar_fast.data.image import decode_image
from cifar_fast.data.image_set import pixel_stats, stratified_split
from cifar_files import batches, write_batches


def test_statistics_are_those_of_the_training_pixels(tmp_path):
    images = read_cifar_batches(write_batches(tmp_path / "b", batches()))
    pixels = images.train_x.double() / 255
    assert images.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert images.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


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
