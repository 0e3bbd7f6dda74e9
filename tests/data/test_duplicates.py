"""Test images that are training images too."""

import torch

from cifar_fast.data.duplicates import exact_duplicates, near_duplicates
from cifar_fast.data.sources import load_images


def smooth(n, seed):
    "Random pictures with structure: uint8 (n, 3, 32, 32)."
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=32, mode="bilinear") * 255).to(torch.uint8)


def test_the_same_and_nearly_the_same_are_found_and_others_are_not():
    train, test = smooth(60, 0), smooth(20, 1)
    test[3] = train[17]
    brighter = (train[40].float() * 0.8 + 20).to(torch.uint8)
    test[5] = (brighter.float() + torch.randn(3, 32, 32) * 4).clamp(0, 255).to(torch.uint8)
    assert [(o.test, o.train) for o in exact_duplicates(train, test)] == [(3, 17)]
    (near,) = near_duplicates(train, test)
    assert (near.test, near.train) == (5, 40) and 0.95 <= near.similarity < 1


def test_blank_images_are_not_like_each_other():
    blank = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    blank[1] += 1
    assert near_duplicates(blank[:1], blank[1:]) == [] and exact_duplicates(blank[:1], blank[1:]) == []


def test_a_leak_is_said_when_a_folder_is_read(image_folder, capsys):
    root = image_folder({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    (root / "test/b/0.png").write_bytes((root / "train/b/2.png").read_bytes())
    for _ in range(2):  # decoded, and from the cache
        assert load_images(root).leaked == 1
        assert "1 of 2 test images are training images too" in capsys.readouterr().out


def test_nothing_is_said_without_a_leak(image_folder, capsys):
    load_images(image_folder({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1}))
    assert "training images too" not in capsys.readouterr().out
