"""Sets of layers that are known beforehand, the same for every token."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Bool
from torch import Tensor

from lacscope.guards._arguments import ANY, is_real, whole_number
from lacscope.rules._base import Decides, Grain, check_unit
from lacscope.rules._scope import EVERYWHERE, IN_DECODE, Scope, check_scope, layer_indices, resolve_layers
from lacscope.rules._view import LayerView, Unit


class StaticRule(ABC):
    """A rule that is a set of layers: a subclass says which, for a model of so many, in ``resolve``."""

    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "static"
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers as indices 0..n_layers-1, before the scope. Raises ValueError where the model lacks one."""

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "layers" not in pass_state:
            pass_state["layers"] = self.resolve(view.n_layers)
        return torch.full(view.shape, view.layer in pass_state["layers"], device=view.device)


@dataclass(frozen=True)
class FixedLayers(StaticRule):
    """The same layers are voids for every token: the skip-these-layers baseline.

    Args:
        layers: block indices; negative ones count from the last layer. Checked against the model's depth
            when the rule is first used.
        unit: the part of each block that is void.
        scope: the tokens and layers where there may be voids.

    >>> FixedLayers([3, 1, 3]).layers
    (1, 3)
    """

    layers: Iterable[SupportsIndex]
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", layer_indices(self.layers))
        check_unit(self.unit)
        check_scope(self.scope)

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers as indices 0..n_layers-1. Raises ValueError for one that the model does not have."""
        return resolve_layers([int(layer) for layer in self.layers], n_layers, "FixedLayers")


@dataclass(frozen=True)
class ContiguousBlock(StaticRule):
    """Layers ``start`` to ``start + n - 1`` are voids for every token: one block of layers taken out.

    Args:
        start: the first of them; a negative one counts from the last layer.
        n: the number of layers, at least 1.
        unit: the part of each block that is void.
        scope: the tokens and layers where there may be voids.

    Raises:
        ValueError: ``n`` under 1; when used, a block that does not fit the model.

    >>> sorted(ContiguousBlock(2, 3).resolve(8))
    [2, 3, 4]
    >>> sorted(ContiguousBlock(-2, 2).resolve(8))
    [6, 7]
    """

    start: int
    n: int
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        layer_indices([self.start, self.n], "start and n")
        if self.n < 1:
            raise ValueError(f"n must be at least 1 layer, got {self.n}. For no void at all pass rule=None.")
        check_unit(self.unit)
        check_scope(self.scope)

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers as indices 0..n_layers-1. Raises ValueError where the block does not fit the model."""
        (first,) = resolve_layers([self.start], n_layers, "ContiguousBlock start=")
        if first + self.n > n_layers:
            raise ValueError(
                f"{self!r} ends at layer {first + self.n - 1}; the model has layers 0 to {n_layers - 1}. "
                f"From there n is at most {n_layers - first}."
            )
        return frozenset(range(first, first + self.n))


@dataclass(frozen=True)
class UnifiedSkipping(StaticRule):
    """Unified layer skipping: evenly spaced layers are kept in decode, so many that decode is ``speedup`` times faster.

    ``n = int(L / speedup)`` layers are kept: layer 0, then every ``int(L / (n - 1))``-th, and the last. For speedups
    below about 2 the published formula is not balanced: the step is 1, and all but the last of the kept layers stand
    at the front, with the skipped ones in one block before the last layer.

    Source: "Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy",
    arXiv 2404.06954.

    Args:
        speedup: the factor by which decode runs fewer layers, at least 1.
        scope: the tokens and layers where there may be voids; published: decode alone.

    Raises:
        ValueError: a speedup under 1; when used, one that keeps fewer than 2 of the model's layers.

    >>> UnifiedSkipping(5).kept(32)
    (0, 6, 12, 18, 24, 31)
    """

    speedup: float | int
    scope: Scope = field(default=IN_DECODE, kw_only=True, repr=False)
    unit: ClassVar[Unit] = "block"

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not is_real(self.speedup) or self.speedup < 1:
            raise ValueError(f"speedup must be a finite number >= 1 (2: half the layers), got {self.speedup!r:.80}.")

    def kept(self, n_layers: int) -> tuple[int, ...]:
        """The layers that are not void, in rising order. Raises ValueError for fewer than 2 of them."""
        n = int(n_layers / self.speedup)
        if n < 2:
            raise ValueError(
                f"speedup={self.speedup} keeps int({n_layers} / {self.speedup}) = {n} of {n_layers} layers; the first "
                f"and the last are always kept, so it must be at most {n_layers / 2:g}."
            )
        step = int(n_layers / (n - 1))
        return (*(i * step for i in range(n - 1)), n_layers - 1)

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers that are not kept."""
        return frozenset(range(n_layers)) - set(self.kept(n_layers))


@dataclass(frozen=True)
class TopImportance(StaticRule):
    """The least important layers are voids for every token, by any score of importance.

    Args:
        scores: one number per layer, larger = more important, such as a DataArray over ``layer``.
        skip: the number of layers that are void. They are chosen among those that ``scope`` does not protect; of equals
            the deeper is void first.
        unit: the part of each block that is void.
        scope: the tokens and layers where there may be voids.

    Raises:
        ValueError: scores that are no finite numbers, or fewer open layers than ``skip``; when used, scores of a
            model of another depth.

    >>> sorted(TopImportance([3.0, 1.0, 1.0, 2.0], skip=1).resolve(4))
    [2]
    """

    scores: Iterable[SupportsFloat]
    skip: int
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        given = self.scores if isinstance(self.scores, Iterable) and getattr(self.scores, "ndim", 1) == 1 else ()
        scores = tuple(given) if not isinstance(given, (dict, str)) else ()
        if not scores or not all(map(is_real, scores)):
            raise ValueError(f"scores must be one finite number per layer, got {scores or self.scores!r:.80}.")
        scores = tuple(map(float, scores))
        object.__setattr__(self, "scores", scores)
        check_unit(self.unit)
        check_scope(self.scope)
        open_layers = len(self.scope.open_layers(len(scores)))
        if whole_number("skip", self.skip, least=ANY) not in range(open_layers + 1):
            raise ValueError(f"skip must be 0 to {open_layers}, the layers that are not protected; got {self.skip!r}.")

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The ``skip`` least important layers. Raises ValueError for scores of a model of another depth."""
        scores = tuple(float(score) for score in self.scores)
        if len(scores) != n_layers:
            raise ValueError(f"there are scores of {len(scores)} layers, the model has {n_layers}.")
        ranked = sorted(self.scope.open_layers(n_layers), key=lambda layer: (scores[layer], -layer))
        return frozenset(ranked[: self.skip])
