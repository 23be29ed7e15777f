"""Notebooks run from a clean kernel, and are what the percent scripts beside them say."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "compose_with_your_hooks",
        "depth_efficiency",
        "layers_as_painters",
        "quickstart",
        "void_in_language_models",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_paired_script_has_the_same_cells(path: Path):
    script = jupytext.read(path.with_suffix(".py"))
    notebook = nbformat.read(path, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]


# Minutes of one core; the quickstart shows that notebooks run on every version of TransformerLens.
LONG = [pytest.param(p, marks=() if p.stem == "quickstart" else pytest.mark.once, id=p.stem) for p in NOTEBOOKS]


# The same code on fewer questions, steps and layers: what is committed was run at the sizes that it shows.
SMALLER = {
    "compose_with_your_hooks": {"range(0, n_layers, 3)": "range(0, n_layers, 10)"},
    "depth_efficiency": {"steps=24": "steps=6", "max_tokens=24": "max_tokens=12"},
    "layers_as_painters": {"[0, 4, 8, 10, 12, 14]": "[0, 8, 14]", "CLOZE.splitlines()": "CLOZE.splitlines()[:10]"},
    "quickstart": {},
    "void_in_language_models": {
        " limit=24": " limit=12",
        "generate_limit=12": "generate_limit=4",
        "max_new_tokens=8": "max_new_tokens=4",
        "control_limit=12": "control_limit=6",
    },
}


def smaller(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    for shown, used in SMALLER[path.stem].items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and shown in cell.source]
        cell.source = cell.source.replace(shown, used)
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", LONG)
def test_runs_without_error_or_warning(path: Path):
    notebook = smaller(path)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    noise = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr" and "Warning" in o.text]
    assert not noise, noise
    drawn = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(drawn) >= 3, "figures are missing"
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "identical: True" in printed
