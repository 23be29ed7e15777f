"""Every task is registered, complete and documented, and the light part of lacscope stays light."""

import doctest
import importlib
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lacscope.tasks
from lacscope.cli._app import app
from lacscope.tasks._base import Packaged
from lacscope.tasks._boolq import BoolQ
from lacscope.tasks._registry import TASKS, task

pytestmark = pytest.mark.once

MODULES = [module.name for module in pkgutil.iter_modules(lacscope.tasks.__path__)]


def test_the_names() -> None:
    assert list(TASKS) == [
        "boolq", "mmlu", "gpqa", "lambada", "gsm8k", "arc_easy", "arc_challenge", "hellaswag", "winogrande", "twohop",
        "pocket_boolean", "pocket_options",
    ]  # fmt: skip
    assert all(each.name == name for name, each in TASKS.items())
    assert task("mmlu") is TASKS["mmlu"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"^there is no task 'bool_q'; choose one of boolq, mmlu, .*, pocket_options\. Did you mean 'boolq'\?$",
    ):
        task("bool_q")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_all_there_is_to_say(name: str) -> None:
    each = task(name)
    assert each.styles
    assert set(each.scorings) <= {"choice", "generated"}
    assert each.licence
    assert each.source
    assert each.chance is None or 0 < each.chance < 1
    # The two-hop rows are read from a local file alone.
    assert (each.hub is None) == (isinstance(each, Packaged) or name == "twohop")
    assert each.private == (name == "gpqa")
    assert each.questions([], each.styles[0], seed=0) == []


@dataclass(frozen=True)
class Own(BoolQ):
    """A task of a user's own, in a style of its own."""

    name: str = "own"


@pytest.fixture
def _none_added(monkeypatch) -> None:
    monkeypatch.setattr(TASKS, "_added", {})


@pytest.mark.usefixtures("_none_added")
def test_a_task_of_a_users_own_is_known_by_its_name() -> None:
    assert lacscope.tasks.register(Own()) == Own()
    assert task("own") == Own()
    assert list(TASKS)[-1] == "own"


@pytest.mark.usefixtures("_none_added", "unchecked")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (BoolQ(), "lacscope has a task 'boolq' of its own: give yours another name."),
        (Own(name="two words"), "the name of a task is made of letters, digits"),
        (Own, "is no task: it is a class; register an object of it."),
        ("boolq", "'boolq' is no task: it has no name, private, chance, styles, scorings, hub, licence, source, group"),
    ],
)
def test_what_is_no_task_or_has_a_name_of_lacscopes_is_refused(given: Any, said: str) -> None:
    before = dict(TASKS)
    with pytest.raises(ValueError, match=re.escape(said)):
        lacscope.tasks.register(given)
    assert dict(TASKS) == before


PACKAGE = """
from dataclasses import dataclass
import lacscope.tasks

@dataclass(frozen=True)
class Theirs(lacscope.tasks.BoolQ):
    name: str = "of-a-package"

lacscope.tasks.register(Theirs())
"""


@pytest.mark.usefixtures("_none_added")
def test_an_installed_packages_task_enters_the_commands(tmp_path: Path, monkeypatch, unchecked) -> None:
    (tmp_path / "tasks_of_a_test.py").write_text(PACKAGE)
    info = tmp_path / "more_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lacscope]\nmore = tasks_of_a_test\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--task", "of-a-package", "--data", "of-a-package=nowhere.jsonl"]
    for command in (["reproduce", "--model", "m", *words], ["analyze", "./nowhere", *words]):
        result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / command[0])])
        said = str(result.exception)
        assert "there is no file nowhere.jsonl" in said or "no model at nowhere" in said


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"lacscope.tasks.{module}"))
    assert failed == 0


@pytest.mark.slow
def test_tasks_need_no_torch_and_no_datasets(run_python) -> None:
    code = "import sys, lacscope.tasks._registry, lacscope.tasks._data, lacscope.tasks._mmlu_subjects; "
    assert run_python(code + "print({'torch', 'transformers', 'datasets'} & set(sys.modules))").strip() == "set()"
