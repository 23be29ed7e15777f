"""The arithmetic of L2 Adaptive Computation over whole arrays of recorded deltas. No torch.

The same rule as :class:`lacscope.rules.L2AdaptiveComputation`, which sees one layer at a time; a test
holds the two equal, bit for bit.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from lacscope.guards._arguments import listed


def check_alpha(alpha: Any, name: str = "alpha") -> float:
    """Return ``alpha`` as a float, or raise ValueError: thresholds scale with it, so it is finite and >= 0."""
    if isinstance(alpha, (bool, np.bool_)) or not hasattr(alpha, "__float__") or np.ndim(alpha):
        raise ValueError(f"{name} must be a number >= 0, got {alpha!r}. The paper uses 0.8.")
    try:
        value = float(alpha)
    except OverflowError:  # a whole number of hundreds of digits
        value = float("inf")
    # Thresholds are float32: a larger alpha is infinite there.
    if not 0 <= value <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name} must be a finite number >= 0, got {alpha!r}. The paper uses 0.8.")
    return value


def check_alphas(name: str, alphas: Any, *, least: int = 0) -> list[float]:
    """A list of at least ``least`` alphas, each as :func:`check_alpha` has it, none of them twice; else ValueError."""
    given = [check_alpha(alpha, f"{name}[{place}]") for place, alpha in enumerate(listed(name, alphas, "numbers >= 0"))]
    if len(given) < least:
        raise ValueError(f"{name} is empty: give at least one, such as 0.8.")
    twice = [alpha for place, alpha in enumerate(given) if alpha in given[:place]]
    if twice:
        raise ValueError(f"{name} has {twice[0]:g} twice; each alpha is run once.")
    return given


def spread_before(delta_norm: Float[np.ndarray, "*dims layer token"]) -> Float[np.ndarray, "*dims layer token"]:
    """``max - min`` of the deltas of the layers before each: what alpha is multiplied with.

    0 at layers 0 and 1 (layer 1 has one earlier delta). NaN stays NaN.
    """
    highest = np.maximum.accumulate(delta_norm, axis=-2)
    lowest = np.minimum.accumulate(delta_norm, axis=-2)
    spread = np.zeros_like(delta_norm)
    spread[..., 1:, :] = (highest - lowest)[..., :-1, :]
    return spread


def lac_thresholds(
    delta_norm: Float[np.ndarray, "*dims layer token"], alpha: float
) -> Float[np.ndarray, "*dims layer token"]:
    """Threshold of each layer: ``alpha`` times :func:`spread_before`."""
    return delta_norm.dtype.type(alpha) * spread_before(delta_norm)
