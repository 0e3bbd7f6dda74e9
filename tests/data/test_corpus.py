"""All image files that installed packages ship, which nobody here has chosen: read, or refused with one line.

$CIFAR_FAST_CORPUS names a folder of more, as Pillow's Tests/images.
"""

import os
from importlib.metadata import distributions
from pathlib import Path

import pytest

from cifar_fast.commands import predict
from cifar_fast.data.image import decode_image
from cifar_fast.data.image_files import is_image, walk_images
from cifar_fast.data.levels import held
from cifar_fast.data.sources import load_images
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import ImageError, InputError

KEPT = Path(__file__).parents[1] / "kept/digits-format-1"


@pytest.fixture(scope="module")
def corpus():
    "Paths of image files of all installed packages, and of files that call themselves images and are none."
    files = (Path(str(o.locate_file(file))) for o in distributions() for file in o.files or ())
    found = {str(o) for o in files if o.suffix and is_image(o) and o.is_file()}
    if more := os.environ.get("CIFAR_FAST_CORPUS"):
        found |= set(walk_images(more))
    if len(found) < 20:
        pytest.skip("the installed packages ship no images")
    return sorted(found)


@pytest.fixture(scope="module")
def refused(corpus):
    "What a saved model does not read of them, and why."
    found = zip(corpus, Predictor(KEPT).stream(corpus))
    return {path: str(o) for path, o in found if isinstance(o, ImageError)}


def test_the_images_of_installed_packages_are_read_or_refused_with_one_line(corpus, refused):
    print(f"{len(corpus)} files tried, {len(corpus) - len(refused)} read, {len(refused)} refused with one line")
    assert all(path in said and "\n" not in said for path, said in refused.items())
    assert len(refused) <= len(corpus) / 20 or "CIFAR_FAST_CORPUS" in os.environ, refused


def test_predict_py_reads_the_same_of_them(corpus, refused, capsys):
    assert predict(str(KEPT), *corpus, csv=True) == int(bool(refused))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + len(corpus) - len(refused)
    assert err.count("\n  ") == len(refused) and all(path in err for path in refused)


def test_a_folder_of_them_is_read_but_for_the_same(corpus, refused, tmp_path, capsys):
    "Those of more than 8 bits each in a data set of its own: no range fits all of them."
    flat = [o for o in corpus if held(o) is None]
    images = load_images(_folder(tmp_path / "flat", flat, "ab"), skip_bad=True)
    assert len(images.train_y) + len(images.test_y) == len(flat) - len(images.skipped)
    assert len(images.skipped) == len(refused.keys() & set(flat))
    assert all("\n" not in o for o in images.skipped)
    n_read = 0
    for i, path in enumerate(o for o in corpus if held(o) is not None):
        try:
            deep = load_images(_folder(tmp_path / f"deep-{i}", [path, path], "a"))
            n_read += len(deep.train_y) == 1
            assert deep.levels or path.endswith((".ppm", ".pgm"))
        except InputError as error:
            assert "\n" not in str(error)
    print(f"{len(flat) - len(images.skipped)} of 8 bits read and {n_read} of more, {len(images.skipped)} skipped")


def _folder(root, paths, classes):
    "A folder of links to files, dealt out to classes."
    for i, path in enumerate(paths):
        place = root / classes[i % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}{Path(path).suffix}").symlink_to(path)
    return root


def test_every_other_file_is_refused_with_one_line_or_read():
    packages = (Path(str(o.locate_file(file))) for o in distributions() for file in o.files or ())
    others = sorted({o for o in packages if o.suffix in (".svg", ".npy", ".ttf", ".md", ".gz", ".wav") and o.is_file()})
    for path in others[:200]:
        try:
            assert decode_image(path, 8).shape == (8, 8, 3)
        except ImageError as error:
            assert str(path) in str(error) and "\n" not in str(error)
