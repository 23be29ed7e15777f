"""Samples drawn with replacement: the one way in which every interval over samples resamples."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from lacscope.guards._arguments import is_real, whole_number

_AT_ONCE = 2_000_000  # values resampled in one piece: 16 MB


def resampled(rng: np.random.Generator, n: int, n_samples: int) -> Int[np.ndarray, "draw drawn"]:
    """Places of the samples in each of ``n`` resamples: one fewer than there are, which keeps the variance unbiased.

    Source: Rao and Wu 1988. With as many draws as samples the interval of a mean of three would be a fifth too narrow.

    >>> resampled(np.random.default_rng(0), 2, 5).shape
    (2, 4)
    """
    return rng.integers(0, n_samples, (n, max(n_samples - 1, 1)))


def times_drawn(rng: np.random.Generator, n: int, n_samples: int) -> Float[np.ndarray, "draw sample"]:
    """How often each sample is in each of ``n`` resamples, for sums over samples as products of matrices.

    >>> times_drawn(np.random.default_rng(0), 2, 5).sum(1).tolist()
    [4.0, 4.0]
    """
    drawn = resampled(rng, n, n_samples)
    return np.stack([np.bincount(row, minlength=n_samples) for row in drawn]).astype(np.float64)


def in_pieces(n: int, size: int) -> Iterator[slice]:
    """``n`` resamples of ``size`` values, cut so that no piece needs much memory."""
    step = max(1, _AT_ONCE // max(size, 1))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def percentiles(replicates: Float[np.ndarray, "draw ..."], level: float) -> Float[np.ndarray, "2 ..."]:
    """The ends of the percentile interval: low, high."""
    return np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2], axis=0)


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
    parts = []
    for piece in in_pieces(n, k):
        times = times_drawn(rng, piece.stop - piece.start, k)
        parts.append((times @ above) / (times @ below)[:, None])
    return percentiles(np.concatenate(parts), confidence)


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
