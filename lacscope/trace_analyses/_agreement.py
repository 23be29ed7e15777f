"""Agreement: do measures of a layer's importance rank the layers alike? Spearman's correlations of every pair."""

import itertools
import json
import math
from collections.abc import Collection, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy import stats

from lacscope.guards._arguments import ANY, made_by, text, whole_number, whole_numbers
from lacscope.trace_analyses._bootstrap import check_level, percentiles, times_drawn
from lacscope.trace_analyses._statistics import holm
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import result_attrs

_LONG_NAMES = {
    "rho": "Spearman's correlation over layers",
    "low": "lower end of the bootstrap interval over samples",
    "high": "upper end of the bootstrap interval over samples",
    "p": "two-sided p of a permutation of the layers",
    "p_holm": "that p, adjusted for all pairs",
    "rank": "rank of the layer, 1 is the most important",
    "n_samples": "samples, 0 for a score over layers alone",
    "kept": "whether the layer counts",
    "n_layers": "layers that count",
}
METRIC_ATTRS = ("preset", "paper_settings", "settings", "departures", "positions")
"""Attributes of a score that the result lists in its own attribute ``metrics``, "" where a score has none."""
_TIE = 1e-9  # of two correlations that differ by rounding alone


def agreement(
    scores: Mapping[str, xr.DataArray],
    *,
    drop: Collection[int] = (0, 1, -1),
    n_boot: int = 1000,
    n_permutations: int = 10_000,
    seed: int,
    confidence: float = 0.95,
    model: str = "",
    data: str = "",
) -> xr.Dataset:
    """Spearman's rank correlation of every pair of scores over the layers: of all layers, and without the outer ones.

    A score over (sample, layer) is averaged over its samples. Two questions are kept apart:

    - *measurement*: would other samples rank the layers alike? The percentile interval ``low`` .. ``high`` of a
      bootstrap over samples, one fewer drawn than there are (Rao and Wu 1988). Scores whose ``sample`` coordinates
      are equal are drawn together. NaN unless both scores have two samples or more: a score over ``layer`` alone (one
      order for all prompts, or weights) would be held fixed, and the interval would miss what it varies.
    - *association*: would layers at random agree as well? The two-sided p of a permutation of the layers; every
      permutation where there are no more than ``n_permutations``, else that many and ``p = (k + 1) / (n + 1)``.
      ``p_holm`` is adjusted for all pairs of the same panel (Holm 1979). A permutation takes layers for
      exchangeable. Neighbours are alike, so where two scores both drift with depth p is too small.

    Args:
        scores: the scores by name: each a DataArray over (sample, layer) or (layer,), larger = more important, all
            with the same layers. Its attributes ``preset``, ``paper_settings``, ``settings``, ``departures`` and
            ``positions`` (:func:`lacscope.traces.result_attrs`) are kept.
        drop: layers left out of the second panel; negative ones count from the last.
        n_boot: resamplings.
        n_permutations: permutations of the layers at most.
        seed: the seed of the resamples and of the permutations.
        confidence: the level of the interval.
        model: its name, for the figure.
        data: the name of the samples, for the figure.

    Returns:
        Dataset over (subset, metric, other): ``rho`` in [-1, 1], ``low``, ``high``, ``p`` and ``p_holm`` (NaN on the
        diagonal); over (metric, layer) ``score`` (mean over samples) and ``rank`` (1 is the most important); over
        metric ``n_samples`` (0 for a score over layers alone); over subset ``n_layers``; over (subset, layer)
        ``kept``. A score that is the same at every layer has NaN for rho. Attribute ``metrics`` is a JSON object:
        name -> those attributes of each score.

    Drawn by :func:`lacscope.plots.plot_agreement`.

    Raises:
        ValueError: fewer than two scores, other dimensions, layers that differ, a NaN, fewer than 3 layers left, or
            numbers that no bootstrap or permutation can have.

    >>> layer = {"layer": [0, 1, 2, 3]}
    >>> a = xr.DataArray([1.0, 2.0, 3.0, 4.0], layer, ("layer",))
    >>> found = agreement({"a": a, "b": -a}, drop=(), seed=0)
    >>> pair = found.sel(subset="all", metric="a", other="b")
    >>> round(float(pair["rho"]), 6), round(float(pair["p"]), 6)  # 2 of 24 permutations are as extreme
    (-1.0, 0.083333)
    """
    made_by("scores", scores, Mapping, "layer_scores(model, prompts)")
    text("model", model)
    names = list(scores)
    whole_number("seed", seed)
    whole_number("n_boot", n_boot, least=1)
    check_level("confidence", confidence)
    whole_number("n_permutations", n_permutations, least=1)
    layers = _check(scores)
    kept = _subsets(layers, drop)
    means = np.stack([_mean(scores[name]) for name in names])
    sample_means = _resampled(scores, n_boot, seed)
    panels = []
    for inside in kept.values():
        rho = _correlations(means[None, :, inside])[0]
        p = _permutation_p(means[:, inside], rho, n_permutations, seed)
        low, high = _interval(scores, _correlations(sample_means[:, :, inside]), confidence)
        panels.append({"rho": rho, "low": low, "high": high, "p": p, "p_holm": _holm(p)})
    over = ("subset", "metric", "other")
    ds = xr.Dataset(
        {key: (over, np.stack([panel[key] for panel in panels])) for key in panels[0]},
        {"subset": list(kept), "metric": names, "other": names, "layer": layers},
    )
    ds["score"] = (("metric", "layer"), means)
    ds["rank"] = (("metric", "layer"), stats.rankdata(-means, axis=1))
    ds["n_samples"] = ("metric", [score.sizes.get("sample", 0) for score in scores.values()])
    ds["kept"] = (("subset", "layer"), np.stack(list(kept.values())))
    ds["n_layers"] = ds["kept"].sum("layer")
    for name, said in _LONG_NAMES.items():
        ds[name].attrs = {"long_name": said, "units": "layers" if name == "n_layers" else "1"}
    for end in ("low", "high"):
        ds[end].attrs["level"] = confidence
    ds["score"].attrs = {"long_name": "mean over samples, larger = more important", "units": "each its own"}
    ds.attrs = result_attrs(
        "agreement",
        {"model": model},
        preset=None,
        settings={
            "drop": list(drop),
            "n_boot": n_boot,
            "n_permutations": n_permutations,
            "seed": seed,
            "confidence": confidence,
        },
        positions="positions are each metric's own",
        aggregation="mean over samples, then Spearman's correlation over layers",
        n_samples=int(ds["n_samples"].max()),
        data=data,
    )
    ds.attrs["metrics"] = json.dumps({name: _rests_on(score) for name, score in scores.items()}, sort_keys=True)
    return ds


def _rests_on(score: xr.DataArray) -> dict[str, str]:
    return {key: str(score.attrs.get(key, "")) for key in METRIC_ATTRS}


def _check(scores: Mapping[str, xr.DataArray]) -> Int[np.ndarray, " layer"]:
    """The layers of all scores."""
    if len(scores) < 2:
        raise ValueError(f"agreement is between two scores or more, got {len(scores)}: {', '.join(scores) or 'none'}.")
    layers = None
    for name, score in scores.items():
        if set(score.dims) not in ({"layer"}, {"sample", "layer"}):
            raise ValueError(f"score {name!r} has dimensions {score.dims}; give (sample, layer) or (layer,).")
        own = score["layer"].values
        if layers is None:
            first, layers = name, own
        if not np.array_equal(own, layers):
            raise ValueError(
                f"score {name!r} has layers {own.tolist()}, {first!r} has {layers.tolist()}: give the same."
            )
        if not np.isfinite(score.values).all():
            bad = own[~np.isfinite(score.transpose(..., "layer").values).reshape(-1, len(own)).all(0)]
            raise ValueError(
                f"score {name!r} is not finite at layers {bad.tolist()}: such a layer has no rank. Leave the layer or "
                "the score out."
            )
    assert layers is not None
    return layers


def _subsets(layers: Int[np.ndarray, " layer"], drop: Collection[int]) -> dict[str, Bool[np.ndarray, " layer"]]:
    n_layers = int(layers.max()) + 1
    drop = whole_numbers("drop", drop, least=ANY)
    outside = [layer for layer in drop if not -n_layers <= layer < n_layers]
    if outside:
        raise ValueError(f"drop has layer {outside[0]}; the scores have layers 0 to {n_layers - 1} (or -1, -2, ...).")
    gone = sorted({layer % n_layers for layer in drop})
    found = {"all": np.ones(len(layers), dtype=bool)}
    if gone:
        found[f"without layers {', '.join(map(str, gone))}"] = ~np.isin(layers, gone)
    for name, inside in found.items():
        if inside.sum() < 3:
            raise ValueError(f"{name}: {int(inside.sum())} of {len(layers)} layers are left; ranks need 3 at least.")
    return found


def _mean(score: xr.DataArray) -> Float[np.ndarray, " layer"]:
    values = score.transpose(..., "layer").values.astype(np.float64)
    return values if values.ndim == 1 else values.mean(0)


def _resampled(scores: Mapping[str, xr.DataArray], n: int, seed: int) -> Float[np.ndarray, "draw metric layer"]:
    """Each score's mean over samples drawn with replacement; the same samples for all that have the same."""
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[object, ...], np.ndarray] = {}
    columns = []
    for score in scores.values():
        mean = _mean(score)
        size = score.sizes.get("sample", 0)
        if size < 2:
            columns.append(np.broadcast_to(mean, (n, len(mean))))
            continue
        samples = tuple(score["sample"].values.tolist())
        if samples not in drawn:
            drawn[samples] = times_drawn(rng, n, size) / (size - 1)
        columns.append(drawn[samples] @ score.transpose("sample", "layer").values.astype(np.float64))
    return np.stack(columns, axis=1)


def _correlations(scores: Float[np.ndarray, "draw metric layer"]) -> Float[np.ndarray, "draw metric metric"]:
    """Spearman's correlation: Pearson's of the ranks, ties sharing their mean."""
    ranks = _standard(stats.rankdata(scores, axis=-1))
    return np.clip(ranks @ ranks.swapaxes(-1, -2), -1.0, 1.0)


def _standard(ranks: Float[np.ndarray, "*dims layer"]) -> Float[np.ndarray, "*dims layer"]:
    """Ranks with mean 0 and length 1; NaN where all are equal."""
    centred = ranks - ranks.mean(-1, keepdims=True)
    length = np.sqrt((centred**2).sum(-1, keepdims=True))
    return centred / np.where(length > 0, length, np.nan)


def _permutation_p(
    means: Float[np.ndarray, "metric layer"], rho: Float[np.ndarray, "metric metric"], n: int, seed: int
) -> Float[np.ndarray, "metric metric"]:
    n_layers = means.shape[1]
    every = math.factorial(n_layers) <= n
    if every:
        orders = np.array(list(itertools.permutations(range(n_layers))))
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(n_layers), (n, 1)), axis=1)
    ranks = _standard(stats.rankdata(means, axis=-1))
    p = np.full(rho.shape, np.nan)
    for i, j in zip(*np.tril_indices(len(means), -1), strict=True):
        if np.isfinite(rho[i, j]):
            as_extreme = int((np.abs(ranks[i][orders] @ ranks[j]) >= abs(rho[i, j]) - _TIE).sum())
            p[i, j] = p[j, i] = as_extreme / len(orders) if every else (as_extreme + 1) / (n + 1)
    return p


def _interval(
    scores: Mapping[str, xr.DataArray], drawn: Float[np.ndarray, "draw metric metric"], confidence: float
) -> tuple[Float[np.ndarray, "metric metric"], Float[np.ndarray, "metric metric"]]:
    """NaN unless both scores were resampled, and on the diagonal."""
    low, high = percentiles(drawn, confidence)
    sampled = np.array([score.sizes.get("sample", 0) > 1 for score in scores.values()])
    unknown = ~(sampled[:, None] & sampled[None, :]) | np.eye(len(sampled), dtype=bool)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def _holm(p: Float[np.ndarray, "metric metric"]) -> Float[np.ndarray, "metric metric"]:
    below = np.tril_indices(len(p), -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[below] = holm(p[below])
    return np.where(np.isnan(adjusted), adjusted.T, adjusted)


AGREEMENT = Measure(
    agreement,
    "agreement",
    "do the measures of importance rank the layers alike?",
    plot="plot_agreement",
    needs="results",
    group="importance",
)
