"""The mean of a result over its samples, and the range that holds the middle of them, beside each sample's values."""

import json
from typing import Any

import numpy as np
import xarray as xr

LEVEL = 0.8
POOLED = "pooled over tokens"
STATISTICS = ("mean", "low", "high")
_OVER = ("layer", "state")


def with_spread(result: xr.Dataset) -> xr.Dataset:
    """``result`` with the mean of its samples and the range of the middle of them, by variable.

    Beside a variable over (sample, layer) or (sample, state) stand ``<name>_mean``, ``<name>_low`` and ``<name>_high``.
    Every measure returns its result so, and the figures draw what stands there. The ends are the 10th and the 90th
    percentile of the samples, not a confidence interval of the mean. Call it again after choosing other samples.

    Args:
        result: a Dataset by sample; a spread that already stands in it is made anew.

    Returns:
        The Dataset with these variables more; their attributes say ``n``, the samples that are not NaN, and ``level``,
        the share of them between the ends. One sample has no ends. The mean weights samples by their ``n_tokens``
        where the setting ``aggregation`` of the result is "pooled over tokens", and its attribute says which.

    >>> found = with_spread(xr.Dataset({"kl": (("sample", "layer"), [[1.0, 2.0], [3.0, 6.0]])}))
    >>> found["kl_mean"].values.tolist(), found["kl_high"].values.tolist(), found["kl_high"].attrs["n"]
    ([2.0, 4.0], [2.8, 5.6], 2)
    """
    bare = without_spread(result)
    pooled = json.loads(str(bare.attrs.get("settings", "{}"))).get("aggregation") == POOLED and "n_tokens" in bare
    weights = bare["n_tokens"].values if pooled else None
    made: dict[str, Any] = {}
    for name, values in bare.data_vars.items():
        along = [str(dim) for dim in values.dims if dim != "sample"]
        if values.ndim == 2 and "sample" in values.dims and along[0] in _OVER and values.dtype.kind == "f":
            for statistic, variable in _spread(values.transpose("sample", ...).values, weights).items():
                attrs = {**values.attrs, **variable[1], "spread_of": str(name)}
                made[f"{name}_{statistic}"] = (along, variable[0], attrs)
    return bare.assign(made)


def without_spread(result: xr.Dataset) -> xr.Dataset:
    """``result`` as it was before :func:`with_spread`."""
    return result.drop_vars([name for name in result.data_vars if "spread_of" in result[name].attrs])


def spread_of_old(read: xr.Dataset) -> xr.Dataset:
    """A result of ``lacscope analyze`` as it was read; one written before results held their spread gets it."""
    return with_spread(read) if "result_id" in read.attrs and not has_spread(read) else read


def has_spread(result: xr.Dataset) -> bool:
    """Whether a spread stands in it."""
    return any("spread_of" in variable.attrs for variable in result.data_vars.values())


def _spread(values: np.ndarray, weights: np.ndarray | None) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    kept = ~np.isnan(values).all(axis=1)
    n = int(kept.sum())
    if n == 0:
        return {"mean": (np.full(values.shape[1], np.nan), {"n": 0, "mean_over": "samples"})}
    mean = np.average(values[kept], axis=0, weights=None if weights is None else weights[kept])
    found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
    found["mean"] = (mean, {"n": n, "mean_over": "samples" if weights is None else "tokens"})
    if n > 1:
        ends = np.quantile(values[kept], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
        found |= {key: (end, {"n": n, "level": LEVEL}) for key, end in zip(STATISTICS[1:], ends, strict=True)}
    return found
