"""Norm and change of norm by layer and phase, sinks told apart."""

import warnings

import xarray as xr

from lacscope.analyses.usage import by_phase, without_token_coords
from lacscope.dataset import validate

QUANTITIES = ("resid_post_norm", "delta_norm")


def norm_profile(trace: xr.Dataset) -> xr.Dataset:
    """Statistics of ``resid_post_norm`` and ``delta_norm`` by layer and phase.

    Token 0 and other sinks carry norms a hundred times the rest's, so a plain mean shows them and little
    else: quartiles run over valid tokens that are not sinks, plain means over all valid tokens (as the paper
    has them), with the share of each mean that the sinks make up.

    Returns:
        Dataset over (quantity, phase, layer): ``q25``, ``median``, ``q75`` (non-sink tokens), ``mean`` (all
        valid tokens), ``sink_share`` (sum of |value| over sinks, relative to all; in [0, 1]), and over phase
        ``n`` and ``n_sinks``.
    """
    validate(trace)
    stacked = xr.concat([without_token_coords(trace[name]) for name in QUANTITIES], dim="quantity")
    values = stacked.assign_coords(quantity=list(QUANTITIES))
    valid = by_phase(trace["valid"], trace)
    is_sink = without_token_coords(trace["sink"])
    plain, sinks = valid & ~is_sink, valid & is_sink
    over = ("sample", "token")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice|Mean of empty slice")
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
    found.attrs = {"model": trace.attrs["model"], "n_samples": trace.sizes["sample"]}
    return found
