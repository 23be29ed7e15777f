"""figures/: laid out by model and task, with an index that says which command made what."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_index", ROOT / "tools" / "figures_index.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_is_what_make_figures_writes(tool: ModuleType) -> None:
    assert (FIGURES / "index.md").read_text() == tool.index()


def test_each_figure_has_its_command_and_each_command_its_figures(tool: ModuleType) -> None:
    made = {command: [list(FIGURES.glob(one)) for one in tool.figures_of(command)] for command in tool.commands()}
    assert [command for command, found in made.items() if not all(found) and "report" not in command] == []
    listed = [path for found in made.values() for paths in found for path in paths]
    assert set(listed) == set(FIGURES.rglob("*.png"))
    # One command a figure: two models' scores are in those that compare models alone.
    assert [path for path in listed if listed.count(path) > 1 and path.parts[-3] != "all-models"] == []


def test_each_figure_stands_beside_what_made_it_under_its_model_and_task() -> None:
    runs = {path.parent.relative_to(FIGURES / "runs") for path in FIGURES.glob("runs/*/*/parts.json")}
    tasks, models = {run.name for run in runs}, {run.parts[0] for run in runs}
    for path in FIGURES.rglob("*.png"):
        folder = path.parent.relative_to(FIGURES).parts
        assert path.with_suffix(".json").is_file()
        assert folder[0] in models | {"all-models"}
        assert len(folder) == 1 or folder[1] in tasks | {"pocket"}
