"""Folders as people keep them: all is read, or a line says exactly what is not."""

import os
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_fast.data.decoding import read_image_folder
from cifar_fast.data.folders import list_images
from cifar_fast.data.image_files import walk_images
from cifar_fast.data.loaders import cifar_dls, image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError


def counts(listing):
    return {role: {name: len(o) for name, o in classes.items()} for role, classes in listing.files.items()}


@pytest.mark.parametrize(
    "tree, found, line",
    [
        (
            {"train/a": 3, "train/b": 2, "dev/a": 1, "test/b": 1},
            {"train": [3, 2], "valid": [1], "test": [1]},
            "chooses",
        ),
        ({"control": 2, "test": 3}, {"train": [2, 3]}, ""),
        ({"x/y/train/a": 2, "x/y/train/b": 1, "x/y/val/b": 1}, {"train": [2, 1], "test": [1]}, "Reading"),
    ],
)
def test_what_a_folder_holds_is_found_where_it_lies(image_folder, tree, found, line):
    root = image_folder(tree)
    listing = list_images(root)
    assert {role: list(o.values()) for role, o in counts(listing).items()} == found
    assert re.search(line, "\n".join(listing.lines(root)))


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"train": 4, "test": 2}, "no folders of classes"),
        ({"train/a": 0}, "has no images"),
        ({"cat": 2, "dog": 2, "test/cat": 1}, "no train/ with classes"),
    ],
)
def test_what_cannot_be_told_is_one_true_line(image_folder, tree, message):
    with pytest.raises(InputError, match=message) as error:
        list_images(image_folder(tree))
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_counted_by_reason(image_folder):
    root = image_folder({"a": 2, "b": 2})
    (root / "a/notes.txt").write_text("")
    (root / "b/more.txt").write_text("")
    (root / "a/gone.png").symlink_to(root / "nowhere.png")
    Image.new("RGB", (4, 4)).save(root / "outside.png")
    (line,) = list_images(root).lines(root)
    assert "2 x no image (notes.txt, ...)" in line
    assert "1 x broken link (gone.png)" in line and "1 x image outside of any class (outside.png)" in line


NAMES = st.sampled_from(["cat", "dog", "train", "val", "test", "Test", "sub", ".hidden", "__MACOSX", "a.png"])
FILES = st.sampled_from(["0.png", "1.jfif", "2", "notes.txt", ".DS_Store", "Thumbs.db"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(NAMES, max_size=3), FILES), max_size=12))
def test_every_image_is_listed_or_counted_as_left_out(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    for folders, name in tree:
        path = root.joinpath(*folders, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jfif", ""):
            Image.new("RGB", (2, 2)).save(path, format="PNG")
        else:
            path.write_text("no image")
    there = set(walk_images(root))
    try:
        listing = list_images(root)
    except InputError as error:
        assert "\n" not in str(error)
        return
    listed, text = listing.paths, "\n".join(listing.lines(root))
    assert len(set(listed)) == len(listed) and set(listed) <= there
    not_used = sum(int(o) for o in re.findall(r"Not used: .*?\((\d+) images\)", text))
    outside = sum(int(o) for o in re.findall(r"(\d+) x image outside", text))
    assert len(listed) + not_used + outside == len(there) or "is read alone" in text or "Reading" in text


def test_validation_images_choose_and_are_trained_on_afterwards(image_folder):
    root = image_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 1, "test/a": 1, "test/b": 1})
    images = load_images(root)
    chooses = image_dls(images, 2, "holdout", device="cpu")
    assert (len(chooses.train_ds), len(chooses.valid_ds)) == (8, 3)
    assert all(o.startswith("val") for o in chooses.valid_ds.files)
    assert len(image_dls(images, 2, device="cpu").train_ds) == 11
    assert sorted(o[:3] for o in images.fewer(6, 2).files[0]).count("val") == images.fewer(6, 2).n_valid


def test_each_class_of_two_has_a_test_image_and_one_of_one_is_named(image_folder, capsys):
    root = image_folder({"common": 20, "rare": 2, "single": 1})
    images = load_images(root)
    assert images.test_y.bincount(minlength=3).tolist() == [5, 1, 0]
    assert images.train_y.bincount().tolist() == [15, 1, 1]
    assert "No test image shows single" in capsys.readouterr().out


def test_bad_images_that_were_skipped_once_are_named_again(image_folder):
    root = image_folder({"a": 5, "b": 5})
    for i in (0, 1):
        (root / f"a/{i}.png").write_text("not a picture")
    assert len(load_images(root, skip_bad=True).skipped) == 2
    with pytest.raises(InputError, match="2 images cannot be read"):  # what is cached holds fewer
        load_images(root)


def test_files_follow_their_images(image_folder):
    root = image_folder({"train/a": 3, "train/b": 3, "test/b": 2})
    dls = cifar_dls(2, root, device="cpu", size=8)
    assert dls.valid_ds.files == ["test/b/0.png", "test/b/1.png"]
    part = dls.train_ds.subset(torch.tensor([4, 0]))
    assert part.files == ["train/b/1.png", "train/a/0.png"]
    alone = read_image_folder(root, list_images(root), 8)
    assert alone.files[0][4] == "train/b/1.png" and torch.equal(part.x[0], alone.train_x[4])


def test_links_to_folders_are_followed_once(image_folder):
    root = image_folder({"a": 2, "b": 2})
    (root.parent / "more").mkdir()
    Image.new("RGB", (8, 8)).save(root.parent / "more/0.png")
    os.symlink(root.parent / "more", root / "a/more")
    os.symlink(root.parent / "more", root / "a/more/again")
    os.symlink(root, root / "a/loop")
    listing = list_images(root)
    assert counts(listing) == {"train": {"a": 3, "b": 2}}
    assert "1 x link to a folder around it (loop)" in "\n".join(listing.lines(root))
