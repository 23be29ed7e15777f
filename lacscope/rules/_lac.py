"""L2 Adaptive Computation."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.rules._base import Decides, Grain, HaltingRule, check_unit
from lacscope.rules._scope import EVERYWHERE, Scope, check_scope
from lacscope.rules._view import LayerView, Unit
from lacscope.traces._lac import check_alpha, lac_thresholds


@dataclass(frozen=True)
class L2AdaptiveComputation:
    r"""L2 Adaptive Computation: a layer that adds little norm, relative to the layers before it, is a void.

    With :math:`d_l = \lVert h_{l+1}\rVert_2 - \lVert h_l\rVert_2` (signed, float32, per token) layer ``l``
    is a void for a token when :math:`d_l < \alpha\,(\max_{k<l} d_k - \min_{k<l} d_k)`, strictly; the
    threshold is 0 at layers 0 and 1. Nothing latches: a token may halt at one layer and be active at the
    next. The layers before it are those executed before it. Source: "Void in Language Models", arXiv 2505.14467,
    section 3.

    Args:
        alpha: scale of the threshold, finite and >= 0. ``alpha=0`` makes exactly the layers with a
            falling norm voids; it is not the full model.
        unit: ``"block"`` is the paper's. ``"attn"`` and ``"mlp"`` measure (and, under ``bypass``, zero)
            that sublayer, with a history of their own; ``"sublayers"`` does both.
        scope: the tokens and layers where there may be voids; the history covers every layer all the same.

    >>> L2AdaptiveComputation(alpha=0.8).alpha
    0.8
    """

    alpha: float | int = 0.8
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "after"
    grain: ClassVar[Grain] = "token"
    history: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check_alpha(self.alpha))
        check_unit(self.unit)
        check_scope(self.scope)

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


def thresholds_of(rule: HaltingRule, delta_norm: Float[np.ndarray, "layer token"]) -> Float[np.ndarray, "layer token"]:
    """What this rule compared recorded deltas with. Raises ValueError for a rule that has no thresholds."""
    if not isinstance(rule, L2AdaptiveComputation):
        raise ValueError("measure 'threshold' needs one L2AdaptiveComputation rule; no other rule has a threshold.")
    return lac_thresholds(delta_norm, rule.alpha)
