"""HellaSwag: endings as continuations, or lettered in chat. Invented texts."""

import json

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._hellaswag import HellaSwag, without_wikihow_marks

pytestmark = pytest.mark.once

TASK = HellaSwag()
ENDINGS = ["flies off.", "swims to the reed.", "[substeps] reads on.", "is a stone."]
ROW = {"id": "7", "activity": "Pond life", "context": "A newt wakes. It", "endings": ENDINGS, "answer": 1}
HUB_ROW = {
    "ind": 7, "activity_label": "Pond life", "ctx_a": "A newt wakes.", "ctx_b": "it", "ctx": "A newt wakes. it",
    "endings": ENDINGS, "source_id": "x~1", "split": "val", "split_type": "indomain", "label": "1",
}  # fmt: skip


def test_endings_as_continuations() -> None:
    (question,) = TASK.questions([{"sample": 5, **ROW}], "plain", seed=0)
    assert (question.sample, question.id, question.chat) == (5, "7", False)
    assert question.prompt == "Pond life: A newt wakes. It"
    assert question.choices == (" flies off.", " swims to the reed.", "  reads on.", " is a stone.")
    assert (question.target, question.answer) == (1, "swims to the reed.")
    assert TASK.right(TASK.parse(" swims to the reed.\nPond life: A bird", question), question)
    assert TASK.parse(" B", question) is None  # raw text knows no letters


def test_letters_in_chat() -> None:
    (question,) = TASK.questions([ROW], "letters", seed=0)
    assert question.prompt == (
        "Pond life: A newt wakes. It\nWhich of these comes next?\nA. flies off.\nB. swims to the reed.\n"
        "C.  reads on.\nD. is a stone.\nAnswer with the letter of the right option."
    )
    assert (question.chat, question.choices, question.answer) == (True, ("A", "B", "C", "D"), "B")
    assert TASK.right(TASK.parse("B", question), question)
    assert not TASK.right(TASK.parse("A", question), question)


@pytest.mark.parametrize("written", [list, str, json.dumps])
def test_the_hubs_rows(written: type) -> None:
    assert TASK.normalise({**HUB_ROW, "endings": written(ENDINGS)}) == ROW


def test_a_context_without_a_second_part_has_no_space_at_its_end() -> None:
    assert TASK.normalise({**HUB_ROW, "ctx_b": ""})["context"] == "A newt wakes."


def test_our_own_rows_come_back_as_they_are() -> None:
    assert TASK.normalise(ROW) == ROW


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        (" a [title] b", "a. b"),
        ("[header] a", " a"),
        ("a [step] b", "a b"),
        ("a b", "a b"),
    ],
)
def test_wikihows_marks(given: str, clean: str) -> None:
    assert without_wikihow_marks(given) == clean


def test_bad_rows() -> None:
    with pytest.raises(FieldError, match=r"^field 'label' is empty, as in the test set, whose answers are not publis"):
        TASK.normalise({**HUB_ROW, "label": ""})
    with pytest.raises(FieldError, match=r"^field 'endings' holds 2 endings, not 4$"):
        TASK.normalise({**HUB_ROW, "endings": ENDINGS[:2]})
    with pytest.raises(FieldError, match=r"^field 'answer' does not point to one of its 4 options"):
        TASK.normalise({**HUB_ROW, "label": "4"})
    with pytest.raises(FieldError, match=r"^no field 'ctx_a'$"):
        TASK.normalise({key: value for key, value in HUB_ROW.items() if key != "ctx_a"})
