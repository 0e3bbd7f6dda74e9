"""The README and the pages of docs/: every command and snippet does what it says, and the site works from a folder."""

import ast
import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest

import cifar_fast
from pages import PAGES, ROOT, Reader, blocks

SAID = {  # what pages promise to be printed
    "README.md": "Welch's test over seeds (2 and 2)",
    "first-runs.md": "digits, not CIFAR-10",
    "own-network.md": "Welch's test over seeds (2 and 2)",
    "better.md": "80 % probability",
    "report.md": "-> runs.html",
    "shipping.md": "photos/train/cat/0.png",
    "troubleshooting.md": "is finished already",
}
TYPED = [o for o in PAGES if any(block.language in ("sh", "python") for block in blocks(o))]


@pytest.fixture
def offline(monkeypatch):
    "Every download fails at once, so that `auto` means digits and random weights."
    monkeypatch.setattr("urllib.request._opener", None)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def no_graphs(monkeypatch):
    "Runs of own networks leave model.onnx out, which takes most of a small run's time."

    import cifar_fast.deploy.export  # noqa: F401 - which gives Learners the method

    def left_out(*args):
        raise NotImplementedError

    monkeypatch.setattr("fastai.learner.Learner.to_onnx", left_out)


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED, ids=lambda o: o.stem)
def test_what_a_page_tells_to_type_works(page, offline, no_pictures, image_folder, tmp_path, request, capsys):
    if page.stem != "shipping":
        request.getfixturevalue("no_graphs")
    os.chdir(tmp_path)  # and back, by own_world
    image_folder({"train/cat": 20, "train/dog": 20, "test/cat": 4, "test/dog": 4}, name="photos")
    image_folder({"cat": 4, "dog": 4}, name="more-photos")
    Reader(page).read()
    plt.close("all")
    assert SAID.get(page.name, "") in capsys.readouterr().out


def test_no_link_is_broken():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_files_that_pages_name_are_there():
    pattern = r"(?:experiments|cifar_fast)/[\w/]+\.(?:py|ipynb)"
    for page in PAGES:
        for name in re.findall(pattern, page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_file_tree_names_every_module():
    text = (ROOT / "docs/tree.md").read_text()
    for module in (ROOT / "cifar_fast").rglob("*.py"):
        named = module.name if module.parent.name != "callbacks" else module.stem
        assert module.name == "__init__.py" or named in text, module


def test_the_readme_is_a_landing_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    file, commands = (next(o for o in blocks(ROOT / "README.md") if o.title), [])
    for block in blocks(ROOT / "README.md"):
        commands += [o for o in block.commands if "wide" in " ".join(o)]
    assert len([o for o in file.text.splitlines() if o]) + len(commands) <= 12


def test_the_pages_of_the_api_name_all_that_is_public():
    tree = ast.parse((ROOT / "cifar_fast/all.py").read_text())
    imports = [o for o in tree.body if isinstance(o, ast.ImportFrom) and o.module.startswith("cifar_fast")]
    public = {f"{o.module}.{name.name}" for o in imports for name in o.names}
    text = "\n".join(o.read_text() for o in (ROOT / "docs/api").glob("*.md"))
    assert public <= set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


def test_versions_agree():
    assert f"version: {cifar_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {cifar_fast.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The pages, built strictly."
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.slow
def test_the_site_is_read_and_searched_without_a_network(site, browser_page):
    page, asked = browser_page(1200), []
    page.on("request", lambda o: asked.append(o.url))
    page.goto((site / "index.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type("fit_decay")
    page.wait_for_selector(".md-search-result__item :text('fit_decay')")
    page.goto((site / "api/training.html").as_uri())
    assert "of the first batch; a slice spreads over the groups" in page.inner_text("body")
    assert not [o for o in asked if not o.startswith(("file:", "data:"))] and not page.messages


@pytest.mark.slow
def test_the_site_fits_a_phone(site, browser_page):
    page = browser_page(360)
    for file in site.rglob("*.html"):
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, file
