"""Questions check themselves, hide their text, and hash by content."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lacscope.tasks import TASKS, read_rows
from lacscope.tasks._base import HubSource, Question, numbered

pytestmark = pytest.mark.once

QUESTION = Question(3, "q-3", "Is tin a metal?", True, ("yes", "no"), 0, "yes")


@pytest.mark.parametrize(("choices", "target"), [(("a", "b"), 2), (("a", "b"), -1), ((), 0)])
def test_the_target_is_one_of_the_choices(choices: tuple[str, ...], target: int) -> None:
    with pytest.raises(
        ValueError, match=rf"sample 3: target {target} is not the index of one of {len(choices)} choices"
    ):
        replace(QUESTION, choices=choices, target=target)


def test_no_choices_no_target() -> None:
    assert replace(QUESTION, choices=(), target=-1).target == -1


def test_repr_hides_the_text() -> None:
    shown = repr(replace(QUESTION, options=("secret option",)))
    assert "q-3" in shown
    assert not any(word in shown for word in ("tin", "yes", "secret"))


def test_sample_numbers_stay_with_the_rows() -> None:
    assert [sample for sample, _ in numbered([{"sample": 7}, {"sample": 2}])] == [7, 2]
    assert [sample for sample, _ in numbered([{}, {}])] == [0, 1]


def test_the_hubs_page() -> None:
    assert HubSource("a/b", None, "test").url == "https://huggingface.co/datasets/a/b"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": "a"}, "sample must be a whole number, 0 or more, got 'a'"),
        ({"chat": 1}, "chat must be True or False, got 1"),
        ({"prompt": 5}, "sample 3: prompt must be text, not int"),
        ({"choices": "yes"}, "sample 3: choices must be a tuple of texts, not str"),
        ({"options": (1, 2)}, "sample 3: options must be a tuple of texts, not tuple"),
    ],
)
def test_a_question_of_other_kinds_is_refused_without_its_text(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        replace(QUESTION, **changes)
    assert "tin" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", sorted(TASKS))
def test_rows_that_are_none_are_refused_by_every_task(name: str) -> None:
    asked = TASKS[name]
    style = asked.styles[0]
    for rows in (5, "abc", ["x"]):
        with pytest.raises(
            ValueError, match=re.escape("rows must be a list of rows (dicts), as read_rows(task, data)")
        ):
            asked.questions(rows, style, seed=0)
    with pytest.raises(ValueError, match=r"row 0 has no field '\w+': give rows as read_rows\(task, data\) returns"):
        asked.questions([{}], style, seed=0)
    with pytest.raises(ValueError, match=re.escape("seed must be a whole number, 0 or more, got 1.5")):
        asked.questions([], style, seed=1.5)
    with pytest.raises(ValueError, match=re.escape("shots must be a list of rows (dicts)")):
        asked.questions([], style, seed=0, shots=3)


@pytest.mark.usefixtures("unchecked")
def test_read_rows_takes_a_task_and_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("task must be a Task, such as lacscope.tasks.task('boolq'); got")):
        read_rows("boolq", None)
    with pytest.raises(ValueError, match="data must be a path to a file, or None, got 5"):
        read_rows(TASKS["boolq"], 5)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"passage": "It is deep.", "question": "is it deep", "answer": true}\n')
    assert read_rows(TASKS["boolq"], str(file)) == read_rows(TASKS["boolq"], file)
