"""Prefill against decode, raw and between tokens that are alike.

With a causal cache a token's stream is the same, whether it is read in prefill or in decode (a test holds it).
So a difference of usage between the phases is a difference between their *tokens*: generated tokens stand later,
are likelier under the model, and are of other classes. :func:`cell_counts` counts tokens of each kind,
:func:`lacscope.trace_analyses.matched_difference` compares the phases raw and within kinds. What is left
after matching is what position, token class and surprisal do not explain; it is no effect of the phase. The same holds
for what an effect does to tokens.

Within one sample the answer stands after the whole prompt: tokens of like position are hardly found there, and between
samples only where prompts differ in length. Read a matched difference with its coverage.
"""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from lacscope.trace_analyses._tokens import token_classes
from lacscope.trace_analyses._usage import counted_tokens
from lacscope.traces._schema import TraceError, made_from, require_distinct_samples, require_first_layers, validate
from lacscope.traces._voids import resolve_voids

# Powers of two and their midpoints: from 2 on, a bin is at most half as wide as its positions are far.
POSITION_EDGES = (
    *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    *(768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
)
"""Position bin b holds the positions from ``POSITION_EDGES[b - 1]`` to below ``POSITION_EDGES[b]``; bin 0 from 0."""

SURPRISAL_EDGES = (0.01, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Surprisal bins in nats, as the position bins. Bin -1 holds tokens without surprisal (NaN: the first token)."""

NO_SURPRISAL = -1
CELL_KINDS = ("position_bin", "token_class", "surprisal_bin")
CELL = ["sample", "alpha", "phase", *CELL_KINDS]
_TYPES = {"sample": int, "alpha": float, "phase": object, "position_bin": int, "token_class": object}
_TYPES |= {"surprisal_bin": int, "tokens": int, "active": int}


def cell_counts(trace: xr.Dataset, voids: xr.DataArray | None = None, values: xr.Dataset | None = None) -> pd.DataFrame:
    """Tokens and their active layers by sample, phase, position bin, token class and surprisal bin.

    Sinks are left out. The table is small, and a sample's rows depend on that sample alone: tables of several
    shards are put together with ``pandas.concat``.

    Args:
        trace: a trace with ``measures=("surprisal",)``.
        voids: a mask, with or without a dimension ``alpha``; default: the trace's own.
        values: numbers a token to sum beside them, over (sample, token), such as
            :func:`token_shift(full, changed) <lacscope.trace_analyses._effects.token_shift>`.

    Returns:
        One row per sample, alpha and cell that has tokens. Columns: ``sample``, ``alpha`` (NaN where the mask
        does not say it), ``phase``, ``position_bin``, ``token_class`` (see :mod:`lacscope.trace_analyses`),
        ``surprisal_bin``, ``tokens`` (count), ``active`` (active (layer, token) pairs), and of each of ``values`` the
        sum.

    Raises:
        TraceError: no surprisal in the trace, voids of another trace, or a dimension ``rule``.
        ValueError: values with other dimensions or labels, without a number for a token that counts, or whose name is
            taken.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> trace["surprisal"] = trace["delta_norm"].isel(layer=0, drop=True)
    >>> int(cell_counts(trace)["tokens"].sum()) == int((trace["valid"] & ~trace["sink"]).sum())
    True
    """
    trace = validate(trace)
    require_first_layers(trace, "active layers are counted over all of them")
    require_distinct_samples(trace)
    mask = resolve_voids(trace, voids)
    if "surprisal" not in trace:
        raise TraceError("the trace has no surprisal to match tokens on: trace again with measures=('surprisal',).")
    if "rule" in (*trace.dims, *mask.dims):
        raise TraceError("the trace has a dimension 'rule': count each rule on its own, with trace.sel(rule=...).")
    counted = counted_tokens(trace, "exclude").values
    row, position = np.nonzero(counted)
    tokens = pd.DataFrame(
        {
            "sample": trace["sample"].values[row],
            "phase": trace["phase"].values[counted],
            "position_bin": np.searchsorted(POSITION_EDGES, trace["token"].values[position], side="right"),
            "token_class": token_classes(trace).values[counted],
            "surprisal_bin": _surprisal_bins(trace["surprisal"].values[counted]),
        }
    )
    sums = {} if values is None else {str(name): _of(trace, str(name), values[name])[counted] for name in values}
    lacking = [name for name, array in sums.items() if np.isnan(array).any()]
    if lacking:
        raise ValueError(f"values[{lacking[0]!r}] is NaN for a token that counts: give a number for each valid token.")
    tokens = tokens.assign(**sums)
    one_alpha = float(mask.attrs.get("alpha", np.nan))
    by_alpha = mask if "alpha" in mask.dims else mask.expand_dims(alpha=[one_alpha])
    active = (~by_alpha).sum("layer").transpose("alpha", "sample", "token").values
    parts = [
        tokens.assign(alpha=alpha, active=active[index][counted])
        for index, alpha in enumerate(by_alpha["alpha"].values)
    ]
    grouped = pd.concat(parts).groupby(CELL, dropna=False, sort=True)
    summed = grouped[["active", *sums]].sum()
    summed.insert(0, "tokens", grouped.size())
    cells = summed.reset_index().astype(_TYPES)
    cells.attrs = made_from(trace, "cell_counts", mask.attrs)
    return cells


def _of(trace: xr.Dataset, name: str, array: xr.DataArray) -> Float[np.ndarray, "sample token"]:
    """The values as the trace's tokens stand; ValueError where they are not of these tokens."""
    if name in (*_TYPES, "usage"):
        raise ValueError(f"values has {name!r}, a column of the cells themselves: rename it.")
    if set(array.dims) != {"sample", "token"} or any(
        not np.array_equal(array[dim].values, trace[dim].values) for dim in ("sample", "token")
    ):
        raise ValueError(
            f"values[{name!r}] has dimensions {array.dims} of {array.shape}: give a number for each (sample, token) "
            "of this trace."
        )
    return array.transpose("sample", "token").values.astype(np.float64)


def _surprisal_bins(surprisal: Float[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    bins = np.searchsorted(SURPRISAL_EDGES, surprisal, side="right")
    return np.where(np.isnan(surprisal), NO_SURPRISAL, bins)
