"""The lessons run from top to bottom, and are kept with their outputs."""

import re
from pathlib import Path

import nbformat
import pytest

LESSONS = sorted((Path(__file__).parent.parent / "experiments/lessons").glob("*.ipynb"))
SAID = {
    "first_experiment": "1,437 training and 360 test images",
    "is_it_better": "resnet18 with resnet18-random weights",
    "your_own_network": "is not a whole number of at least 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda o: o.stem)
def test_a_lesson_runs_on_digits(lesson, resnet18_file, monkeypatch, tmp_path):
    from nbclient import NotebookClient

    monkeypatch.setenv("LESSON_DATA", "digits")
    monkeypatch.setenv("LESSON_WEIGHTS", str(resnet18_file))
    notebook = nbformat.read(lesson, as_version=4)
    for run in re.findall(r'run="(runs/.+?)"', "".join(cell.source for cell in notebook.cells)):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "report.html").touch()  # as when the lesson has been run before
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert SAID[lesson.stem] in "\n".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda o: o.stem)
def test_a_lesson_is_kept_with_its_outputs_and_opens_in_colab(lesson):
    cells = nbformat.read(lesson, as_version=4).cells
    assert f"/experiments/lessons/{lesson.name}" in cells[0].source and "Open in Colab" in cells[0].source
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    assert [out for out in outputs if "image/png" in out.get("data", {})]
    assert not [out for out in outputs if out.output_type == "error"]
