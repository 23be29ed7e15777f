"""The passages of a text file, before any model is loaded."""

from pathlib import Path

from lacscope.guards._text_files import read_lines

LONG_PASSAGE = 400  # characters: shorter paragraphs of a text are headings and the like


class PromptsError(ValueError):
    """Data that give nothing to read; the message says what was given and what is possible."""


def read_passages(path: Path) -> list[str]:
    """The long lines of a text file (UTF-8, plain or ``.gz``); where it has none, its long paragraphs.

    A paragraph is the lines between two blank ones, put together with spaces: the form of a text that was wrapped.

    Raises:
        FileNotFoundError: there is no such file.
        TextFileError: not UTF-8.
        PromptsError: no line and no paragraph is long enough.
    """
    lines = [line.strip() for line in read_lines(path)]
    for passages in (lines, _paragraphs(lines)):
        long = [passage for passage in passages if len(passage) >= LONG_PASSAGE]
        if long:
            return long
    raise PromptsError(
        f"{path} has no line of {LONG_PASSAGE} characters or more, and no such paragraph (lines between blank lines); "
        "each such line, or else paragraph, is a passage."
    )


def _paragraphs(lines: list[str]) -> list[str]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [" ".join(paragraph) for paragraph in found]
