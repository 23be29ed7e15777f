"""The arithmetic of L2 Adaptive Computation over whole arrays of recorded deltas. No torch.

The same rule as :class:`lacscope.rules.L2AdaptiveComputation`, which sees one layer at a time; a test
holds the two equal, bit for bit.
"""

from typing import Any

import numpy as np
from jaxtyping import Float


def check_alpha(alpha: Any) -> float:
    """Return ``alpha`` as a float, or raise ValueError: thresholds scale with it, so it is finite and >= 0."""
    if isinstance(alpha, bool) or (not isinstance(alpha, (int, float)) and not hasattr(alpha, "__float__")):
        raise ValueError(f"alpha must be a number >= 0, got {alpha!r}. The paper uses 0.8.")
    value = float(alpha)
    # Thresholds are float32: a larger alpha is infinite there.
    if not 0 <= value <= float(np.finfo(np.float32).max):
        raise ValueError(f"alpha must be a finite number >= 0, got {alpha!r}. The paper uses 0.8.")
    return value


def lac_thresholds(
    delta_norm: Float[np.ndarray, "*dims layer token"], alpha: float
) -> Float[np.ndarray, "*dims layer token"]:
    """Threshold of each layer: ``alpha * (max - min)`` of the deltas of the layers before it.

    0 at layers 0 and 1 (layer 1 has one earlier delta). NaN stays NaN.
    """
    highest = np.maximum.accumulate(delta_norm, axis=-2)
    lowest = np.minimum.accumulate(delta_norm, axis=-2)
    spread = np.zeros_like(delta_norm)
    spread[..., 1:, :] = (highest - lowest)[..., :-1, :]
    return delta_norm.dtype.type(alpha) * spread
