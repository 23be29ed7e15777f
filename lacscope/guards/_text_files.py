"""A text file as lines, split at newlines alone, with every fault named by file and row."""

import gzip
import zlib
from pathlib import Path


class TextFileError(ValueError):
    """A text file that cannot be read; the message names the file, the row, and what to do, never the text."""


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file (plain or ``.gz``), without their newlines.

    A line ends at ``\\n`` or ``\\r\\n`` and at nothing else: a form feed or U+2028 belongs to the text. A byte order
    mark at the beginning is left out.

    Raises:
        FileNotFoundError: there is no such file.
        TextFileError: it is not UTF-8, or a damaged ``.gz``.
    """
    raw = _bytes_of(path)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TextFileError(f"{path} is UTF-16 (it begins with {raw[:2].hex(' ')}); save it as UTF-8.")
    lines = []
    for row, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise TextFileError(
                f"{path}, row {row}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; the file has "
                "another encoding. Save it as UTF-8."
            ) from None
    return lines[:-1] if lines[-1] == "" else lines


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(2, "there is no file", str(path))
    raw = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise TextFileError(f"{path} cannot be read as .gz ({type(error).__name__}); write it again.") from None
