"""Lines end at newlines alone; faults are named by file and row."""

import gzip
from pathlib import Path

import pytest

from lacscope.analyze._passages import PromptsError, read_passages
from lacscope.cli._prompts_file import read_prompts_file
from lacscope.guards._text_files import TextFileError, read_lines

pytestmark = pytest.mark.once


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028two\x0c\x85three\r\n\nfour".encode())
    assert read_lines(tmp_path / "a.txt") == ["one\u2028two\x0c\x85three", "", "four"]
    assert read_prompts_file(tmp_path / "a.txt") == ["one\u2028two\x0c\x85three", "four"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_lines(tmp_path / "a.txt.gz") == ["one", "two"]


def test_other_encodings_are_named_by_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(TextFileError, match=r"a\.txt, row 2: byte 4 \(0xe9\) is not UTF-8"):
        read_prompts_file(tmp_path / "a.txt")


def test_a_wrapped_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    wrapped = "\n".join(["the river is deep and cold"] * 20)
    (tmp_path / "a.txt").write_text(f"Heading\n\n{wrapped}\n\nshort\n")
    assert read_passages(tmp_path / "a.txt") == [wrapped.replace("\n", " ")]
    (tmp_path / "b.txt").write_text("short\n")
    with pytest.raises(PromptsError, match="has no line of 400 characters or more, and no such paragraph"):
        read_passages(tmp_path / "b.txt")
