"""Published test sets and folders of images, good and bad."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from cifar_fast.data.labelled_sets import read_labelled_sets, read_soft_labels, read_unlabelled
from cifar_fast.errors import InputError
from cifar_files import Hostile

VOCAB = ["cat", "dog", "owl"]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def corruptions(tmp_path, pixels):
    "A folder in the form of CIFAR-10-C: two corruptions of two images."
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", pixels)
    np.save(folder / "snow.npy", pixels[::-1].copy())
    np.save(folder / "labels.npy", np.array([0, 2] * 5, dtype=np.uint8))
    return folder


def test_the_form_of_cifar_10_1(tmp_path, pixels):
    np.save(tmp_path / "cifar10.1_v6_data.npy", pixels)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(10, dtype=np.int32) % 3)
    for path in (tmp_path, tmp_path / "cifar10.1_v6_data.npy"):
        (found,) = read_labelled_sets(path, VOCAB, 32)
        assert found.name == "cifar10.1_v6" and found.y.tolist() == [i % 3 for i in range(10)]
        assert (found.x == pixels).all() and isinstance(found.x, np.memmap) and found.severity == 0


def test_the_form_of_cifar_10_c_is_a_set_for_each_corruption_and_severity(corruptions, pixels):
    found = read_labelled_sets(corruptions, VOCAB, 32)
    assert [(o.name, o.severity) for o in found] == [(name, i) for name in ("fog", "snow") for i in range(1, 6)]
    assert (found[1].x == pixels[2:4]).all() and found[1].y.tolist() == [0, 2] and isinstance(found[1].x, np.memmap)
    assert len(read_labelled_sets(corruptions / "fog.npy", VOCAB, 32)) == 5


def test_a_folder_of_the_same_classes(image_folder):
    root = image_folder({"owl": 2, "cat": 1})
    (found,) = read_labelled_sets(root, VOCAB, 16)
    assert found.x.shape == (3, 16, 16, 3) and found.y.tolist() == [0, 2, 2]


def test_a_folder_is_read_as_the_training_images_are_and_what_is_not_read_is_said(tmp_path, capsys):
    root, levels = tmp_path / "further", (0, 4000)
    for name, top in (("cat", 4000), ("dog", 2000)):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), top, np.uint16)).save(root / name / "0.tif")
    (root / "dog/notes.txt").write_text("")
    (found,) = read_labelled_sets(root, VOCAB, 8, levels)
    assert [o.max() for o in found.x] == [255, 128] == [o.max() for o in read_unlabelled(root, 8, levels)]
    assert "1 x no image (notes.txt)" in capsys.readouterr().out


def test_of_a_whole_data_set_the_images_that_are_not_trained_on_are_read(image_folder, capsys):
    (found,) = read_labelled_sets(image_folder({"train/cat": 3, "train/dog": 3, "val/dog": 2}), VOCAB, 8)
    assert found.y.tolist() == [1, 1]
    said = capsys.readouterr().out
    assert "Test images: " in said and "Not used: the train images of" in said


def test_all_that_cannot_be_read_is_named_at_once(image_folder):
    root = image_folder({"cat": 3, "dog": 3})
    for i in (0, 2):
        (root / f"dog/{i}.png").write_bytes(b"no image")
    for read in (lambda: read_labelled_sets(root, VOCAB, 8), lambda: read_unlabelled(root, 8)):
        with pytest.raises(InputError, match=r"2 images cannot be read: .*dog/0.png .*dog/2.png"):
            read()


def test_what_does_not_fit_is_one_line(corruptions, image_folder, tmp_path, pixels):
    def refused(match, path=corruptions):
        with pytest.raises(InputError, match=match) as found:
            read_labelled_sets(path, VOCAB, 32)
        assert "\n" not in str(found.value)

    labels = corruptions / "labels.npy"
    np.save(labels, np.zeros(9, dtype=np.uint8))
    refused("9 labels for 10 images")
    np.save(labels, np.full(10, 3, dtype=np.uint8))
    refused("labels from 3 to 3, and the run knows 3 classes")
    np.save(labels, np.full(10, 0.5))
    refused("of type float64")
    labels.unlink()
    refused("labels.npy does not exist")
    np.save(labels, np.zeros(10, dtype=np.uint8))
    whole = (corruptions / "fog.npy").read_bytes()
    (corruptions / "fog.npy").write_bytes(whole[:-1000])
    refused("fog.npy cannot be read")
    (corruptions / "fog.npy").write_bytes(b"")
    refused("fog.npy cannot be read")
    (corruptions / "fog.npy").write_bytes(pickle.dumps(pixels))
    refused("perhaps a pickle, which is not loaded")
    np.save(corruptions / "fog.npy", pixels[:7])
    np.save(labels, np.zeros(7, dtype=np.uint8))
    refused("no five severities")
    np.save(corruptions / "fog.npy", pixels.astype(np.float32))
    refused("images are uint8")
    refused("the class 'fox'", image_folder({"fox": 1, "cat": 1}))
    (tmp_path / "empty").mkdir()
    refused("no images", tmp_path / "empty")
    refused("does not exist", tmp_path / "nowhere")


@pytest.mark.parametrize("form", ["pickle", "object array"])
def test_nothing_is_run_from_a_pickle_in_an_arrays_place(corruptions, tmp_path, form):
    trap = Hostile(tmp_path / "sprung")
    with (corruptions / "fog.npy").open("wb") as file:
        if form == "pickle":
            pickle.dump(trap, file)
        else:
            np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"fog.npy cannot be read"):
        read_labelled_sets(corruptions, VOCAB, 32)
    assert not (tmp_path / "sprung").exists()


def test_soft_labels_are_shares_of_the_same_images(tmp_path):
    y, path = torch.tensor([0, 2, 1, 0]), tmp_path / "cifar10h-counts.npy"
    counts = np.array([[40, 5, 5], [0, 0, 50], [10, 40, 0], [50, 0, 0]])
    np.save(path, counts)
    assert read_soft_labels(path, y, 3)[0].tolist() == [0.8, 0.1, 0.1]
    for labels, match in ((y.flip(0), "not of these test images"), (y[:3], "shape")):
        with pytest.raises(InputError, match=match):
            read_soft_labels(path, labels, 3)
    np.save(path, counts * 0)
    with pytest.raises(InputError, match="no shares"):
        read_soft_labels(path, y, 3)


def test_images_without_labels(image_folder, tmp_path, pixels):
    assert read_unlabelled(image_folder({"a": 2, "b": 1}), 8).shape == (3, 8, 8, 3)
    assert read_unlabelled("digits", 32).shape == (1797, 32, 32, 3)
    np.save(tmp_path / "x.npy", pixels)
    assert (read_unlabelled(tmp_path / "x.npy", 32) == pixels).all()
    savemat(tmp_path / "test_32x32.mat", {"X": np.moveaxis(pixels, 0, 3)})
    assert (read_unlabelled(tmp_path / "test_32x32.mat", 32) == pixels).all()
    (tmp_path / "broken.mat").write_bytes(b"MATLAB")
    (tmp_path / "none").mkdir()
    for bad in ("broken.mat", "none", "nowhere"):
        with pytest.raises(InputError):
            read_unlabelled(tmp_path / bad, 32)
