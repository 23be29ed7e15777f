"""LAMBADA: the last word, teacher-forced or generated. Invented passages."""

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._lambada import Lambada

pytestmark = pytest.mark.once

TEXT = "She looked for the newt\nunder every stone, but there was no newt"


def test_the_text_is_split_at_its_last_space() -> None:
    row = Lambada().normalise({"text": TEXT})
    assert row == {"id": "", "context": TEXT.removesuffix(" newt"), "target": "newt"}
    assert Lambada().normalise({"id": 3, "context": "a b", "target": "c"}) == {
        "id": "3",
        "context": "a b",
        "target": "c",
    }


def test_the_question() -> None:
    (question,) = Lambada().questions([{"sample": 2, **Lambada().normalise({"text": TEXT})}], "plain", seed=0)
    assert question.prompt + question.choices[0] == TEXT
    assert (question.sample, question.chat, question.choices, question.target) == (2, False, (" newt",), 0)
    assert question.answer == "newt"


@pytest.mark.parametrize(
    ("text", "right"),
    [(" newt.", True), ('newt," he said', True), (" Newt", False), (" newts", False), (" a newt", False), ("", False)],
)
def test_generated_answers(text: str, right: bool) -> None:
    task = Lambada()
    (question,) = task.questions([task.normalise({"text": TEXT})], "plain", seed=0)
    assert task.right(task.parse(text, question), question) is right


def test_a_target_with_a_mark_or_a_line_break() -> None:
    task = Lambada()
    (question,) = task.questions([{"context": "a b", "target": "newt.\nHe"}], "plain", seed=0)
    assert (question.choices, question.answer) == ((" newt.\nHe",), "newt")


@pytest.mark.parametrize("raw", [{"text": "newt"}, {"text": "a newt ..."}, {"context": " ", "target": "newt"}])
def test_not_a_passage(raw: dict[str, str]) -> None:
    with pytest.raises(FieldError, match=r"^field 'text' is not a passage with a last word$"):
        Lambada().normalise(raw)


def test_there_is_no_paper_style() -> None:
    with pytest.raises(ValueError, match=r"^lambada has no style 'paper'; choose one of 'plain'\.$"):
        Lambada().questions([], "paper", seed=0)
