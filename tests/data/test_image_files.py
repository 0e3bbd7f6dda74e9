"""Which files are images: training and predicting find the same ones, and pass over what systems leave."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_fast.data.folders import list_images
from cifar_fast.data.image_files import IMAGE_SUFFIXES, is_image, is_litter, walk_images
from cifar_fast.data.sources import load_images
from cifar_fast.deploy.predictor import find_images
from cifar_fast.errors import InputError

LITTER = [
    ".DS_Store", "._cat.png", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints",
    "__pycache__", "$RECYCLE.BIN", "System Volume Information", "#recycle",
]  # fmt: skip


@pytest.fixture
def album(tmp_path):
    "Two photographs, and what a Mac, a NAS, a disk and Jupyter leave beside them."
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir/cat.png", "album.png"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("cat.png", "dog.JFIF", ".ipynb_checkpoints/cat-checkpoint.png", "@eaDir/cat.png/thumb.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, format="PNG")
    for name in ("._dog.png", "__MACOSX/._cat.png"):
        (tmp_path / name).write_bytes(bytes.fromhex("0005160700020000") + bytes(64))  # an AppleDouble file
    return tmp_path


def test_litter_is_passed_over_and_folders_are_no_images(album):
    assert [Path(o).name for o in find_images([album])] == ["cat.png", "dog.JFIF"]
    (album / "album.png/inside.png").write_bytes((album / "cat.png").read_bytes())
    assert [Path(o).name for o in walk_images(album)] == ["cat.png", "dog.JFIF", "inside.png"]


@pytest.mark.parametrize("name", LITTER)
def test_known_litter_is_named(name):
    assert is_litter(name)


@pytest.mark.parametrize("name", ["$$", "train", "cat", "thumbs", "#1", "@home", "lost", "DS_Store", "cache"])
def test_classes_are_no_litter(name):
    assert not is_litter(name)


def test_what_pillow_reads_by_suffix_or_without_one_is_an_image(tmp_path):
    Image.init()
    stubs = {"BUFR", "GRIB", "HDF5", "MPEG", "IPTC"}  # of which Pillow knows the names
    starts_programs = {"EPS", "WMF"}
    read = {k for k, o in Image.registered_extensions().items() if o in set(Image.OPEN) - stubs - starts_programs}
    assert read - set(IMAGE_SUFFIXES) == set()
    assert all(is_image(f"photo{o.upper()}") for o in read)
    Image.new("L", (3, 3)).save(tmp_path / "photo", format="BMP")
    (tmp_path / "README").write_text("P5? No.")
    assert is_image(tmp_path / "photo") and not is_image(tmp_path / "README") and not is_image(tmp_path / "a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(album):
    os.mkfifo(album / "pipe")
    assert len(list(walk_images(album))) == 2


def test_a_link_does_not_lead_to_images_outside_of_the_folder(album):
    (album / "inner").mkdir()
    (album / "inner/out").symlink_to(album)
    assert list(walk_images(album / "inner")) == []


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.casefold), st.sampled_from(IMAGE_SUFFIXES))
def test_images_of_any_name_are_found_by_predicting_and_by_training(tmp_path_factory, names, suffix):
    root = tmp_path_factory.mktemp("names")
    names = [o for o in names if not is_litter(o)]
    for grey, folder in enumerate(("a", "b")):
        (root / folder).mkdir()
        for name in [*names, "own", "more"]:
            Image.new("L", (2, 2), grey).save(root / folder / f"{name}{suffix}", format="PNG")
    found = list(walk_images(root))
    images = load_images(root, 8)
    assert len(found) == 2 * len({*names, "own", "more"}) == len(images.train_y) + len(images.test_y)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(image_folder, monkeypatch):
    root, scandir = image_folder({"cat/more": 2, "cat/less": 2, "dog": 2}), os.scandir

    def not_for_us(path="."):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", not_for_us)  # root may list every folder
    for read in (list_images, lambda o: list(walk_images(o))):
        with pytest.raises(InputError, match=r"cat/more cannot be listed \(Permission denied\)"):
            read(root)
