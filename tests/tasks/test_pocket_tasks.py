"""The pocket set as tasks: the paper's templates, filled with the packaged questions."""

from collections import Counter

import pytest

from lacscope.tasks._boolq import BoolQ
from lacscope.tasks._data import read_rows
from lacscope.tasks._mmlu import Mmlu
from lacscope.tasks._pocket import load_pocket
from lacscope.tasks._registry import task

pytestmark = pytest.mark.once


@pytest.mark.parametrize("style", ["paper", "plain"])
def test_booleans_are_asked_as_boolq_is(style: str) -> None:
    rows = read_rows(task("pocket_boolean"), None)
    made = task("pocket_boolean").questions(rows, style, seed=0)
    assert [question.prompt for question in made] == [each.prompt for each in BoolQ().questions(rows, style, seed=0)]
    assert Counter(question.target for question in made) == {0: 24, 1: 24}
    items = load_pocket("yes_no")
    assert [question.id for question in made] == [item.id for item in items]
    assert [question.target == 0 for question in made] == [item.answer for item in items]


@pytest.mark.parametrize("style", ["paper", "plain"])
def test_options_are_asked_as_mmlu_is(style: str) -> None:
    rows = read_rows(task("pocket_options"), None)
    made = task("pocket_options").questions(rows, style, seed=0)
    as_mmlu = Mmlu().questions([{**row, "subject": ""} for row in rows], style, seed=0)
    assert made == as_mmlu
    assert Counter(question.target for question in made) == {0: 12, 1: 12, 2: 12, 3: 12}


def test_plain_options_are_the_packaged_prompts() -> None:
    made = task("pocket_options").questions(read_rows(task("pocket_options"), None), "plain", seed=0)
    assert [question.prompt for question in made] == [item.prompt() for item in load_pocket("multiple_choice")]


@pytest.mark.parametrize("name", ["pocket_boolean", "pocket_options"])
def test_each_right_answer_is_read_as_right(name: str) -> None:
    pocket = task(name)
    for style in pocket.styles:
        for question in pocket.questions(read_rows(pocket, None), style, seed=0):
            assert pocket.right(pocket.parse(f"The answer is {question.answer}.", question), question)
