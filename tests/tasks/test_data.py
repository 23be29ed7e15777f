"""Rows from every kind of file and from a stand-in for the hub; errors that say what to do, and never a text."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lacscope.tasks._data import DataError, read_rows
from lacscope.tasks._registry import TASKS, task

pytestmark = pytest.mark.once

HUB_ROWS: dict[str, dict[str, object]] = {
    "boolq": {"question": "do newts swim", "answer": True, "passage": "Newts swim."},
    "mmlu": {"question": "Which?", "subject": "virology", "choices": ["NA", "it's", "a, b", "None"], "answer": 3},
    "gpqa": {
        "Record ID": "rec1", "Question": "Which?", "Correct Answer": "tin",
        "Incorrect Answer 1": "iron", "Incorrect Answer 2": "lead", "Incorrect Answer 3": "zinc",
    },
    "lambada": {"text": "She saw a newt"},
    "gsm8k": {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    "arc_easy": {
        "id": "n1", "question": "Which?", "choices": {"text": ["tin", "iron", "it's"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "hellaswag": {
        "ind": 3, "activity_label": "Ponds", "ctx_a": "A newt wakes.", "ctx_b": "it",
        "endings": ["flies", "swims, slowly", "it's", "a \"b\""], "label": "1",
    },
    "winogrande": {"sentence": "The _ swims.", "option1": "newt", "option2": "reed", "answer": "1"},
    "twohop": {
        "question": "Who?", "hop1_question": "Where?", "hop2_question": "Who is in New Pond?", "answer": "Ann",
        "answers": ["Ann", "A."], "bridge": ["NP", "New Pond"],
    },
}  # fmt: skip


def write(folder: Path, kind: str, rows: list[dict[str, object]]) -> Path:
    path = folder / f"rows.{kind}"
    if kind.startswith("jsonl"):
        text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    elif kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        # As pandas exports what it read from Parquet: lists are numpy arrays there.
        arrays = [{k: np.array(v, dtype=object) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        pd.DataFrame(arrays).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("name", HUB_ROWS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, kind: str) -> None:
    (first,) = {"question", "text", "activity_label", "sentence"} & set(HUB_ROWS[name]) or {"Question"}
    own = {"id": "n2", "Record ID": "rec2", "ind": 4, first: f"Now: {HUB_ROWS[name][first]}"}
    rows = [HUB_ROWS[name], {**HUB_ROWS[name], **{key: own[key] for key in own if key in HUB_ROWS[name]}}]
    got = read_rows(task(name), write(tmp_path, kind, rows))
    assert got == [{"sample": sample, **TASKS[name].normalise(row)} for sample, row in enumerate(rows)]


def test_a_tables_missing_words_are_answers(tmp_path: Path) -> None:
    raw = {**HUB_ROWS["gpqa"], "Correct Answer": "NA", "Incorrect Answer 1": "None", "Incorrect Answer 2": "007"}
    (row,) = read_rows(task("gpqa"), write(tmp_path, "csv", [raw]))
    assert (row["correct"], row["incorrect"]) == ("NA", ["None", "007", "zinc"])


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_written_out_are_read_again(tmp_path: Path, name: str) -> None:
    rows = [TASKS[name].normalise(HUB_ROWS[name])]
    assert read_rows(task(name), write(tmp_path, "jsonl", rows)) == [{"sample": 0, **rows[0]}]


def test_a_missing_field_is_named_with_file_and_row(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [HUB_ROWS["boolq"], {"question": "q", "answer": True}])
    with pytest.raises(
        DataError, match=r"rows\.jsonl, row 2: no field 'passage', as boolq needs\. .* question, answer\.$"
    ):
        read_rows(task("boolq"), path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_no_private_text_in_messages(tmp_path: Path, kind: str) -> None:
    # A file without its header: the first row's texts are its field names.
    path = write(tmp_path, kind, [{"secret question": "a", "secret answer": "b"}])
    with pytest.raises(DataError, match=r"row 1: no field 'Incorrect Answer 1', as gpqa needs\.$") as caught:
        read_rows(task("gpqa"), path)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", b"x", r"is of no kind that can be read; --data takes one of \.jsonl, .*\.parquet\.$"),
        ("rows.jsonl", b'{"a": 1}\n{"secret', r"row 1: no field|row 2: not JSON"),
        ("rows.jsonl", b'{"secret', r"row 1: not JSON \(.* at character \d+\)\.$"),
        ("rows.jsonl", b'["secret"]\n', r"row 1: not a JSON object\.$"),
        ("rows.jsonl", b"\xff\xfe secret", r"rows\.jsonl is UTF-16 \(it begins with ff fe\); save it as UTF-8\.$"),
        ("rows.jsonl.gz", b"secret", r"cannot be read as \.gz \(BadGzipFile\); write it again\.$"),
        ("rows.jsonl", b"{}\n\ncaf\xe9 secret", r"row 3: byte 4 \(0xe9\) is not UTF-8; .* Save it as UTF-8\.$"),
        ("rows.csv", b"a,b\n1,caf\xe9 secret\n", r"row 2: byte 6 \(0xe9\) is not UTF-8; .* Save it as UTF-8\.$"),
        ("rows.csv", b"a,b\n1,secret,3\n", r"rows\.csv.*: a row has more fields than the header|saw 3"),
        ("rows.jsonl", b'{"a": ' + b"9" * 5000 + b"}", r"row 1: it holds a number of thousands of digits\.$"),
        ("rows.jsonl", b'{"a": ' + b"[" * 99999, r"row 1: it holds lists in lists without end\.$"),
        ("rows.jsonl", b'{"a": "secret", "a": 2}', r"row 1: field 'a' stands there twice\.$"),
        ("rows.jsonl", b"\n\n", r"holds no rows\.$"),
        ("rows.parquet", b"secret", r"cannot be read as parquet \(\w+\)\.$"),
        ("rows.csv", b"", r"cannot be read as csv \(EmptyDataError\)\.$"),
        ("rows.csv", b'a,b\n1,2\n"secret,3\n', r"cannot be read as csv|no field"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(task("gpqa"), tmp_path / name)
    assert "secret" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^there is no file .*nothing\.csv; --data takes one of"):
        read_rows(task("boolq"), tmp_path / "nothing.csv")


# --- the hub, by a stand-in -----------------------------------------------------------------------------


def test_the_hub_is_asked_for_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, config: str | None, *, split: str) -> list[dict[str, object]]:
        asked.append((path, config, split))
        return [HUB_ROWS["mmlu"]]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    expected = [{"sample": 0, **task("mmlu").normalise(HUB_ROWS["mmlu"])}]
    assert read_rows(task("mmlu"), None) == expected
    assert read_rows(task("mmlu"), None, shots=True) == expected
    assert asked == [("cais/mmlu", "all", "test"), ("cais/mmlu", "all", "dev")]


def test_without_a_network_the_message_names_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"^google/boolq \(default, validation\) .* \(ConnectionError\)\. .*--data\.$"):
        read_rows(task("boolq"), None)


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: pip install datasets\. .*--data\.$"):
        read_rows(task("boolq"), None)


# --- packaged -------------------------------------------------------------------------------------------


def test_packaged_rows_and_shots() -> None:
    assert [row["sample"] for row in read_rows(task("pocket_boolean"), None)] == list(range(48))
    with pytest.raises(DataError, match=r"^pocket_boolean has no few-shot examples\.$"):
        read_rows(task("pocket_boolean"), None, shots=True)
    with pytest.raises(DataError, match=r"^gpqa has no few-shot examples\.$"):
        read_rows(task("gpqa"), None, shots=True)
