"""Docstrings as they are read: an entry of Args or Attributes starts with a noun phrase that stands alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parents[2] / "lacscope"
# An editor shows an entry by itself: it has to say what the argument is. These are words that
# begin a clause or a phrase which needs the name before it: "how many to draw", "of the looped kind".
UNFINISHED = {
    "after", "also", "among", "as", "at", "before", "beside", "between", "by", "called", "for", "from", "how", "if",
    "in", "instead", "keep", "leave", "likewise", "made", "of", "on", "only", "over", "per", "put", "read", "run",
    "see", "sets", "so", "swept", "than", "to", "told", "under", "until", "what", "when", "where", "which", "whom",
    "whose", "with", "within", "without",
}  # fmt: skip


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and first word of every entry under Args and Attributes."""
    section = ""
    for line in docstring.splitlines():
        if heading := re.fullmatch(r"([A-Z]\w+):", line):
            section = heading[1]
        elif section in ("Args", "Attributes") and (entry := re.match(r" {4}(\*{0,2}\w[\w, *]*): (\S+)", line)):
            yield entry[1], entry[2]


def documented() -> Iterator[tuple[str, str]]:
    """Where each docstring stands, and what it says."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (docstring := ast.get_docstring(node)):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", docstring


def test_entries_start_with_a_noun_phrase() -> None:
    found = [(where, *entry) for where, docstring in documented() for entry in entries(docstring)]
    assert len(found) > 700
    assert [one for one in found if one[2].strip("`,.;:").lower() in UNFINISHED] == []


def test_an_unfinished_entry_is_seen() -> None:
    assert list(entries("One.\n\nArgs:\n    x: of three.\n        more.\n\nReturns:\n    y: so.")) == [("x", "of")]
