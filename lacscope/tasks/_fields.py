"""Reading one field of a row, whatever its file made of it. Messages name the field, never its contents."""

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping
from numbers import Integral, Number
from typing import Any

import numpy as np

from lacscope.tasks._letters import LETTERS

_MISSING = ("NAType", "NaTType")  # pandas' own, by name: nothing here needs pandas


class FieldError(ValueError):
    """A row lacks a field, or a field cannot be read; the message names the field, not its text."""


def text_of(row: Mapping[str, Any], *names: str, blank: bool = False) -> str:
    """The first of these fields that the row has: text, and more than spaces unless it may be ``blank``.

    A number is no text: a missing value is one (NaN), and so is what a file made of a text that it misread.

    >>> text_of({"Question": "Why?"}, "question", "Question")
    'Why?'
    """
    return _checked(_value(row, names), f"field {names[0]!r}", blank)


def code_of(row: Mapping[str, Any], *names: str) -> str:
    """A short answer: a text, or a whole number as text; "" where it is blank.

    >>> code_of({"answer": 2}, "answer")
    '2'
    """
    value = _value(row, names)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return str(int(value)) if whole else _checked(value, f"field {names[0]!r}", blank=True).strip()


def id_of(row: Mapping[str, Any], *names: str) -> str:
    """The data set's own id, a text or a number; "" where it has none."""
    value = next((row[name] for name in names if not is_missing(row.get(name))), "")
    if isinstance(value, str) or (isinstance(value, Number) and not isinstance(value, bool)):
        return str(value)
    raise FieldError(f"field {names[0]!r} holds {_kind(value)}, not an id (a text or a number)")


def flag_of(row: Mapping[str, Any], *names: str) -> bool:
    """A boolean, also as 0/1, "true"/"false" or "yes"/"no" in any case.

    >>> flag_of({"answer": "False"}, "answer")
    False
    """
    word = str(_value(row, names)).strip().lower()
    if word in ("true", "yes", "1"):
        return True
    if word in ("false", "no", "0"):
        return False
    raise FieldError(f"field {names[0]!r} is not a boolean (true/false, yes/no or 1/0)")


def index_of(row: Mapping[str, Any], n: int, *names: str) -> int:
    """An index below ``n``, given as a number or as an option letter.

    >>> index_of({"answer": "2"}, 4, "answer"), index_of({"answer": "C"}, 4, "answer")
    (2, 2)
    """
    word = str(_value(row, names)).strip()
    if len(word) == 1 and word in LETTERS:
        index = LETTERS.index(word)
    # Python refuses to read a number of thousands of digits.
    elif word.isascii() and word.isdecimal() and len(word) <= 9:
        index = int(word)
    else:
        index = n
    if index < n:
        return index
    raise FieldError(f"field {names[0]!r} does not point to one of its {n} options (an index from 0, or a letter)")


def texts_of(row: Mapping[str, Any], *names: str, blank: bool = False) -> list[str]:
    """A list of texts: a sequence, or one written out as JSON, Python or numpy would; ``blank`` ones may be empty.

    A number in a list that is written out is the text that stands there.

    >>> texts_of({"choices": "['one' 'two']"}, "choices")
    ['one', 'two']
    """
    value = _value(row, names)
    if isinstance(value, str):
        value = parse_literal(value, names[0])
        value = [_written_number(item) for item in value] if isinstance(value, list | tuple) else value
    if not isinstance(value, list | tuple | np.ndarray):
        raise FieldError(f"field {names[0]!r} is not a list of texts")
    places = enumerate(value, 1)
    return [_checked(item, f"field {names[0]!r}, item {place}", blank) for place, item in places]


def _written_number(item: Any) -> Any:
    number = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
    return str(item) if number else item


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, or pandas' NA."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _MISSING


def parse_literal(written: str, name: str) -> Any:
    """A list or dict written as JSON, as Python, or as numpy prints its arrays. Nothing is evaluated.

    Raises:
        FieldError: it is none of these; the message has ``name``, never the text.
    """
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        pass
    try:
        if written.lstrip().startswith("["):
            # Not by literal_eval alone: numpy writes no commas, and Python then joins the texts into one.
            tokens = tokenize.generate_tokens(io.StringIO(written.strip()).readline)
            texts = [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
            if texts:
                return texts
        return ast.literal_eval(re.sub(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", r"\1", written, flags=re.DOTALL))
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        # The cause would quote the text, which may be private.
        raise FieldError(f"field {name!r} cannot be read as JSON or as a Python list") from None


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row and row[name] is not None:
            return row[name]
    raise FieldError(f"no field {names[0]!r}" + "".join(f" (or {name!r})" for name in names[1:]))


def _checked(value: Any, what: str, blank: bool) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{what} holds {_kind(value)}, not text")
    if not blank and not value.strip():
        raise FieldError(f"{what} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # The cause would quote the text, which may be private.
        raise FieldError(f"{what} has half a character (a lone surrogate), of a cut emoji") from None
    return str(value)


def _kind(value: Any) -> str:
    """A value's kind in words, never the value."""
    if is_missing(value):
        return "nothing (null or NaN)"
    kinds = ((bool, "a boolean"), (Number, "a number"), (Mapping, "an object"), ((list, tuple, np.ndarray), "a list"))
    return next((words for kind, words in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
