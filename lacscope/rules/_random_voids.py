"""Voids at random, at a budget: what a rule that picks its voids has to beat."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsFloat

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._arguments import is_real, whole_number
from lacscope.rules._base import Decides, Grain, check_unit
from lacscope.rules._draws import random_bits, random_units
from lacscope.rules._scope import EVERYWHERE, Scope, check_scope
from lacscope.rules._view import UNITS, LayerView, Unit

WINDOW = 32
_NEEDS: dict[Grain, frozenset[str]] = {
    "static": frozenset(),
    "sequence": frozenset({"sample"}),
    "token": frozenset({"sample", "position"}),
}


@dataclass(frozen=True)
class RandomLayers:
    """Every token has ``count`` voids, on layers drawn at random: the budget is met exactly for each token.

    Args:
        count: void layers of a token. They are drawn among those that ``scope`` does not protect.
        seed: the seed of the draw, >= 0. What a token is drawn depends on nothing else but its sample's id and its
            position.
        grain: ``"token"``: drawn for each token; ``"sequence"``: once for each sample; ``"static"``: once.
        unit: the part of each block that is void; ``"sublayers"`` draws ``count`` layers for either.
        scope: the tokens and layers where there may be voids.

    Raises:
        ValueError: a negative count or seed, an unknown grain; when used, a count beyond the layers not protected.

    >>> RandomLayers(3, seed=0, grain="static").needs
    frozenset()
    """

    count: int
    seed: int
    grain: Grain = "token"
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "before"

    def __post_init__(self) -> None:
        whole_number("count", self.count)
        whole_number("seed", self.seed)
        if not isinstance(self.grain, str) or self.grain not in _NEEDS:
            raise ValueError(f"grain must be 'static', 'sequence' or 'token', got {self.grain!r:.80}.")
        check_unit(self.unit)
        check_scope(self.scope)

    @property
    def needs(self) -> frozenset[str]:
        return _NEEDS[self.grain]

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "void" not in pass_state:
            pass_state["void"] = torch.from_numpy(self._drawn(view)).to(view.device)
        return pass_state["void"][view.layer].to(view.device).expand(view.shape)

    def _drawn(self, view: LayerView) -> Bool[np.ndarray, "layer row token"]:
        layers = np.array(self.scope.open_layers(view.n_layers), dtype=np.int64)
        if self.count > len(layers):
            raise ValueError(
                f"count={self.count} voids of {len(layers)} layers: {view.n_layers} less those that scope protects."
            )
        parts: list[np.ndarray | int] = [_kind(view)]
        if view.sample is not None:
            parts.append(view.sample.cpu().numpy()[:, None])
        if self.grain == "token":
            assert view.position is not None
            parts.append(view.position.cpu().numpy())
        parts = [part[None] if isinstance(part, np.ndarray) else part for part in parts]
        keys = np.atleast_3d(random_bits(self.seed, *parts, layers[:, None, None]))
        void = np.zeros((view.n_layers, *keys.shape[1:]), dtype=bool)
        # The ranks of random keys are a random order of the layers.
        void[layers] = keys.argsort(axis=0).argsort(axis=0) < self.count
        return void


@dataclass(frozen=True)
class RandomTokens:
    """Every layer is void for its share of the tokens, drawn at random.

    The budget is met without knowing how long a sample will be: over the first 32, 64, ... positions of a sample a
    layer with rate r has ``32 r, 64 r, ...`` voids, rounded up or down, at random places in each 32.

    Args:
        rates: share of void tokens of each layer, 0 to 1; one number for all layers alike.
        seed: the seed of the draw, >= 0. What a token is drawn depends on nothing else but its sample's id and its
            position.
        unit: the part of each block that is void.
        scope: the tokens and layers where there may be voids. So that the budget is met all the same, the rates of
            protected layers are spread evenly over the other layers.

    Raises:
        ValueError: rates outside 0 to 1, a negative seed; when used, rates of a model of another depth, or more
            than the layers not protected can hold.

    >>> RandomTokens([0.5, 0.25, 0.0], seed=0, scope=Scope(protect=[0])).rates_of(3)
    array([0.  , 0.5 , 0.25])
    """

    rates: Iterable[SupportsFloat] | float
    seed: int
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "token"
    needs: ClassVar[frozenset[str]] = _NEEDS["token"]

    def __post_init__(self) -> None:
        many = isinstance(self.rates, Iterable) and getattr(self.rates, "ndim", 1) == 1
        given: tuple[Any, ...] = tuple(self.rates) if many and isinstance(self.rates, Iterable) else (self.rates,)
        if not given or not all(is_real(rate) and 0 <= rate <= 1 for rate in given):
            raise ValueError(f"rates must be one share of tokens per layer, 0 to 1; got {self.rates!r:.80}.")
        rates = tuple(map(float, given))
        object.__setattr__(self, "rates", rates if many else rates[0])
        whole_number("seed", self.seed)
        check_unit(self.unit)
        check_scope(self.scope)

    def rates_of(self, n_layers: int) -> Float[np.ndarray, " layer"]:
        """The rates as they are drawn, those of protected layers spread over the others."""
        given = np.array(self.rates, dtype=float)
        if given.ndim and len(given) != n_layers:
            raise ValueError(f"there are rates of {len(given)} layers, the model has {n_layers}.")
        rates = np.broadcast_to(given, n_layers).copy()
        layers = self.scope.open_layers(n_layers)
        budget = rates.sum()
        if budget > len(layers) + 1e-9:
            raise ValueError(
                f"rates add up to {budget:g} void layers a token; {len(layers)} of {n_layers} are not protected."
            )
        spread = np.zeros(n_layers)
        spread[layers] = rates[layers]
        # A layer that is full takes no more: the others then take its part, round by round.
        while (left := budget - spread.sum()) > 1e-9:
            free = [layer for layer in layers if spread[layer] < 1]
            spread[free] = np.minimum(spread[free] + left / len(free), 1.0)
        return spread

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "void" not in pass_state:
            pass_state["void"] = torch.from_numpy(self._drawn(view)).to(view.device)
        return pass_state["void"][view.layer].to(view.device)

    def _drawn(self, view: LayerView) -> Bool[np.ndarray, "layer row token"]:
        assert view.sample is not None
        assert view.position is not None
        layers, position = np.arange(view.n_layers), np.maximum(view.position.cpu().numpy(), 0)
        rates = self.rates_of(view.n_layers)[:, None, None]
        first, last = position.min() // WINDOW, position.max() // WINDOW
        windows, places = np.arange(first, last + 1), np.arange(WINDOW)
        # [layer, row, window, place]
        parts = (_kind(view), view.sample.cpu().numpy()[:, None, None], layers[:, None, None, None])
        start = random_units(random_bits(self.seed, *parts, -1))[..., 0]
        upto = [np.floor(rates * WINDOW * (windows + n) + start) for n in (0, 1)]
        order = random_bits(self.seed, *parts, windows[:, None], places).argsort(axis=-1).argsort(axis=-1)
        void = order < (upto[1] - upto[0])[..., None]
        rows = np.arange(len(position))[:, None]
        return void[:, rows, position // WINDOW - first, position % WINDOW]


def _kind(view: LayerView) -> int:
    """Attention and MLP are drawn apart."""
    return UNITS.index(view.unit)
