"""Usage: the share of (layer, token) pairs that are active. It says nothing of compute; see ``depth``."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from lacscope.traces._measure import Measure
from lacscope.traces._schema import PHASES, TOKEN_COORDS, made_from, require_first_layers, validate
from lacscope.traces._voids import resolve_voids, voids

By = Literal["phase", "sample", "all"]
Weight = Literal["token", "sample"]
Sinks = Literal["include", "exclude"]


def counted_tokens(trace: xr.Dataset, sinks: Sinks = "include") -> xr.DataArray:
    """The tokens that a statistic runs over: valid, and not a sink where those are excluded."""
    if sinks not in ("include", "exclude"):
        raise ValueError(f"sinks must be 'include' or 'exclude', got {sinks!r}.")
    return trace["valid"] if sinks == "include" else trace["valid"] & ~trace["sink"]


def without_token_coords(array: xr.DataArray) -> xr.DataArray:
    """The array without its per-token coordinates, one of which is called ``phase`` like a result's dimension."""
    return array.drop_vars(TOKEN_COORDS, errors="ignore")


def by_phase(array: xr.DataArray, trace: xr.Dataset) -> xr.DataArray:
    """Boolean ``array`` split along a new leading dimension ``phase``."""
    phases = [without_token_coords(array & (trace["phase"] == phase)) for phase in PHASES]
    return xr.concat(phases, dim="phase").assign_coords(phase=list(PHASES))


def layer_usage(
    trace: xr.Dataset,
    voids: xr.DataArray | None = None,
    by: By = "phase",
    *,
    weight: Weight = "token",
    sinks: Sinks = "include",
) -> xr.DataArray:
    """Share of tokens for which each layer is active (not a void).

    Args:
        trace: a trace.
        voids: a mask from :func:`lacscope.voids` (with or without a dimension ``alpha``), or a bool mask of your own,
            True at voids; default: the trace's own. Usage of a slice of the layers takes one slice of both.
        by: ``"phase"`` for prefill and decode apart, ``"sample"`` for each sample's phases, ``"all"`` for all
            tokens together.
        weight: ``"token"`` pools tokens over samples; ``"sample"`` averages the samples' own shares.
        sinks: whether sink tokens count.

    Returns:
        DataArray in [0, 1] with ``layer`` and, by ``by``, ``phase`` and ``sample``; coordinate ``n`` has the
        number of tokens (of samples under ``weight="sample"``). NaN where n is 0.

    Drawn by :func:`lacscope.plots.plot_usage_by_layer`.

    >>> from lacscope.testing import synthetic_trace
    >>> layer_usage(synthetic_trace()).dims
    ('phase', 'layer')
    """
    trace = validate(trace)
    if by not in ("phase", "sample", "all"):
        raise ValueError(f"by must be 'phase', 'sample' or 'all', got {by!r}.")
    if weight not in ("token", "sample"):
        raise ValueError(f"weight must be 'token' or 'sample', got {weight!r}.")
    void = without_token_coords(resolve_voids(trace, voids))
    active = ~void
    counted = counted_tokens(trace, sinks)
    groups = without_token_coords(counted) if by == "all" else by_phase(counted, trace)
    per_sample = _ratio((active & groups).sum("token"), groups.sum("token"))
    if by == "sample":
        usage, n = per_sample, groups.sum("token")
    elif weight == "sample":
        usage, n = per_sample.mean("sample"), (groups.sum("token") > 0).sum("sample")
    else:
        n = groups.sum(("sample", "token"))
        usage = _ratio((active & groups).sum(("sample", "token")), n)
    leading = [dim for dim in ("alpha", "rule", "phase", "sample") if dim in usage.dims]
    usage = usage.transpose(*leading, "layer").assign_coords(n=n)
    usage.name = "usage"
    usage.attrs = {
        "long_name": "share of tokens for which the layer is active",
        "units": "1",
        "weight": weight,
        "sinks": sinks,
        **made_from(trace, "layer_usage", void.attrs, by=by, weight=weight, sinks=sinks),
    }
    return usage


def _ratio(part: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    return part / whole.where(whole > 0)


def usage_by_alpha(
    trace: xr.Dataset,
    alphas: Sequence[float | int] | np.ndarray = (0.8,),
    *,
    weight: Weight = "token",
    sinks: Sinks = "include",
) -> xr.DataArray:
    """Usage over all layers at each alpha and phase, from one trace.

    Returns:
        DataArray (alpha, phase) in [0, 1] with coordinate ``n``, the number of tokens.

    Drawn by :func:`lacscope.plots.plot_usage_by_alpha`.
    """
    trace = validate(trace)
    usage = layer_usage(trace, voids(trace, np.atleast_1d(alphas)), "phase", weight=weight, sinks=sinks)
    overall = usage.mean("layer").assign_coords(n=usage["n"])
    overall.name = "usage"
    long_name = "share of (layer, token) pairs that are active"
    overall.attrs = {**usage.attrs, "measure": "usage_by_alpha", "long_name": long_name}
    return overall


def token_usage(trace: xr.Dataset, voids: xr.DataArray | None = None) -> xr.Dataset:
    """Per token: how many layers are active, and how deep the last of them is.

    Returns:
        Dataset over (sample, token): ``active_layers`` (count) and ``exit_depth`` ((last active layer + 1) /
        L, 0 where all are voids). NaN where the token is not valid.
    """
    trace = validate(trace)
    require_first_layers(trace, "active layers and exit depth are counted over all of them")
    void = resolve_voids(trace, voids)
    active = ~void
    n_layers = trace.sizes["layer"]
    depth = xr.DataArray(np.arange(1, n_layers + 1), dims="layer", coords={"layer": trace["layer"]})
    valid = trace["valid"]
    found = xr.Dataset(
        {
            "active_layers": active.sum("layer").where(valid),
            "exit_depth": (active * depth).max("layer").where(valid) / n_layers,
        }
    )
    found["active_layers"].attrs = {"long_name": "active layers of the token", "units": "layers"}
    found["exit_depth"].attrs = {"long_name": "exit depth: (last active layer + 1) / layers", "units": "1"}
    found.attrs = {**made_from(trace, "token_usage", void.attrs), "n_layers": n_layers}
    return found


LAYER_USAGE = Measure(
    layer_usage, "usage", "share of tokens for which each layer is no void", plot="plot_usage_by_layer", needs="trace"
)
USAGE_BY_ALPHA = Measure(
    usage_by_alpha, "usage by alpha", "usage over all layers at each alpha", plot="plot_usage_by_alpha", needs="trace"
)
TOKEN_USAGE = Measure(
    token_usage, "usage by token", "active layers and exit depth of each token", plot="", needs="trace"
)
