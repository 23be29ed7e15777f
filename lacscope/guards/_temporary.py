"""Changes for a while, of a model or of a setting of the process, that are undone whatever happens.

Ctrl-C may come between any two steps, also while a change is being undone. So the undo of each change is noted before
the change is made, may run twice, and is struck off once it has run. What an interrupted exit leaves is undone when its
context is dropped; where a traceback holds the context, by whatever enters one next.
"""

import functools
import inspect
import opcode
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, no_type_check

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_ENTERING, _INSIDE, _LEAVING = "entering", "inside", "leaving"
_BEFORE_WITH = opcode.opmap.get("BEFORE_WITH")
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


# ``note(what, undo, owner, *args)``, to be called before each step of a change: ``undo(owner, *args)`` takes the step
# back and may run twice, ``what`` names it in words, ``owner`` is the object that is changed.
Note = Callable[..., None]


class Changes:
    """What one context has changed, and how to undo it."""

    def __init__(self, context: "Temporary[Any]", frame: FrameType) -> None:
        self.undos: list[tuple[str, Callable[..., Any], Any, tuple[Any, ...]]] = []
        self._context = weakref.ref(context)
        self._frame = id(frame) if _ends_with_its_with(frame) else None
        self._thread = threading.get_ident()
        self.stage = _ENTERING

    def note(self, what: str, undo: Callable[..., Any], owner: Any, *args: Any) -> None:
        self.undos.append((what, undo, owner, args))

    def undo(self) -> None:
        """Undo what has not been undone yet, the last change first."""
        self.stage = _LEAVING
        while self.undos:
            last = self.undos[-1]
            _, undo, owner, args = last
            undo(owner, *args)
            if self.undos and self.undos[-1] is last:
                self.undos.pop()
        if self in _OPEN:
            _OPEN.remove(self)

    def left_behind(self) -> bool:
        """True where it is certain that the context will not be left any more."""
        if self._context() is None:
            return True
        if self._thread != threading.get_ident():
            return False
        # Nothing enters a context while another is being entered or left: one that is was interrupted.
        return self.stage != _INSIDE or (self._frame is not None and not _is_running(self._frame))


# Strong: what an interrupted exit left must be found although nobody holds its context any more.
_OPEN: list[Changes] = []


def open_changes() -> list[Changes]:
    """Of all contexts that are open, or were left behind."""
    return list(_OPEN)


def finish() -> None:
    """Undo what interrupted contexts left behind."""
    for changes in [one for one in _OPEN if one.left_behind()]:
        changes.undo()


class Temporary(Generic[T]):
    """A change for a while: ``with Temporary(make): ...``, or ``@Temporary(make)`` about a function.

    Contexts may be left in any order.

    Args:
        makes: functions that make the change, each given a :class:`Note`. They enter no context themselves.
        gives: the value that ``with ... as`` gives.
    """

    _changes: Changes | None = None

    def __init__(self, *makes: Callable[[Note], None], gives: T = None) -> None:  # type: ignore[assignment]
        self._makes, self._gives = makes, gives

    @no_type_check  # a check is a frame of its own, and the caller's is wanted
    def __enter__(self) -> T:
        finish()
        changes = self._changes = Changes(self, sys._getframe(1))
        _OPEN.append(changes)
        try:
            for make in self._makes:
                make(changes.note)
            changes.stage = _INSIDE
            return self._gives
        except BaseException:
            changes.undo()
            raise

    @no_type_check
    def __exit__(self, *error: Any) -> None:
        try:
            self._changes.undo()
        finally:  # where the first was interrupted
            self._changes.undo()

    def __del__(self) -> None:
        if self._changes is not None:
            self._changes.undo()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with Temporary(*self._makes):
                return function(*args, **kwargs)

        return within

    def giving(self, gives: R) -> "Temporary[R]":
        """The same change, with something for ``with ... as``."""
        return Temporary(*self._makes, gives=gives)


def together(*parts: Temporary[Any]) -> Temporary[None]:
    """One change made of several, in their order, and undone as one."""
    return Temporary(*(make for part in parts for make in part._makes))


def temporary(make: Callable[Concatenate[Note, P], None]) -> Callable[P, Temporary[None]]:
    """Turn ``make(note, ...)``, which makes a change, into a function that gives the context of that change."""

    @functools.wraps(make)
    def context(*args: P.args, **kwargs: P.kwargs) -> Temporary[None]:
        def made(note: Note) -> None:
            make(note, *args, **kwargs)

        return Temporary(made)

    return context


def _ends_with_its_with(frame: FrameType) -> bool:
    """True for a frame at a ``with`` statement that cannot be suspended: once it has ended, so has the statement."""
    code = frame.f_code
    return code.co_code[frame.f_lasti] == _BEFORE_WITH and not code.co_flags & _SUSPENDS


def _is_running(frame: int) -> bool:
    # By its id: the frame itself would keep alive what its variables hold, this context among it.
    now: FrameType | None = sys._getframe()
    while now is not None and id(now) != frame:
        now = now.f_back
    return now is not None
