"""Many ratios with one set of resamples: intervals over samples for tables of groups and layers."""

import numpy as np
from jaxtyping import Float

from lacscope.guards._arguments import is_real, whole_number

_AT_ONCE = 2_000_000  # draws in one piece: 16 MB


def bootstrap_ratios(
    numerators: Float[np.ndarray, "sample column"],
    denominators: Float[np.ndarray, " sample"],
    *,
    seed: int,
    n: int,
    confidence: float,
) -> Float[np.ndarray, "2 column"]:
    """Percentile intervals of ``sum(numerators) / sum(denominators)``, column by column: low ends, high ends.

    As :func:`lacscope.trace_analyses.bootstrap_ratio` for each column, to float64 rounding, in one product of
    matrices. Samples whose denominator is 0 say nothing and are left out; NaN with fewer than two others.

    >>> bootstrap_ratios(np.array([[5.0], [10.0]]), np.array([10.0, 20.0]), seed=0, n=100, confidence=0.95).tolist()
    [[0.5], [0.5]]
    """
    held = denominators > 0
    above, below = numerators[held], denominators[held]
    k = len(below)
    if k < 2:
        return np.full((2, above.shape[1]), np.nan)
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // k)
    parts = []
    for start in range(0, n, step):
        drawn = rng.integers(0, k, (min(step, n - start), k - 1))
        times = np.stack([np.bincount(row, minlength=k) for row in drawn]).astype(np.float64)
        parts.append((times @ above) / (times @ below)[:, None])
    return np.quantile(np.concatenate(parts), [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)


def check_bootstrap(seed: int, n_bootstrap: int, level: float) -> None:
    """Raise ValueError for a seed, a number of resamples or a level that no bootstrap can have.

    >>> check_bootstrap(seed=0, n_bootstrap=1000, level=0.95)
    """
    whole_number("n_bootstrap", n_bootstrap, least=1)
    whole_number("seed", seed)
    check_level("level", level)


def check_level(name: str, value: float) -> None:
    """Raise ValueError for what is no confidence level: a number between 0 and 1."""
    if not is_real(value) or not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r:.80}: 0.95 gives a 95 % interval.")
