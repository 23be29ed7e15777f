"""Every task is registered, complete and documented, and the light part of lacscope stays light."""

import doctest
import importlib
import pkgutil

import pytest

import lacscope.tasks
from lacscope.tasks._base import Packaged
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


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"lacscope.tasks.{module}"))
    assert failed == 0


@pytest.mark.slow
def test_tasks_need_no_torch_and_no_datasets(run_python) -> None:
    code = "import sys, lacscope.tasks._registry, lacscope.tasks._data, lacscope.tasks._mmlu_subjects; "
    assert run_python(code + "print({'torch', 'transformers', 'datasets'} & set(sys.modules))").strip() == "set()"
