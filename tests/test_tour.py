"""The notebook runs from top to bottom."""

from pathlib import Path

import pytest

TOUR = Path(__file__).parent.parent / "experiments/tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs_on_digits(resnet18_file, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("TOUR_DATA", "digits")
    monkeypatch.setenv("TOUR_WEIGHTS", str(resnet18_file))
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}}).execute()
    text = "\n".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "resnet18 with resnet18-random weights" in text and "1,437 training" in text
    assert Path("transfer.pkl").exists()


def test_the_tour_is_kept_with_its_outputs():
    import nbformat

    cells = [o for o in nbformat.read(TOUR, as_version=4).cells if o.cell_type == "code"]
    pictures = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= 9
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
