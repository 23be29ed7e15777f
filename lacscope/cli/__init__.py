"""The command line."""

from typing import Any

from lacscope.cli import _app
from lacscope.cli._app import main as main


def __getattr__(name: str) -> Any:
    """What ``lacscope.cli`` had when it was one file, until 1.0."""
    try:
        return getattr(_app, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
