"""What a command says when it does not end well, in one line each: a mistake to mend, a bug of ours, an interrupt.

An error is the user's to mend where it is of a class of lacscope's, where lacscope's own code raised it on purpose, or
where it is of files or memory. Any other exception was foreseen by nobody: it is reported as a bug, and never dressed
as the user's mistake.
"""

import dis
import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from lacscope.guards._shown import plain
from lacscope.tasks._data import DataError

BUG, MISTAKE, TOO_LARGE, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
EXIT_CODES = (
    f"Exit codes: 0 done; {BUG} a bug in lacscope (--traceback shows where); {MISTAKE} something to mend in the words, "
    f"the files or the machine; {TOO_LARGE} the paper's models do not fit this machine; {INTERRUPTED} interrupted "
    f"(Ctrl-C); {TERMINATED} terminated."
)
# Those that lacscope raises where something is the user's to mend; a KeyError never is.
_MENDABLE = (ValueError, TypeError, RuntimeError, ArithmeticError, ImportError)
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LONGEST = 300


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


class Interrupted(Exception):
    """A command that was stopped; its notes say what is on disk."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class WithheldError(Exception):
    """An error whose message may quote a private benchmark; what is left are its kind, and its lines of code."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__} (its message is withheld: it may quote a private benchmark)")
        self.place = _place(error)
        self.lines = [*traceback.format_tb(error.__traceback__), f"{self}\n"]


def is_users(error: BaseException) -> bool:
    """Whether the error is the user's to mend: of lacscope's classes, raised by a ``raise`` of its own, or of files."""
    if isinstance(error, WithheldError):
        return False
    if isinstance(error, (OSError, MemoryError)) or _is_out_of_memory(error):
        return True
    if type(error).__module__.split(".")[0] == "lacscope":
        return True
    last = _last(error.__traceback__)
    if last is None or not isinstance(error, _MENDABLE) or not last.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        return False
    # int("x") on a line of ours is an accident; only a raise was meant.
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)


def _last(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _place(error: BaseException) -> str:
    """The line of lacscope's that the error came through last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    if not frames:
        return ""
    return f" at lacscope/{Path(frames[-1].filename).relative_to(_PACKAGE).as_posix()}, line {frames[-1].lineno}"


@contextmanager
def quoting_nothing(private: bool) -> Iterator[None]:
    """Inside, what a private benchmark's rows made go wrong is told without the words of others, which may quote them.

    Messages of lacscope's own name prompts by number.
    """
    try:
        yield
    except WithheldError:
        raise
    except Exception as error:
        if private and not _is_safe(error):
            raise WithheldError(error) from None
        raise


def _is_safe(error: Exception) -> bool:
    if isinstance(error, (DataError, OSError)):
        return True
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    return all(is_users(one) for one in chain)


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Inside, an interrupt and a failed write also say what is on disk, and the command that goes on from there."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(f"{kept()}: {_same_command()}")
        raise


def _same_command() -> str:
    return shlex.join(["lacscope", *(word for word in sys.argv[1:] if word != "--traceback")])


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose interrupts are told by :func:`tell`; typer would end it without a word."""

    @functools.wraps(command)
    def run(*words: Any, **options: Any) -> None:
        try:
            command(*words, **options)
        except KeyboardInterrupt as stop:
            ended = Interrupted(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
            for note in getattr(stop, "__notes__", [f"Nothing was written. Begin again with: {_same_command()}"]):
                ended.add_note(note)
            raise ended from None

    return run


def tell(error: Exception, console: Console, *, with_traceback: bool) -> int:
    """Say on the console what stopped the command, in a line; returns the exit code."""
    if isinstance(error, Interrupted):
        what = "terminated" if error.code == TERMINATED else "interrupted"
        _print(console, f"{what}.", "yellow", " ".join(error.__notes__))
        return error.code
    if with_traceback:
        lines = error.lines if isinstance(error, WithheldError) else traceback.format_exception(error)
        console.print(plain("".join(lines), lines=True), markup=False, highlight=False, soft_wrap=True)
    said = [in_a_line(error)]
    if not is_users(error):
        how = "report it with the lines above" if with_traceback else f"see how with {_same_command()} --traceback"
        said.append(f"This is a bug in lacscope, not a mistake of yours: {how}.")
    said += getattr(error, "__notes__", ())
    _print(console, "error:", "bold red", *(one if one.endswith(".") else f"{one}." for one in said[:-1]), said[-1])
    return MISTAKE if is_users(error) else BUG


def in_a_line(error: BaseException) -> str:
    """What went wrong; of a bug also where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"out of memory ({_first_line(error)}). Give shorter prompts, fewer at a time, or a smaller --dtype."
    if is_users(error):
        return str(error)
    if isinstance(error, WithheldError):
        return f"unexpected {error}{error.place}."
    return f"unexpected {type(error).__name__}: {_first_line(error)}{_place(error)}."


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or ["no message"])[0]
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _print(console: Console, head: str, style: str, *said: str) -> None:
    console.print(f"[{style}]{head}[/]", end=" ", highlight=False)
    console.print(plain(" ".join(said)), markup=False, highlight=False, soft_wrap=True)
