"""Search for a set by trying sets: at random, and now and then where a Gaussian process expects the best."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float

_NOISE = 1e-2  # variance added to each score, and the weight of doubt: as the authors set them
_KAPPA = 2.5
_SETS_WEIGHED = 1024
_LENGTHS = np.geomspace(0.5, 8.0, 7)


@dataclass(frozen=True)
class Found:
    """The best set of a search, its score, and how many sets were tried."""

    chosen: Bool[np.ndarray, " item"]
    score: float
    trials: int


def search_set(
    score: Callable[[Bool[np.ndarray, " item"]], float],
    n_items: int,
    n_chosen: int,
    *,
    trials: int,
    patience: int,
    bayes_every: int,
    target: float,
    seed: int,
) -> Found:
    """The best-scoring set of ``n_chosen`` of ``n_items``.

    Every ``bayes_every``-th trial asks the Gaussian process, all others draw a set. It ends with a score above
    ``target``, after ``trials`` sets, or once more than ``patience`` in a row were no better.

    >>> limits = {"trials": 99, "patience": 99, "bayes_every": 5, "target": 0.9}
    >>> found = search_set(lambda chosen: float(chosen[:2].mean()), 4, 2, **limits, seed=0)
    >>> found.chosen.tolist(), found.score
    ([True, True, False, False], 1.0)
    """
    rng = np.random.default_rng(seed)
    tried: list[np.ndarray] = []
    scores: list[float] = []
    best, stale = -1, 0
    for trial in range(1, trials + 1):
        if trial % bayes_every == 0 and tried:
            chosen = _suggested(rng, np.array(tried), np.array(scores), n_chosen)
        else:
            chosen = _drawn(rng, 1, n_items, n_chosen)[0]
        tried.append(chosen)
        scores.append(score(chosen))
        if best < 0 or scores[-1] > scores[best]:
            best, stale = len(scores) - 1, 0
        else:
            stale += 1
        if scores[best] > target or stale > patience:
            break
    return Found(tried[best], scores[best], len(tried))


def _drawn(rng: np.random.Generator, n_sets: int, n_items: int, n_chosen: int) -> Bool[np.ndarray, "set item"]:
    order = rng.random((n_sets, n_items)).argsort(axis=1).argsort(axis=1)
    return order < n_chosen


def _suggested(
    rng: np.random.Generator,
    tried: Bool[np.ndarray, "trial item"],
    scores: Float[np.ndarray, " trial"],
    n_chosen: int,
) -> Bool[np.ndarray, " item"]:
    """Of many drawn sets, and all that differ from the best in one member, the one with the highest upper bound."""
    best = tried[scores.argmax()]
    leave, enter = np.flatnonzero(best), np.flatnonzero(~best)
    near = np.repeat(best[None], len(leave) * len(enter), axis=0)
    rows = np.arange(len(near))
    near[rows, np.repeat(leave, len(enter))] = False
    near[rows, np.tile(enter, len(leave))] = True
    sets = np.concatenate([near, _drawn(rng, _SETS_WEIGHED, tried.shape[1], n_chosen)])
    mean, deviation = posterior(tried, scores, sets)
    return sets[(mean + _KAPPA * deviation).argmax()]


def posterior(
    tried: Bool[np.ndarray, "trial item"], scores: Float[np.ndarray, " trial"], sets: Bool[np.ndarray, "set item"]
) -> tuple[Float[np.ndarray, " set"], Float[np.ndarray, " set"]]:
    """Mean and deviation of the scores of ``sets``, in units of the scores' own deviation about their mean.

    A Gaussian process with a Matern-5/2 kernel on sets as corners of the unit cube; its length is the likeliest of a
    few.
    """
    spread = scores.std()
    values = (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
    # float32 products would do, but bool ones would not count.
    x, z = tried.astype(float), sets.astype(float)
    fits = [_fit(_matern(x, x, length), values) for length in _LENGTHS]
    _, factor, weights, length = max(
        ((*fit, length) for fit, length in zip(fits, _LENGTHS, strict=True)), key=lambda fit: fit[0]
    )
    cross = _matern(z, x, length)
    explained = scipy.linalg.solve_triangular(factor, cross.T, lower=True)
    return cross @ weights, np.sqrt(np.maximum(1.0 - (explained**2).sum(axis=0), 0.0))


def _fit(
    kernel: Float[np.ndarray, "trial trial"], values: Float[np.ndarray, " trial"]
) -> tuple[float, Float[np.ndarray, "trial trial"], Float[np.ndarray, " trial"]]:
    """Log likelihood (less a constant), Cholesky factor, and the weights of the mean."""
    factor = scipy.linalg.cholesky(kernel + _NOISE * np.eye(len(kernel)), lower=True)
    weights = scipy.linalg.cho_solve((factor, True), values)
    return float(-0.5 * values @ weights - np.log(np.diag(factor)).sum()), factor, weights


def _matern(a: Float[np.ndarray, "a item"], b: Float[np.ndarray, "b item"], length: float) -> Float[np.ndarray, "a b"]:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    scaled = np.sqrt(5 * np.maximum(squared, 0.0)) / length
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
