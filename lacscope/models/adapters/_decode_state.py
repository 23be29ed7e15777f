"""What a transformers model remembers between the passes of a sequence, under whichever name it goes.

Most take and return ``past_key_values``. Mamba's family calls the same kind of object ``cache_params``, RWKV a list of
tensors ``state``, and RecurrentGemma leaves half of it in its own modules and returns none: without help such a model
reads each token of a decode as a prompt of its own.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from lacscope.guards._temporary import Note, Temporary

USUAL = "past_key_values"
_NAMES = (USUAL, "cache_params", "state")
NO_STATE = (
    "{} was asked for a cache and gave none back, so its next step would read a token as a prompt of its own. Generate "
    "with lacscope.trace, or without a cache (use_past_kv_cache=False)."
)
# Tokens that a state has read, where the state itself does not count them.
_READ = WeakIdKeyDictionary()


class HeldState:
    """A sequence's state in a model that keeps a part of it in its own modules.

    ``cache`` is what the model is given; ``held`` what its modules kept after the last pass, by module and name.
    """

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.held: list[tuple[nn.Module, str, Any]] = []

    def lent(self, model: nn.Module) -> Temporary[None]:
        """This state in the modules of the model for one pass; then they get back what they had."""

        def lend(note: Note) -> None:
            for module, name, value in list(_held(model)):
                note("recurrent state", setattr, module, name, value)
                setattr(module, name, None)
            for module, name, value in self.held:
                setattr(module, name, value)

        return Temporary(lend)

    def keep(self, model: nn.Module) -> None:
        """What the modules hold after that pass, before it ends."""
        self.held = list(_held(model))

    def select(self, rows: Tensor) -> None:
        select_rows(self.cache, rows)
        self.held = [(module, name, None if value is None else value[rows]) for module, name, value in self.held]


def _held(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith(("_state", "_states")) and (value is None or isinstance(value, Tensor)):
                yield module, name, value


def state_name(model: nn.Module) -> str:
    """The keyword under which the model takes its state."""
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in _NAMES if name in accepted), USUAL)


def holds_state(model: nn.Module) -> bool:
    """True where modules of the model keep a part of its state themselves."""
    return any(hasattr(module, "_setup_cache") for module in model.modules()) and any(True for _ in _held(model))


def state_of(given: dict[str, Any], output: Any) -> Any:
    """The state after a pass: what it returned, else what it was given and filled; None where there is neither."""
    for source in (output.get if hasattr(output, "get") else lambda name: None, given.get):
        for name in _NAMES:
            if (state := source(name)) is not None:
                return state
    return None


def identity_of(state: Any) -> Any:
    """The object by which a state can be told from others: itself, or a list's first tensor."""
    if isinstance(state, HeldState):
        return state.cache
    return state[0] if isinstance(state, (list, tuple)) and state and isinstance(state[0], Tensor) else state


def read_by(state: Any) -> int | None:
    """How many tokens the state has read; None where it is filled and nobody counted."""
    state = identity_of(state)
    if state is None:
        return 0
    if state in _READ:
        return int(_READ[state])
    if not hasattr(state, "get_seq_length"):
        return None
    try:
        return int(state.get_seq_length())
    except ValueError:  # recurrent layers alone: they do not count
        return None if state.has_previous_state() else 0


def count(state: Any, read: int | None) -> None:
    """Remember how many tokens the state has read, where it does not say so itself."""
    state = identity_of(state)
    if state is None or read is None:
        return
    try:
        counts_itself = hasattr(state, "get_seq_length") and state.get_seq_length() is not None
    except ValueError:
        counts_itself = False
    if not counts_itself:
        _READ[state] = read


def select_rows(state: Any, rows: Tensor) -> None:
    """Make these rows of the state, in this order, all that it holds; a row may stand several times."""
    if isinstance(state, HeldState):
        state.select(rows)
    elif isinstance(state, list):
        read = read_by(state)
        state[:] = [part[rows] for part in state]
        count(state, read)
    else:
        # Reordering knows each kind of state; ``batch_select_indices`` keys and values alone.
        state.reorder_cache(rows)


def first_state(state: Any) -> Tensor | None:
    """A tensor of the state that stays the same object from pass to pass, unless rows were reordered.

    The first layer's keys; where that layer is recurrent, what it keeps instead.
    """
    if not hasattr(state, "layers"):
        return None
    layer = state.layers[0] if state.layers else None
    kept = getattr(layer, "keys", None)
    if kept is None:
        for name in ("recurrent_states", "conv_states"):
            states = getattr(layer, name, None) or {}
            kept = next((part for part in states.values() if isinstance(part, torch.Tensor)), kept)
    return kept
