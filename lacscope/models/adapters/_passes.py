"""Forward passes as they happen: where each begins and ends, and what it was given to read."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor, nn

from lacscope.guards._temporary import Note, Temporary, temporary
from lacscope.models.adapters._decode_state import first_state
from lacscope.models.adapters._uncopied import Uncopied

_MISSING = object()

PARTIAL_PASS = (
    "{} runs a part of the model: a halting rule compares each layer with all before it, and a plan orders all of "
    "them, so a partial pass has no trace and no plan. Run the whole model, or leave the lacscope context for this "
    "call."
)


class PartialPassError(RuntimeError):
    """A forward pass that does not run every block: its trace would be a fragment."""


@dataclass
class PassInput:
    """What one forward pass was given to read.

    ``attention_mask`` spans the cached tokens and the new ones; None where nobody gave one. ``tokens`` is
    None where the pass was started from embeddings. ``cache`` is the object by which the state of the sequence is told
    from others; where ``uncounted`` it is filled, and how far is not known (recurrent states do not count).
    """

    tokens: Int[Tensor, "batch pos"] | None
    attention_mask: Bool[Tensor, "batch past_and_pos"] | None
    past_length: int
    cache: Any
    uncounted: bool = False

    @property
    def n_new(self) -> int | None:
        """How many tokens of each row the pass reads; None where it was started from embeddings."""
        return None if self.tokens is None else int(self.tokens.shape[1])

    @property
    def first_keys(self) -> Tensor | None:
        """The first layer's cached keys, as the pass found them."""
        return first_keys(self.cache)


@runtime_checkable
class PassListener(Protocol):
    """Told of every forward pass of a model, nested ones included."""

    def open_pass(self, given: PassInput) -> None: ...
    def close_pass(self, cache: Any, completed: bool) -> None: ...


def first_keys(cache: Any) -> Tensor | None:
    """The first layer's cached keys. A cache that was reordered or cropped between passes has others."""
    return cache[0].past_keys if hasattr(cache, "entries") else first_state(cache)


class _Around(Uncopied):
    """A method of one object with a function around it; transparent once switched off."""

    def __init__(self, inner: Callable[..., Any], around: Callable[..., Any], previous: Any) -> None:
        functools.update_wrapper(self, inner)
        self.inner, self.around, self.previous, self.active = inner, around, previous, True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.inner, *args, **kwargs) if self.active else self.inner(*args, **kwargs)


def around(owner: nn.Module, name: str, outer: Callable[..., Any]) -> Temporary[None]:
    """Put ``outer(inner, *args, **kwargs)`` about one object's method.

    Module hooks would do, but they do not close on KeyboardInterrupt, and ``run_with_hooks`` of a
    HookedTransformer calls ``forward`` without them. Contexts may close in any order.
    """
    return around_each([(owner, name, outer)])


@temporary
def around_each(note: Note, methods: Sequence[tuple[nn.Module, str, Callable[..., Any]]]) -> None:
    """:func:`around` of several methods."""
    for owner, name, outer in methods:
        wrapper = _Around(getattr(owner, name), outer, owner.__dict__.get(name, _MISSING))
        note(f"function around {name}", _switch_off, owner, name, wrapper)
        owner.__dict__[name] = wrapper


def _switch_off(owner: nn.Module, name: str, wrapper: _Around) -> None:
    wrapper.active = False
    _set(owner, name, owner.__dict__.get(name, _MISSING))


def _set(owner: nn.Module, name: str, top: Any) -> None:
    """The method as ``top`` has it, without what was switched off."""
    while isinstance(top, _Around) and not top.active:
        top = top.previous
    if top is _MISSING:
        owner.__dict__.pop(name, None)
    else:
        owner.__dict__[name] = top


@temporary
def unwatched(note: Note, methods: list[tuple[nn.Module, str]]) -> None:
    """Methods without anything that :func:`around` put about them."""
    for owner, name in methods:
        top = bottom = owner.__dict__.get(name, _MISSING)
        while isinstance(bottom, _Around):
            bottom = bottom.previous
        if bottom is not top:
            note(f"{name} unwatched", _set, owner, name, top)
            _set(owner, name, bottom)
