"""An experiment that is defined in a notebook's cell."""

import pytest

CELL = """
from cifar_fast.all import CustomCNN, compare, count, experiment, fast_learner


@experiment
def cell(dls, width: count = 4):  # filters
    "Defined here."
    return fast_learner(dls, CustomCNN(dls.c, width=width), precision="fp32")


small = {"data": "digits", "images": 200, "test_images": 60, "epochs": 1, "device": "cpu"}
one, other = (cell.run(**small, width=o, seeds=2, run=f"runs/w{o}") for o in (2, 4))
print(compare(one, other))
"""
SWEEP = """
fixed = ["epochs=1", "images=200", "test_images=60", "device=cpu"]
found = cell.sweep(["width=choice(2,4)", *fixed], data="digits", trials=2, run="runs/sweep")
print("winner", found.metrics["experiment"], found.first.config["width"] in (2, 4))
"""


@pytest.mark.slow
def test_a_function_of_a_cell_has_seeds_a_verdict_and_a_sweep(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    pytest.importorskip("ray")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in (CELL, "one", SWEEP)])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.outputs]
    text = "\n".join(o.get("text", "") for o in outputs)
    assert "Welch's test over seeds (2 and 2)" in text and "winner cell True" in text
    html = "\n".join(o.data.get("text/html", "") for o in outputs if "data" in o)
    assert "train_accuracy</th>" in html and "cell: CustomCNN" in html
