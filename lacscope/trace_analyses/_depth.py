"""How much compute voids could spare: a bound in hindsight, never one number for another.

Usage, exit depth, skippable compute and realised saving are four different things. The realised saving of
L2 Adaptive Computation is 0: it runs a block to learn that the block was a void.
"""

from typing import Literal

import numpy as np
import xarray as xr

from lacscope.guards._arguments import one_of
from lacscope.trace_analyses._usage import by_phase, counted_tokens, token_usage, without_token_coords
from lacscope.traces._measure import Measure
from lacscope.traces._schema import TraceError, cost_of, made_from, validate
from lacscope.traces._voids import resolve_voids


def skippable_compute(
    trace: xr.Dataset, voids: xr.DataArray | None = None, *, by: Literal["all", "sample"] = "all"
) -> xr.DataArray:
    """Share of the pass's FLOPs, head included, that knowing the voids beforehand could have spared.

    ``bypass``: the void blocks. ``readout``: the blocks after the exit, less the key and value projections
    that later tokens need. Attention's cost grows with the token's position. An upper bound in hindsight.

    Returns:
        DataArray (effect, phase), or (effect, phase, sample) with ``by="sample"``, in [0, 1], with coordinate
        ``n`` (tokens). NaN where n is 0.

    Raises:
        TraceError: the trace does not say what the model's parts cost (mixtures of experts).
    """
    one_of("by", by, ("all", "sample"))
    trace = validate(trace)
    void = resolve_voids(trace, voids)
    spared, whole = flops(trace, void)
    counted = by_phase(counted_tokens(trace), trace)
    pooled = ("token",) if by == "sample" else ("sample", "token")
    n = counted.sum(pooled)
    total = (whole * counted).sum(pooled)
    share = spared.where(counted, 0.0).sum(pooled) / total.where(total > 0)
    share = share.assign_coords(n=n)
    share.name = "skippable_compute"
    share.attrs = {
        "long_name": "share of FLOPs (head included) that a perfect forecast of the voids could spare",
        "units": "1",
        "realised_saving": 0.0,
        **made_from(trace, "skippable_compute", void.attrs, by=by),
    }
    last = ("effect", "phase", *(("sample",) if by == "sample" else ()))
    return share.transpose(*[dim for dim in share.dims if dim not in last], *last)


def flops(trace: xr.Dataset, voids: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Of each token: the FLOPs that knowing its voids beforehand could have spared, and those of its whole pass.

    Returns:
        DataArrays over (effect, ..., sample, token), as the mask, and over token. What invalid tokens have is no use.

    Raises:
        TraceError: the reasons of :func:`skippable_compute`.
    """
    cost = cost_of(trace)
    if cost is None:
        raise TraceError(f"the cost of {trace.attrs['model']}'s blocks is not known, so no bound can be given.")
    void = without_token_coords(voids)
    n_layers = trace.sizes["layer"]
    block = cost["block"] + cost["attend"] * (trace["token"] + 1)
    whole = n_layers * block + cost["head"]
    exit_layers = without_token_coords(token_usage(trace, void)["exit_depth"]) * n_layers
    spared = xr.concat(
        [(void.sum("layer") * block), (n_layers - exit_layers) * (block - cost["kv"])], dim="effect"
    ).assign_coords(effect=["bypass", "readout"])
    return spared, whole


def mean_exit_depth(trace: xr.Dataset, voids: xr.DataArray | None = None) -> xr.DataArray:
    """Mean exit depth by phase, over valid tokens: DataArray (phase) in [0, 1] with coordinate ``n``."""
    trace = validate(trace)
    found = token_usage(trace, voids)
    depth = without_token_coords(found["exit_depth"])
    groups = by_phase(trace["valid"], trace)
    n = groups.sum(("sample", "token"))
    mean = depth.where(groups).mean(("sample", "token")).assign_coords(n=n)
    mean.name = "exit_depth"
    mean.attrs = {"long_name": "mean exit depth", "units": "1", **made_from(trace, "mean_exit_depth", found.attrs)}
    return mean.astype(np.float64)


MEAN_EXIT_DEPTH = Measure(
    mean_exit_depth, "mean exit depth", "share of the layers up to the last active one", plot="", needs="trace"
)
SKIPPABLE_COMPUTE = Measure(
    skippable_compute, "skippable compute", "bound on the FLOPs that voids could save", plot="", needs="trace"
)
