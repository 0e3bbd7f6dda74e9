"""All image files that installed packages ship, which nobody here has chosen: read, or refused with one line."""

from importlib.metadata import distributions
from pathlib import Path

import pytest

from cifar_fast.data.image import decode_image
from cifar_fast.data.image_files import is_image
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import ImageError

KEPT = Path(__file__).parents[1] / "kept/digits-format-1"


@pytest.fixture(scope="module")
def corpus():
    "Paths of image files of all installed packages, and of files that call themselves images and are none."
    files = (Path(str(o.locate_file(file))) for o in distributions() for file in o.files or ())
    found = sorted({o for o in files if o.suffix and is_image(o) and o.is_file()})
    if len(found) < 20:
        pytest.skip("the installed packages ship no images")
    return found


def test_the_images_of_installed_packages_are_read_or_refused_with_one_line(corpus):
    predictor, refused = Predictor(KEPT), []
    for path, found in zip(corpus, predictor.stream(map(str, corpus))):
        if isinstance(found, ImageError):
            refused.append(path)
            assert str(path) in str(found) and "\n" not in str(found)
    print(f"{len(corpus)} files tried, {len(corpus) - len(refused)} read, {len(refused)} refused with one line")
    assert len(refused) <= len(corpus) / 20, refused


def test_every_other_file_is_refused_with_one_line_or_read(corpus):
    packages = (Path(str(o.locate_file(file))) for o in distributions() for file in o.files or ())
    others = sorted({o for o in packages if o.suffix in (".svg", ".npy", ".ttf", ".md", ".gz", ".wav") and o.is_file()})
    for path in others[:200]:
        try:
            assert decode_image(path, 8).shape == (8, 8, 3)
        except ImageError as error:
            assert str(path) in str(error) and "\n" not in str(error)
