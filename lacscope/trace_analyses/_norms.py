"""Norm and change of norm by layer and phase, sinks told apart: of a trace, and of a run's norms table."""

import warnings
from contextlib import suppress
from typing import Any

import pandas as pd
import xarray as xr

from lacscope.guards._temporary import Note, temporary
from lacscope.trace_analyses._usage import by_phase, without_token_coords
from lacscope.traces._measure import Measure
from lacscope.traces._schema import made_from, validate

QUANTITIES = ("resid_post_norm", "delta_norm")
_KEYS = ["model", "task", "phase", "layer"]
_VALUES = [f"{quantity}_{statistic}" for quantity in QUANTITIES for statistic in ("mean", "median")]


def norm_profile(trace: xr.Dataset) -> xr.Dataset:
    """Statistics of ``resid_post_norm`` and ``delta_norm`` by layer and phase.

    Token 0 and other sinks carry norms a hundred times the rest's, so a plain mean shows them and little
    else: quartiles run over valid tokens that are not sinks, plain means over all valid tokens (as the paper
    has them), with the share of each mean that the sinks make up.

    Returns:
        Dataset over (quantity, phase, layer): ``q25``, ``median``, ``q75`` (non-sink tokens), ``mean`` (all
        valid tokens), ``sink_share`` (sum of absolute values over sinks, relative to all; in [0, 1]), and over phase
        ``n`` and ``n_sinks``.

    Drawn by :func:`lacscope.plots.plot_norms`.
    """
    trace = validate(trace)
    stacked = xr.concat([without_token_coords(trace[name]) for name in QUANTITIES], dim="quantity")
    values = stacked.assign_coords(quantity=list(QUANTITIES))
    valid = by_phase(trace["valid"], trace)
    is_sink = without_token_coords(trace["sink"])
    plain, sinks = valid & ~is_sink, valid & is_sink
    over = ("sample", "token")
    with _empty_slices_allowed():
        quartiles = values.where(plain).quantile([0.25, 0.5, 0.75], dim=over)
        mean = values.where(valid).mean(over)
    size = abs(values)
    whole = size.where(valid).sum(over)
    found = xr.Dataset(
        {
            "q25": quartiles.sel(quantile=0.25, drop=True),
            "median": quartiles.sel(quantile=0.5, drop=True),
            "q75": quartiles.sel(quantile=0.75, drop=True),
            "mean": mean,
            "sink_share": size.where(sinks).sum(over) / whole.where(whole > 0),
            "n": plain.sum(over),
            "n_sinks": sinks.sum(over),
        }
    ).transpose("quantity", "phase", "layer", ...)
    found.attrs = {**made_from(trace, "norm_profile"), "n_samples": trace.sizes["sample"]}
    return found


@temporary
def _empty_slices_allowed(note: Note) -> None:
    caught = warnings.catch_warnings()
    note("warning filters", _leave, caught)
    caught.__enter__()
    warnings.filterwarnings("ignore", message="All-NaN slice|Mean of empty slice")


def _leave(caught: Any) -> None:
    with suppress(RuntimeError, AttributeError):  # it was not entered, or not wholly
        caught.__exit__(None, None, None)


def norms_by_layer(norms: pd.DataFrame) -> pd.DataFrame:
    """The norms table of a run, over its samples: one row per model, task, phase and layer.

    Means are over all tokens (samples weigh as many as they have); medians are averages of the samples' medians
    with the same weights, since a run keeps no tokens. ``n`` counts tokens, ``samples`` samples.

    Raises:
        ValueError: a column is missing.

    >>> from lacscope.testing import synthetic_norms
    >>> len(norms_by_layer(synthetic_norms(n_samples=5, n_layers=12)))  # 12 layers in two phases
    24
    """
    missing = [name for name in (*_KEYS, "sample", "n", *_VALUES) if name not in norms]
    if missing:
        raise ValueError(
            f"the norms lack {', '.join(missing)}; they have {', '.join(map(str, norms.columns)) or 'no columns'}. "
            "Give a run's norms table."
        )
    held = norms[norms["n"] > 0]
    weighted = held[[*_KEYS, "n"]].join(held[_VALUES].mul(held["n"], axis=0))
    sums = weighted.groupby(_KEYS, sort=False).sum()
    found = sums[_VALUES].div(sums["n"], axis=0).assign(n=sums["n"])
    return found.assign(samples=held.groupby(_KEYS, sort=False)["sample"].nunique()).reset_index()


NORM_PROFILE = Measure(
    norm_profile, "norms", "norm of the stream and its change, by layer and phase", plot="plot_norms", needs="trace"
)
