"""Two-hop questions and the one-hop questions they are made of. Invented facts."""

import json
from pathlib import Path

import pytest

from lacscope.tasks._data import DataError, read_rows
from lacscope.tasks._fields import FieldError
from lacscope.tasks._twohop import TwoHop

pytestmark = pytest.mark.once

TASK = TwoHop()
RAW = {
    "id": 4,
    "question": "What is the capital of the home country of the Smooth Newt?",
    "hop1_question": "What is the home country of the Smooth Newt?",
    "hop2_question": "What is the capital of New Pondland?",
    "answer": "Reedham",
    "answers": ["Reedham", "Reedham City"],
    "bridge": ["NP", "New", "New Pondland", "Pondland"],
}


def test_three_questions_a_row() -> None:
    first, second, both = TASK.questions([{"sample": 6, **TASK.normalise(RAW)}], "plain", seed=0)
    assert [q.sample for q in (first, second, both)] == [18, 19, 20]
    assert [q.group for q in (first, second, both)] == ["1 hop", "1 hop", "2 hops"]
    assert [q.id for q in (first, second, both)] == ["4 hop 1", "4 hop 2", "4 both hops"]
    assert first.prompt == "Question: What is the home country of the Smooth Newt?\nAnswer:"
    assert second.prompt == "Question: What is the capital of New Pondland?\nAnswer:"
    assert both.prompt == "Question: What is the capital of the home country of the Smooth Newt?\nAnswer:"
    assert [q.choices for q in (first, second, both)] == [(" New Pondland",), (" Reedham",), (" Reedham",)]
    assert all((q.target, q.chat) == (0, False) for q in (first, second, both))


def test_no_two_samples_have_one_number() -> None:
    rows = [{"sample": sample, **TASK.normalise(RAW)} for sample in (0, 1, 5)]
    samples = [question.sample for question in TASK.questions(rows, "plain", seed=0)]
    assert samples == [0, 1, 2, 3, 4, 5, 15, 16, 17]


@pytest.mark.parametrize("bridge", ["New Pondland", ["Pond", "New Pondland"], json.dumps(["NP", "New Pondland"])])
def test_the_bridge_is_the_longest_name_that_the_second_hop_has(bridge: object) -> None:
    row = TASK.normalise({**RAW, "bridge": bridge})
    assert row["bridge"] == "New Pondland"
    assert TASK.normalise(row) == row


def test_a_name_inside_a_word_is_not_the_bridge() -> None:
    with pytest.raises(FieldError, match=r"^no name in field 'bridge' stands in 'hop2_question'$"):
        TASK.normalise({**RAW, "bridge": ["Pond", "cap", ""]})


@pytest.mark.parametrize("field", ["question", "hop1_question", "hop2_question", "answer", "bridge"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(FieldError, match=rf"^no field '{field}'$"):
        TASK.normalise({key: value for key, value in RAW.items() if key != field})


@pytest.mark.parametrize(
    ("text", "right"), [(" Reedham.", True), (" it is Reedham\nQuestion: x", True), (" Reed", False), ("", False)]
)
def test_an_answer_read_for_its_name(text: str, right: bool) -> None:
    *_, both = TASK.questions([TASK.normalise(RAW)], "plain", seed=0)
    assert TASK.right(TASK.parse(text, both), both) is right


def test_the_rows_come_from_a_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(RAW))
    assert read_rows(TASK, path) == [{"sample": 0, **TASK.normalise(RAW)}]
    with pytest.raises(
        DataError, match=r"^twohop is neither packaged nor on the hub; name a local file with --data\.$"
    ):
        read_rows(TASK, None)
