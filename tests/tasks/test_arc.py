"""ARC: texts as continuations, or letters in chat. Invented questions."""

import json

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._registry import task

pytestmark = pytest.mark.once

EASY = task("arc_easy")
ROW = {"id": "n1", "question": "Which is a newt?", "choices": ["a stone", "the smooth newt", "a reed"], "answer": 1}


def test_options_as_continuations() -> None:
    (question,) = EASY.questions([ROW], "plain", seed=0)
    assert (question.prompt, question.chat) == ("Question: Which is a newt?\nAnswer:", False)
    assert question.choices == (" a stone", " the smooth newt", " a reed")
    assert (question.target, question.answer) == (1, "the smooth newt")
    assert EASY.parse(" the smooth newt\n\nQuestion: Which is a reed?\nAnswer: a reed", question) == 1
    assert EASY.parse(" A bird", question) is None  # raw text knows no letters


def test_letters_in_chat() -> None:
    (question,) = EASY.questions([ROW], "letters", seed=0)
    assert question.prompt == (
        "Which is a newt?\nA. a stone\nB. the smooth newt\nC. a reed\nAnswer with the letter of the right option."
    )
    assert (question.chat, question.choices, question.answer) == (True, ("A", "B", "C"), "B")
    assert EASY.right(EASY.parse("B", question), question)
    assert EASY.parse("D", question) is None


@pytest.mark.parametrize("labels", ["ABC", "123"])
@pytest.mark.parametrize("written", [dict, str, json.dumps])
def test_the_hubs_rows(labels: str, written: type) -> None:
    choices = {"text": ROW["choices"], "label": list(labels)}
    raw = {"id": "n1", "question": ROW["question"], "choices": written(choices), "answerKey": labels[1]}
    assert EASY.normalise(raw) == ROW


def test_local_rows() -> None:
    assert EASY.normalise({**ROW, "labels": ["1", "2", "3"]}) == ROW
    assert EASY.normalise(ROW) == ROW


def test_bad_rows() -> None:
    with pytest.raises(FieldError, match=r"^field 'answerKey' is not one of the options' labels$"):
        EASY.normalise({**ROW, "answerKey": "E"})
    with pytest.raises(FieldError, match=r"^field 'choices' holds 1 options and 1 labels, not 2 to 5 of each$"):
        EASY.normalise({**ROW, "choices": ["a"]})
    with pytest.raises(FieldError, match=r"^no field 'choices'$"):
        EASY.normalise({"question": "q", "answer": 0})


def test_the_two_sets_differ_by_name_and_place() -> None:
    challenge = task("arc_challenge")
    assert (EASY.name, challenge.name) == ("arc_easy", "arc_challenge")
    assert EASY.hub is not None
    assert challenge.hub is not None
    assert (EASY.hub.config, challenge.hub.config) == ("ARC-Easy", "ARC-Challenge")
