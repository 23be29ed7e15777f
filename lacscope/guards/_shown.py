r"""Text of models, files, paths and prompts as it may be shown: on a terminal, in Markdown, in a CSV file.

Whoever names a folder or trains a tokenizer writes it, and it may hold what a terminal, a page or a spreadsheet obeys.
"""

import html
import re
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd

# Controls (ESC begins a terminal's commands), and what turns the direction of all text after it or hides it.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# An underscore inside a word emphasises nothing.
_MARKDOWN = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def plain(text: object, *, lines: bool = False) -> str:
    r"""The text with control characters written out, so that a terminal shows and does not obey them.

    Args:
        text: any text, or what has one.
        lines: whether line breaks stay as they are.

    >>> plain("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    """
    kept = "\n" if lines else ""
    return _OBEYED.sub(lambda found: found[0] if found[0] in kept else _written_out(found[0]), str(text))


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: object) -> str:
    r"""The text as Markdown shows it literally, on one line: in a heading, a sentence or a cell of a table.

    >>> print(markdown("a|b_c _d_ <b>\n"))
    a\|b_c \_d\_ &lt;b&gt;
    """
    one_line = plain(" ".join(str(text).split()))
    return html.escape(_MARKDOWN.sub(r"\\\1", one_line), quote=False)


def code(text: object) -> str:
    """The text as a Markdown code span, on one line; in a table a ``|`` is escaped all the same.

    >>> code("a`b"), code("")
    ('``a`b``', '(empty)')
    """
    shown = plain(" ".join(str(text).split())).replace("|", "\\|")
    if not shown:
        return "(empty)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    edge = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def link(path: str) -> str:
    """A relative path as the target of a Markdown link.

    >>> link("a (b)/c d.png")
    'a%20%28b%29/c%20d.png'
    """
    return quote(path)


def csv(table: pd.DataFrame) -> bytes:
    """The table as CSV, in which no text begins a spreadsheet's formula: an apostrophe stands before it.

    >>> csv(pd.DataFrame({"name": ["=1+1", "a"], "n": [-1, 2]})).decode().split()
    ['name,n', "'=1+1,-1", 'a,2']
    """
    shown = table.copy()
    for column in table:
        if not pd.api.types.is_numeric_dtype(table[column]):
            shown[column] = table[column].map(_guarded)
    shown = shown.rename(columns=_guarded)
    return shown.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")


def _guarded(value: object) -> object:
    """A text without controls, and with an apostrophe where a spreadsheet would run it; numbers in words stay."""
    if not isinstance(value, str):
        return value
    shown = plain(value, lines=True)
    return f"'{shown}" if shown.lstrip(" \n").startswith(_FORMULA) and not _NUMBER.fullmatch(shown) else shown


def ranges(numbers: Sequence[int]) -> list[str]:
    """Neighbours in rising order as one range each.

    >>> ranges([0, 2, 3, 4])
    ['0', '2-4']
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]
