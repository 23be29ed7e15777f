"""Halting rules: which (layer, token) pairs are voids.

A rule sees one layer of one forward pass at a time and answers with a mask that is True at the voids.
What is then done with the mask (nothing, a readout, a bypass) is the *effect*, and lives in
:mod:`lacscope.hooks`: a rule never edits a stream.

Write your own in a few lines::

    @dataclass(frozen=True)
    class EveryOther:
        decides: ClassVar[Decides] = "before"
        needs: ClassVar[frozenset[str]] = frozenset()
        unit: Unit = "block"

        def voids(self, view, pass_state, run_state):
            return torch.full(view.shape, view.layer % 2 == 1, device=view.device)
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, SupportsIndex, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.thresholds import check_alpha

Unit = Literal["block", "attn", "mlp"]
Effect = Literal["observe", "readout", "bypass"]
Decides = Literal["before", "after"]

UNITS: tuple[Unit, ...] = get_args(Unit)
EFFECTS: tuple[Effect, ...] = get_args(Effect)
NEEDS = ("phase", "position", "valid")


@dataclass(frozen=True)
class LayerView:
    """What a rule may look at: one layer (or sublayer) of one forward pass.

    ``resid_pre`` and ``resid_post`` are the stream before and after the unit, ``[batch, pos, d_model]``;
    ``resid_post`` and its norm are the *candidate*, what the unit would write, and are None for a rule
    that decides before the unit runs. Norms are float32. ``decode`` is True where the token being read
    was generated, ``position`` counts the sample's own tokens from 0 and ``valid`` is False on padding;
    each is None unless the rule's ``needs`` names it.
    """

    layer: int
    n_layers: int
    resid_pre: Float[Tensor, "batch pos d_model"]
    resid_pre_norm: Float[Tensor, "batch pos"]
    resid_post: Float[Tensor, "batch pos d_model"] | None = None
    resid_post_norm: Float[Tensor, "batch pos"] | None = None
    decode: Bool[Tensor, "batch pos"] | None = None
    position: Int[Tensor, "batch pos"] | None = None
    valid: Bool[Tensor, "batch pos"] | None = None

    @property
    def shape(self) -> torch.Size:
        return self.resid_pre_norm.shape

    @property
    def device(self) -> torch.device:
        return self.resid_pre_norm.device


@runtime_checkable
class HaltingRule(Protocol):
    """The protocol of a halting rule: a frozen dataclass with these members.

    ``pass_state`` is a dict that lives for one forward pass, ``run_state`` one that lives from the
    prefill to the last decode step of a run. ``needs`` is a subset of ``{"phase", "position", "valid"}``.
    """

    @property
    def decides(self) -> Decides: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def unit(self) -> Unit: ...
    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]: ...


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; choose one of {', '.join(map(repr, UNITS))}.")


@dataclass(frozen=True)
class L2AdaptiveComputation:
    r"""L2 Adaptive Computation: a layer that adds little norm, relative to the layers before it, is a void.

    With :math:`d_l = \lVert h_{l+1}\rVert_2 - \lVert h_l\rVert_2` (signed, float32, per token) layer ``l``
    is a void for a token when :math:`d_l < \alpha\,(\max_{k<l} d_k - \min_{k<l} d_k)`, strictly; the
    threshold is 0 at layers 0 and 1. Nothing latches: a token may halt at one layer and be active at the
    next. Source: "Void in Language Models", arXiv 2505.14467, section 3.

    Args:
        alpha: scale of the threshold, finite and >= 0. ``alpha=0`` makes exactly the layers with a
            falling norm voids; it is not the full model.
        unit: ``"block"`` is the paper's. ``"attn"`` and ``"mlp"`` measure (and, under ``bypass``, zero)
            that sublayer, with a history of their own.

    >>> L2AdaptiveComputation(alpha=0.8).alpha
    0.8
    """

    alpha: float | int = 0.8
    unit: Unit = "block"
    decides: ClassVar[Decides] = "after"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check_alpha(self.alpha))
        _check_unit(self.unit)

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        assert view.resid_post_norm is not None
        delta = view.resid_post_norm - view.resid_pre_norm
        if "highest" not in pass_state:
            pass_state["highest"] = pass_state["lowest"] = delta
            return delta < 0
        # The layers of a model split over devices hand their norms over as they go.
        highest = pass_state["highest"].to(delta.device)
        lowest = pass_state["lowest"].to(delta.device)
        pass_state["highest"] = torch.maximum(highest, delta)
        pass_state["lowest"] = torch.minimum(lowest, delta)
        return delta < self.alpha * (highest - lowest)


@dataclass(frozen=True)
class FixedLayers:
    """The same layers are voids for every token: the skip-these-layers baseline.

    Args:
        layers: block indices; negative ones count from the last layer. Checked against the model's depth
            when the rule is first used.
        unit: which part of each block is void.

    >>> FixedLayers([3, 1, 3]).layers
    (1, 3)
    """

    layers: Iterable[SupportsIndex]
    unit: Unit = "block"
    decides: ClassVar[Decides] = "before"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Iterable):
            raise ValueError(f"layers must be a list of block indices, got {self.layers!r}.")
        given = list(self.layers)
        for layer in given:
            if isinstance(layer, bool) or not hasattr(layer, "__index__"):
                raise ValueError(f"layers must be block indices (int), got {layer!r}.")
        object.__setattr__(self, "layers", tuple(sorted({int(layer) for layer in given})))
        _check_unit(self.unit)

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers as indices 0..n_layers-1. Raises ValueError for one that the model does not have."""
        layers = [int(layer) for layer in self.layers]
        outside = [layer for layer in layers if not -n_layers <= layer < n_layers]
        if outside:
            raise ValueError(f"FixedLayers{outside}: the model has layers 0 to {n_layers - 1} (or -1 to {-n_layers}).")
        return frozenset(layer % n_layers for layer in layers)

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "layers" not in pass_state:
            pass_state["layers"] = self.resolve(view.n_layers)
        return torch.full(view.shape, view.layer in pass_state["layers"], device=view.device)


def check_effect(rule: HaltingRule | None, effect: str) -> None:
    """Raise where the effect is unknown, or where this rule cannot have it; the message says why."""
    if effect not in EFFECTS:
        raise ValueError(f"unknown effect {effect!r}; choose one of {', '.join(map(repr, EFFECTS))}.")
    if rule is None:
        if effect != "observe":
            raise ValueError(
                f"effect={effect!r} needs a halting rule, got rule=None. Pass one, for example "
                "rule=L2AdaptiveComputation(alpha=0.8), or use effect='observe'."
            )
        return
    if not isinstance(rule, HaltingRule):
        raise TypeError(
            f"rule must have decides, needs, unit and voids(view, pass_state, run_state); got {rule!r}. "
            "lacscope ships L2AdaptiveComputation and FixedLayers."
        )
    if rule.decides not in get_args(Decides):
        raise ValueError(f"{rule!r} decides {rule.decides!r}; a rule decides 'before' or 'after' its unit runs.")
    if rule.unit not in UNITS:
        raise ValueError(f"{rule!r} has unit {rule.unit!r}; a rule's unit is one of {', '.join(map(repr, UNITS))}.")
    unknown = sorted(set(rule.needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"{rule!r} needs {unknown}; a rule may need {', '.join(NEEDS)}.")
    if effect == "readout" and rule.unit != "block":
        raise ValueError(
            f"effect='readout' reads the stream after a token's last active block; it is not defined for "
            f"unit={rule.unit!r}. Use unit='block', or effect='bypass' or 'observe'."
        )


def describe_rule(rule: HaltingRule | None) -> str:
    """The rule as JSON, as stored in a trace: its class name and its fields."""
    if rule is None:
        return json.dumps(None)
    fields: dict[str, Any] = dataclasses.asdict(rule) if dataclasses.is_dataclass(rule) else {}
    return json.dumps({"name": type(rule).__name__, **fields}, sort_keys=True, default=str)
