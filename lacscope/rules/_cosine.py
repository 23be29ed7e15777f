"""Layers that hardly turn the stream."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._arguments import is_real
from lacscope.rules._base import Decides, Grain, check_unit
from lacscope.rules._scope import EVERYWHERE, Scope, check_scope
from lacscope.rules._view import LayerView, Unit


def cosine(
    before: Float[Tensor, "batch pos d_model"], after: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos"]:
    """Cosine of two streams per token, in float32; never above 1."""
    a, b = before.float(), after.float()
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return ((a * b).sum(-1) / norms.clamp_min(torch.finfo(torch.float32).tiny)).clamp(max=1.0)


@dataclass(frozen=True)
class CosineThreshold:
    """A layer is a void for a token where the cosine of the streams before and after it is above a threshold.

    Args:
        threshold: -1 to 1, compared strictly: at 1 nothing is void.
        unit: the part of each block that the streams stand about, and that is void.
        scope: the tokens and layers where there may be voids.

    Raises:
        ValueError: a threshold outside -1 to 1.

    >>> CosineThreshold(0.99).decides
    'after'
    """

    threshold: float | int
    unit: Unit = "block"
    scope: Scope = field(default=EVERYWHERE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "after"
    grain: ClassVar[Grain] = "token"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not is_real(self.threshold) or not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine, -1 to 1; got {self.threshold!r:.80}.")
        object.__setattr__(self, "threshold", float(self.threshold))
        check_unit(self.unit)
        check_scope(self.scope)

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        assert view.resid_post is not None
        return cosine(view.resid_pre, view.resid_post) > self.threshold
