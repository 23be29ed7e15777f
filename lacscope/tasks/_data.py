"""A task's rows: from a local file, from the hub, or packaged; always with the same field names.

Messages name file, row and field, never a row's text: some tasks are private.
"""

import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lacscope.guards._arguments import made_by
from lacscope.guards._text_files import TextFileError, read_lines
from lacscope.tasks._base import Packaged, Task
from lacscope.tasks._fields import FieldError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
REPEATING = frozenset({"mmlu"})
"""Tasks whose own published rows repeat: MMLU's test set has 27 rows twice, and 9 with two equal options.

They are read as published, so that its samples stay those that everybody reports.
"""


class DataError(ValueError):
    """A task's rows cannot be had; the message says what is wrong and what to do."""


def read_rows(task: Task, data: str | os.PathLike[str] | None, shots: bool = False) -> list[dict[str, Any]]:
    """The task's rows with lacscope's field names, and each one's number as ``sample``.

    Args:
        task: the task whose rows they are.
        data: a file (.jsonl, .jsonl.gz, .csv, .csv.gz or .parquet) with the hub's field names or lacscope's own;
            None reads the packaged rows, else the hub by ``datasets``.
        shots: True to read the few-shot examples: ``data`` is then the file that holds them, and None their split.

    Raises:
        ValueError: what is no task, or no path.
        DataError: the file is missing, empty or of another kind; a row of it lacks a field or its text, repeats
            another, or has two equal options; the hub cannot be reached.

    >>> from lacscope.tasks._registry import task
    >>> len(read_rows(task("pocket_options"), None))
    48
    """
    made_by("task", task, Task, "lacscope.tasks.task('boolq')")
    if data is not None and not isinstance(data, (str, os.PathLike)):
        raise ValueError(f"data must be a path to a file, or None, got {data!r:.80}.")
    data = None if data is None else Path(data)
    if shots and (task.hub is None or task.hub.shots_split is None):
        raise DataError(f"{task.name} has no few-shot examples.")
    if data is not None:
        return _normalised(task, _read_file(data), str(data))
    if isinstance(task, Packaged):
        return _normalised(task, task.packaged(), f"{task.name} (packaged)")
    return _normalised(task, _read_hub(task, shots), f"{task.name} (hub)", published=True)


def _normalised(
    task: Task, raw_rows: Iterable[Mapping[str, Any]], where: str, *, published: bool = False
) -> list[dict[str, Any]]:
    """The rows with lacscope's names. Those of a ``published`` set are as they are: its repeats are its own."""
    rows: list[dict[str, Any]] = []
    seen = _Seen()
    for sample, raw in enumerate(raw_rows):
        try:
            row = task.normalise(raw)
            if not published and task.name not in REPEATING:
                seen.check(row, sample + 1)
        except FieldError as error:
            # A file without a header has its first row for field names: private tasks do not list them.
            has = "" if task.private else f" The row has: {', '.join(map(str, raw)) or 'nothing'}."
            raise DataError(f"{where}, row {sample + 1}: {error}, as {task.name} needs.{has}") from None
        except RepeatError as error:
            raise DataError(f"{where}, row {sample + 1}: {error}.") from None
        rows.append({"sample": sample, **row})
    if not rows:
        raise DataError(f"{where} holds no rows.")
    return rows


class RepeatError(ValueError):
    """A row that repeats another, or repeats itself; the message names row and field, never the text."""


class _Seen:
    """Rows so far, to find the one that repeats another."""

    def __init__(self) -> None:
        self.contents: dict[str, int] = {}
        self.ids: dict[str, int] = {}

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raise RepeatError where the row has an option twice, or is one of the rows before it."""
        for name, options in _options_of(row):
            texts = [option.strip() for option in options]
            twice = next((place for place, text in enumerate(texts) if text in texts[:place]), None)
            if twice is not None:
                first = texts.index(texts[twice])
                raise RepeatError(f"field {name!r} has equal options, {first + 1} and {twice + 1}: one cannot be right")
        content = json.dumps({name: value for name, value in row.items() if name != "id"}, sort_keys=True)
        before = self.contents.setdefault(content, number)
        if before != number:
            raise RepeatError(f"it repeats row {before} (every field but the id); leave one of them out")
        if row["id"]:
            before = self.ids.setdefault(row["id"], number)
            if before != number:
                raise RepeatError(f"its field 'id' is that of row {before}, whose content is another; give it its own")


def _options_of(row: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The fields of a row that hold options to choose from, of which one is right."""
    for name in ("choices", "options", "endings"):
        if name in row:
            yield name, row[name]
    if "incorrect" in row:
        yield "incorrect", [row["correct"], *row["incorrect"]]


def _read_file(path: Path) -> Iterable[Mapping[str, Any]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; --data takes one of {', '.join(SUFFIXES)}.")
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{path} is of no kind that can be read; --data takes one of {', '.join(SUFFIXES)}.")
    if suffix.startswith(".jsonl"):
        return _read_jsonl(path)
    return _read_table(path, suffix)


def _read_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    number = 0
    for line in _lines(path):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not JSON ({error.msg} at character {error.pos}).") from None
        except RepeatError as error:
            raise DataError(f"{path}, row {number}: {error}.") from None
        except (ValueError, RecursionError) as error:
            what = "a number of thousands of digits" if isinstance(error, ValueError) else "lists in lists without end"
            raise DataError(f"{path}, row {number}: it holds {what}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: not a JSON object.")
        yield row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json would keep the last of two fields of one name without a word."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise RepeatError(f"field {twice!r} stands there twice")
    return dict(pairs)


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except TextFileError as error:
        raise DataError(str(error)) from None


def _read_table(path: Path, suffix: str) -> list[Mapping[str, Any]]:
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            # As text and without "missing" words: "NA" and "None" are answers to real questions.
            with warnings.catch_warnings():
                # A row longer than the header would lose its end, or shift its fields.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                text = io.StringIO("\n".join(_lines(path)))
                table = pd.read_csv(text, dtype=str, keep_default_na=False, index_col=False)
    except DataError:
        raise
    except pd.errors.ParserWarning:
        raise DataError(f"{path}: a row has more fields than the header; quote texts that hold commas.") from None
    except pd.errors.ParserError as error:
        # Its message counts fields and lines, and quotes none of them.
        raise DataError(f"{path} cannot be read as {suffix[1:]}: {error}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as {suffix[1:]} ({type(error).__name__}).") from None
    return table.to_dict(orient="records")


def _read_hub(task: Task, shots: bool) -> Iterable[Mapping[str, Any]]:
    hub = task.hub
    if hub is None:
        raise DataError(f"{task.name} is neither packaged nor on the hub; name a local file with --data.")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"reading {hub.path} from the hub needs the package datasets: pip install datasets. "
            "Or name a local file with --data."
        ) from None
    split = hub.shots_split if shots else hub.split
    try:
        return load_dataset(hub.path, hub.config, split=split)
    # The library, its hub client and its HTTP client each raise errors of their own.
    except Exception as error:
        raise DataError(
            f"{hub.path} ({hub.config or 'default'}, {split}) could not be read from the hub "
            f"({type(error).__name__}). Without a network, or without access to a gated data set, download it "
            f"elsewhere ({hub.url}) and name the file with --data."
        ) from error
