"""Files that appear whole or not at all."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary name beside it, synced, then renamed.

    Raises OSError with the path and the reason in its text where writing fails; the old file is then as it was.
    """
    try:
        _write(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"could not write the file ({reason}); nothing was changed", str(path)) from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
