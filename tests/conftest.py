"""Fixtures that many tests share: tiny data sets, a cache of its own, no network."""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

matplotlib.use("Agg")
settings.register_profile("fixed", derandomize=True, database=None)
settings.load_profile("fixed")


def pytest_configure():
    "Side by side (-n 2), each process of pytest and what it starts keeps to one core."
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory, monkeypatch):
    "Each test has its own cache folder and working directory, and finds no data set of the machine's."
    monkeypatch.setenv("CIFAR_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.delenv("CIFAR_FAST_DATA", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(autouse=True)
def own_figures():
    "A test finds no figures that another has drawn, and leaves none."
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def fixed_seed():
    "The same random numbers in each test, whatever the order."
    from fastai.torch_core import set_seed

    set_seed(0)


@pytest.fixture(scope="session")
def digits():
    "The digits data set, decoded."
    from cifar_fast.data.sources import load_images

    return load_images("digits")


@pytest.fixture
def digits_dls(digits):
    "DataLoaders on digits: 23 training batches of 64 and one validation batch."
    from cifar_fast.data.loaders import image_dls

    return image_dls(digits, device="cpu")


@pytest.fixture
def image_folder(tmp_path):
    "Makes a folder of random images: `image_folder({'train/cat': 3, 'test/cat': 1})`; gives its path."

    def make(counts: dict[str, int], size: tuple[int, int] = (40, 30), mode: str = "RGB", name: str = "pets") -> Path:
        rng = np.random.default_rng(0)
        for folder, n in counts.items():
            (tmp_path / name / folder).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(tmp_path / name / folder / f"{i}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def real_data():
    "The path of the real CIFAR-10 images, from $CIFAR_FAST_REAL_DATA; without it the test is skipped."
    path = os.environ.get("CIFAR_FAST_REAL_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("real CIFAR-10 images: $CIFAR_FAST_REAL_DATA names no folder")
    return Path(path)


@pytest.fixture(scope="session")
def resnet18_file(tmp_path_factory):
    "A torchvision ResNet-18 state dict with fixed random weights, as a .pth file."
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18-random.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def make_run(folder: Path, **changed) -> Path:
    "A finished run of a small network on digits: two epochs of training."
    from cifar_fast.baselines import custom
    from cifar_fast.runs.launch import train

    small = {"data": "digits", "epochs": 2, "width": 8, "precision": "fp32", "device": "cpu"}
    assert train(custom, custom.options(**{**small, "run": str(folder), **changed}))[:2] == (0, folder)
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    "The folder of a finished run, to be read only."
    return make_run(tmp_path_factory.mktemp("runs") / "decaying")


@pytest.fixture(scope="session")
def other_digits_run(tmp_path_factory):
    "The folder of a finished run with another schedule, without figures, to be read only."
    with without_pictures():
        return make_run(tmp_path_factory.mktemp("runs") / "constant", schedule="constant")


@contextmanager
def without_pictures():
    "Runs of this process draw no figures, which take most of a small run's time: for tests of something else."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifar_fast.runs.folder.Run.write_figures", lambda *args: None)
        yield


@pytest.fixture
def no_pictures():
    "As `without_pictures`, for a whole test."
    with without_pictures():
        yield


@pytest.fixture
def browser_page():
    "Opens pages in headless Chromium: `browser_page(width)`; `messages` of a page are its console's errors."
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)

        def open_page(width: int):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
            page.messages = []
            page.on("console", lambda o: page.messages.append(o.text))
            page.on("pageerror", lambda o: page.messages.append(str(o)))
            return page

        yield open_page
        browser.close()


def with_cbs(experiment, *cbs):
    "The experiment, whose Learners carry these callbacks too."
    made = type(experiment)(experiment.function, experiment.make_stages)
    made.learner = lambda dls, options: experiment.learner(dls, options).add_cbs(cbs)
    return made
