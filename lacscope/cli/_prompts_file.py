"""A file of prompts: text, one a line, or JSONL, one text or one chat a line. Faults are named by file and row."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lacscope.guards._text_files import read_lines

_OTHER_KINDS = (".json", ".csv", ".tsv", ".parquet", ".xlsx", ".yaml", ".yml")
_FORM = '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'


class PromptsFileError(ValueError):
    """A prompts file that cannot be read; the message names the file, the row and what to do."""


def read_prompts_file(file: Path) -> list[Any]:
    """The prompts of a file (UTF-8, plain or ``.gz``): str each, or a chat each (a list of messages).

    A ``.jsonl`` file holds an object a line, with ``prompt`` (text) or ``messages`` (a chat); any other a prompt a
    line. Lines end at newlines alone; blank ones are left out. Numbers are never taken for token ids.

    Raises:
        FileNotFoundError: there is no such file.
        PromptsFileError: no prompts, or a row that is none.
        TextFileError: not UTF-8.
    """
    if not file.is_file():
        raise FileNotFoundError(2, "no such prompts file", str(file))
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(_OTHER_KINDS):
        raise PromptsFileError(
            f"{file} is of another kind than a prompts file: give text with one prompt a line, or .jsonl with {_FORM} "
            "a line."
        )
    rows = [(number, line) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    if not rows:
        raise PromptsFileError(f"{file} holds no prompts.")
    if not name.endswith(".jsonl"):
        return [line for _, line in rows]
    return [_prompt_of(line, f"{file}, line {number}") for number, line in rows]


def _prompt_of(line: str, where: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptsFileError(f"{where}: not JSON ({error}).") from None
    except (ValueError, RecursionError) as error:
        raise PromptsFileError(f"{where}: not JSON that can be read ({type(error).__name__}).") from None
    given = {"prompt", "messages"} & set(row) if isinstance(row, dict) else set()
    if not given:
        raise PromptsFileError(f'{where}: needs "prompt" (text) or "messages" (a chat).')
    if len(given) > 1:
        raise PromptsFileError(f'{where}: has both "prompt" and "messages"; give one of the two.')
    return _text(row["prompt"], f'{where}: "prompt"') if "prompt" in row else _chat(row["messages"], where)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise PromptsFileError(f"{what} is {json.dumps(value):.60}, not text; put text in quotes.")
    if not value:
        raise PromptsFileError(f"{what} is empty.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptsFileError(f"{what} has half a character (a lone surrogate), of a cut emoji.") from None
    return value


def _chat(messages: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise PromptsFileError(f'{where}: "messages" is no list of messages; write {_FORM}.')
    for place, message in enumerate(messages, 1):
        for key in ("role", "content"):
            if key not in message:
                raise PromptsFileError(f'{where}: message {place} has no "{key}".')
            parts = isinstance(message[key], list) and key == "content"
            if message[key] != "" and not parts:
                _text(message[key], f'{where}: message {place}\'s "{key}"')
    return messages
