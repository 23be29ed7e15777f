"""Rows that hold no text, for every task and kind of file: refused by file, row and field; MMLU's repeats are read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lacscope.tasks._data import DataError, read_rows
from lacscope.tasks._registry import TASKS, task

pytestmark = pytest.mark.once

# A row of each task with its texts by name, and its lists of options.
ROWS: dict[str, dict[str, Any]] = {
    "boolq": {"question": "do newts swim", "answer": True, "passage": "Newts swim."},
    "mmlu": {"question": "Which?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 3},
    "gpqa": {"question": "Which?", "correct": "tin", "incorrect": ["iron", "lead", "zinc"]},
    "lambada": {"context": "She saw a", "target": "newt"},
    "gsm8k": {"question": "How many?", "solution": "2 + 2 = 4", "answer": "4"},
    "arc_easy": {"question": "Which?", "choices": ["tin", "iron"], "answer": 0},
    "arc_challenge": {"question": "Which?", "choices": ["tin", "iron"], "answer": 0},
    "hellaswag": {"activity": "Ponds", "context": "A newt", "endings": ["w", "x", "y", "z"], "answer": 0},
    "winogrande": {"sentence": "The _ swims.", "options": ["newt", "reed"], "answer": 0},
    "twohop": {
        "question": "Who?", "hop1_question": "Where?", "hop2_question": "Who is in Rome?", "answer": "Ann",
        "bridge": ["Rome"],
    },
    "pocket_boolean": {"question": "Do newts swim?", "passage": "Newts swim.", "answer": True},
    "pocket_options": {"question": "Which?", "choices": ["tin", "iron"], "answer": 0},
}  # fmt: skip
TEXTS = [(name, field) for name, row in ROWS.items() for field, value in row.items() if isinstance(value, str)]
LISTS = [(name, field) for name, row in ROWS.items() for field, value in row.items() if isinstance(value, list)]
NO_TEXT = [float("nan"), None, ["secret"], {"t": "secret"}, "", " \n", 5, True, "secret \ud83d"]


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_rows_are_of_every_task() -> None:
    assert set(ROWS) == set(TASKS)


@pytest.mark.parametrize("name", ROWS)
def test_a_good_row_is_read(tmp_path: Path, name: str) -> None:
    assert len(read_rows(task(name), write(tmp_path, ROWS[name]))) == 1


@pytest.mark.parametrize("value", NO_TEXT, ids=repr)
@pytest.mark.parametrize(("name", "field"), [pair for pair in TEXTS if pair != ("gsm8k", "answer")])
def test_a_field_without_text_is_named(tmp_path: Path, name: str, field: str, value: Any) -> None:
    path = write(tmp_path, ROWS[name], {**ROWS[name], field: value})
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: .*(field|text)") as caught:
        read_rows(task(name), path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), None, ["secret"], {"t": "secret"}, "", 5, True], ids=repr)
@pytest.mark.parametrize(("name", "field"), [pair for pair in LISTS if pair != ("twohop", "bridge")])
def test_an_item_without_text_is_named(tmp_path: Path, name: str, field: str, value: Any) -> None:
    bad = {**ROWS[name], field: [*ROWS[name][field][:-1], value]}
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1: field '{field}', item {len(bad[field])} (holds|is)"):
        read_rows(task(name), write(tmp_path, bad))


@pytest.mark.parametrize(("name", "field"), [pair for pair in LISTS if pair[0] not in ("twohop", "mmlu")])
def test_equal_options_are_refused(tmp_path: Path, name: str, field: str) -> None:
    first = ROWS[name].get("correct", ROWS[name][field][0])
    bad = {**ROWS[name], field: [*ROWS[name][field][:-1], f" {first}"]}
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1: field '{field}' has equal options, 1 and \d"):
        read_rows(task(name), write(tmp_path, bad))


@pytest.mark.parametrize("name", [name for name in ROWS if name != "mmlu"])
def test_a_row_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    other = {**ROWS[name], "question": "And?", "sentence": "A _.", "activity": "Meadows", "context": "A red"}
    path = write(tmp_path, {**ROWS[name], "id": "a"}, {**other, "id": "b"}, {**ROWS[name], "id": "c"})
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3: it repeats row 1 \(every field but the id\)"):
        read_rows(task(name), path)
    path = write(tmp_path, {**ROWS[name], "id": "a"}, {**other, "id": "a"})
    with pytest.raises(DataError, match=r"row 2: its field 'id' is that of row 1, whose content is another"):
        read_rows(task(name), path)


def test_mmlus_own_repeats_are_read_as_published(tmp_path: Path) -> None:
    row = {**ROWS["mmlu"], "choices": ["a", "b", "c", "c"]}
    assert [read["sample"] for read in read_rows(task("mmlu"), write(tmp_path, row, row))] == [0, 1]


@pytest.mark.parametrize(
    "answer", [2, -1, "9" * 5000, "C", 0.5, None, float("nan"), [0], "\u0661"], ids=lambda a: repr(a)[:9]
)
def test_an_answer_out_of_range_is_named(tmp_path: Path, answer: Any) -> None:
    for name in ("arc_easy", "winogrande", "pocket_options"):
        path = write(tmp_path, {**ROWS[name], "answer": answer})
        with pytest.raises(DataError, match=r"rows\.jsonl, row 1: .*field '(answer|answerKey)'"):
            read_rows(task(name), path)


def test_tables_are_held_to_the_same(tmp_path: Path) -> None:
    # pandas pads a short row.
    (tmp_path / "rows.csv").write_text("question,passage,answer\nq,p,true\nq2\n")
    with pytest.raises(DataError, match=r"rows\.csv, row 2: field 'passage' is empty"):
        read_rows(task("boolq"), tmp_path / "rows.csv")
    (tmp_path / "long.csv").write_text("question,passage,answer\nq,p,true,more\n")
    with pytest.raises(DataError, match=r"long\.csv"):
        read_rows(task("boolq"), tmp_path / "long.csv")
    frame = pd.DataFrame([ROWS["arc_easy"] | {"choices": np.array(["x", None], dtype=object)}])
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet, row 1: field 'choices', item 2 holds nothing"):
        read_rows(task("arc_easy"), tmp_path / "rows.parquet")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    for suffix, text in (("jsonl", json.dumps(ROWS["boolq"])), ("csv", "question,passage,answer\nq,p,true")):
        path = tmp_path / f"rows.{suffix}"
        path.write_text(f"\ufeff{text}\n", encoding="utf-8")
        assert len(read_rows(task("boolq"), path)) == 1
