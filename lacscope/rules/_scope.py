"""Where a rule holds: a phase, a window of positions, layers that are never void. Any rule may carry one."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from lacscope.rules._view import LayerView

Phase = Literal["prefill", "decode"]


def layer_indices(layers: Iterable[SupportsIndex], what: str = "layers") -> tuple[int, ...]:
    """Block indices, each once and in rising order; ValueError for what is no list of int."""
    if not isinstance(layers, Iterable) or getattr(layers, "ndim", 1) != 1:
        raise ValueError(f"{what} must be a list of block indices, got {layers!r:.80}.")
    given = list(layers)
    for layer in given:
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise ValueError(f"{what} must be block indices (int), got {layer!r}.")
    return tuple(sorted({int(layer) for layer in given}))


def resolve_layers(layers: Iterable[int], n_layers: int, what: str) -> frozenset[int]:
    """Indices as 0..n_layers-1, negative ones counted from the last; ValueError for one that the model has not."""
    outside = [layer for layer in layers if not -n_layers <= layer < n_layers]
    if outside:
        raise ValueError(f"{what}{outside}: the model has layers 0 to {n_layers - 1} (or -1 to {-n_layers}).")
    return frozenset(layer % n_layers for layer in layers)


@dataclass(frozen=True)
class Scope:
    """Where a rule may make voids; outside it nothing is void. What a rule measures still covers every layer and token.

    Args:
        phase: ``"prefill"`` or ``"decode"`` alone; None: both.
        positions: the window ``start <= p < stop`` of the sample's own positions, counted from 0; a ``stop`` of
            None has no end. None: all positions.
        protect: layers that are never void; negative indices count from the last layer.

    Raises:
        ValueError: an unknown phase, a window that is no window, layers that are no indices; when used, a layer
            that the model does not have.

    >>> Scope(phase="decode", protect=(0, -1)).needs
    frozenset({'phase'})
    """

    phase: Phase | None = None
    positions: tuple[int, int | None] | None = None
    protect: Iterable[SupportsIndex] = ()

    def __post_init__(self) -> None:
        if self.phase is not None and self.phase not in get_args(Phase):
            raise ValueError(f"phase must be 'prefill', 'decode' or None (both), got {self.phase!r}.")
        if self.positions is not None:
            object.__setattr__(self, "positions", _window(self.positions))
        object.__setattr__(self, "protect", layer_indices(self.protect, "protect"))

    @property
    def needs(self) -> frozenset[str]:
        """What has to be known of a token to tell whether it is in the scope."""
        named = {"phase": self.phase, "position": self.positions}
        return frozenset(need for need, value in named.items() if value is not None)

    def protected(self, n_layers: int) -> frozenset[int]:
        """The protected layers as indices 0..n_layers-1."""
        return resolve_layers([int(layer) for layer in self.protect], n_layers, "protect=")

    def open_layers(self, n_layers: int) -> list[int]:
        """The layers that may be void, in rising order."""
        return sorted(set(range(n_layers)) - self.protected(n_layers))

    def restrict(self, void: Bool[Tensor, "batch pos"], view: LayerView) -> Bool[Tensor, "batch pos"]:
        """The voids that are in the scope."""
        if view.layer in self.protected(view.n_layers):
            return torch.zeros_like(void)
        if self.phase is not None:
            assert view.decode is not None
            void = void & (view.decode if self.phase == "decode" else ~view.decode)
        if self.positions is not None:
            assert view.position is not None
            start, stop = self.positions
            void = void & (view.position >= start)
            if stop is not None:
                void = void & (view.position < stop)
        return void

    def describe(self) -> dict[str, Any]:
        """The options that are not the default, as they are stored in a trace."""
        given = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, (v, default) in given.items() if v != default}


def _window(positions: Any) -> tuple[int, int | None]:
    pair = tuple(positions) if isinstance(positions, (tuple, list)) else ()
    whole = len(pair) == 2 and all(isinstance(p, int) and not isinstance(p, bool) for p in pair if p is not None)
    if not whole or pair[0] is None or pair[0] < 0 or (pair[1] is not None and pair[1] <= pair[0]):
        raise ValueError(
            f"positions must be (start, stop) with 0 <= start < stop, stop None for no end; got {positions!r}."
        )
    return pair[0], pair[1]


def check_scope(scope: Any) -> None:
    """Raise ValueError for what is no :class:`Scope`."""
    if not isinstance(scope, Scope):
        raise ValueError(f"scope must be a lacscope.rules.Scope, such as Scope(phase='decode'); got {scope!r:.80}.")


EVERYWHERE = Scope()
IN_DECODE = Scope(phase="decode")
