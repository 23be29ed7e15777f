"""BoolQ's prompts, byte by byte, and its scoring."""

import pytest

from lacscope.tasks._boolq import BoolQ

pytestmark = pytest.mark.once

ROWS = [
    {
        "sample": 4,
        "id": "x4",
        "question": "do newts have tails",
        "passage": "Newts keep\ntheir {tails}.",
        "answer": True,
    },
    {"sample": 9, "id": "x9", "question": "are newts birds?", "passage": "Newts are amphibians.", "answer": False},
]
PAPER = (
    "\n    Respond to the given question based on the passage with True or False.\n"
    "    Passage:\n"
    "    Newts keep\ntheir {tails}.\n"
    "\n"
    "    Options:\n"
    "    do newts have tails\n"
    "\n"
    "    Output Format:\n"
    "    [True/False]\n"
    "    "
)


def test_the_papers_prompt() -> None:
    first, second = BoolQ().questions(ROWS, "paper", seed=0)
    assert first.prompt == PAPER
    assert (first.sample, first.id, first.chat) == (4, "x4", True)
    assert (first.choices, first.target, first.answer) == (("True", "False"), 0, "True")
    assert (second.target, second.answer) == (1, "False")


def test_the_plain_prompt() -> None:
    first, second = BoolQ().questions(ROWS, "plain", seed=0)
    assert first.prompt == "Newts keep\ntheir {tails}.\n\nQuestion: do newts have tails?\nAnswer with yes or no."
    assert "birds?\n" in second.prompt
    assert (second.choices, second.target, second.answer) == (("yes", "no"), 1, "no")


def test_scoring() -> None:
    task = BoolQ()
    first, _ = task.questions(ROWS, "paper", seed=0)
    assert task.parse("No, it is false.", first) == 1
    assert task.parse("Perhaps.", first) is None
    for style in task.styles:
        for question in task.questions(ROWS, style, seed=0):
            said = [task.parse(choice, question) for choice in question.choices]
            assert said == [0, 1]
            assert [task.right(index, question) for index in said] == [question.target == 0, question.target == 1]
            assert not task.right(None, question)


@pytest.mark.parametrize(
    "raw",
    [
        {"question": "q", "passage": "p", "answer": True},
        {"idx": 3, "question": "q", "passage": "p", "label": 1},
        {"question": "q", "passage": "p", "answer": "True"},
    ],
    ids=["hub", "SuperGLUE", "CSV"],
)
def test_rows(raw: dict[str, object]) -> None:
    row = BoolQ().normalise(raw)
    assert row == {"id": row["id"], "question": "q", "passage": "p", "answer": True}


def test_unknown_style_and_shots() -> None:
    with pytest.raises(ValueError, match=r"^boolq has no style 'fancy'; choose one of 'paper', 'plain'\.$"):
        BoolQ().questions(ROWS, "fancy", seed=0)
    with pytest.raises(ValueError, match=r"^boolq takes no few-shot examples, 2 were given; leave shots empty\.$"):
        BoolQ().questions(ROWS, "paper", seed=0, shots=ROWS)
