"""Voids of a recorded trace, at any alpha, without another forward pass."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lacscope.dataset import TraceError, rule_of, validate
from lacscope.thresholds import lac_thresholds


def voids(trace: xr.Dataset, alpha: float | Sequence[float]) -> xr.DataArray:
    """Which (layer, token) pairs are voids under L2 Adaptive Computation.

    Args:
        trace: a trace. Under ``observe`` and ``readout`` its norms are the full model's, so every alpha is
            allowed (after a readout the *tokens* are still those of the traced alpha; the attribute
            ``tokens_chosen_by`` says so).
        alpha: scale of the threshold, >= 0; or several, which gives a new leading dimension ``alpha``.

    Returns:
        bool DataArray (sample, layer, token), True at voids; False where the token is not valid.

    Raises:
        TraceError: the trace is of a ``bypass`` run under another rule or alpha: its stream would have been
            another one.
        ValueError: a negative or non-finite alpha.

    Source: arXiv 2505.14467, section 3: void where d_l < alpha * (max_{k<l} d_k - min_{k<l} d_k).

    >>> from lacscope.testing import synthetic_trace
    >>> voids(synthetic_trace(), alpha=[0.0, 0.8]).dims
    ('alpha', 'sample', 'layer', 'token')
    """
    validate(trace)
    several = isinstance(alpha, (Sequence, np.ndarray))
    alphas = [_check_alpha(a) for a in (alpha if isinstance(alpha, (Sequence, np.ndarray)) else [alpha])]
    if several and not alphas:
        raise ValueError("alpha is an empty list; give at least one alpha.")
    for one in alphas:
        _check_replayable(trace, one)
    delta = trace["delta_norm"].transpose(..., "layer", "token")
    valid = trace["valid"]

    def at(one: float) -> xr.DataArray:
        void = delta.copy(data=delta.values < lac_thresholds(delta.values, one))
        return (void & valid).transpose(*delta.dims)

    found = (
        xr.concat([at(one) for one in alphas], dim="alpha").assign_coords(alpha=alphas) if several else at(alphas[0])
    )
    found.name = "void"
    chosen = (
        "the full model" if trace.attrs["effect"] == "observe" else f"{trace.attrs['effect']} {trace.attrs['rule']}"
    )
    found.attrs = {
        "long_name": "the layer is a void for the token",
        "units": "1",
        "model": trace.attrs["model"],
        "tokens_chosen_by": chosen,
    }
    if not several:
        found.attrs["alpha"] = alphas[0]
    return found


def _check_alpha(alpha: float) -> float:
    value = float(alpha)
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"alpha must be a finite number >= 0, got {alpha!r}. The paper uses 0.8.")
    return value


def _check_replayable(trace: xr.Dataset, alpha: float) -> None:
    if trace.attrs["effect"] != "bypass":
        return
    rule = rule_of(trace)
    same = isinstance(rule, dict) and rule["name"] == "L2AdaptiveComputation" and rule["alpha"] == alpha
    if not same or rule["unit"] != "block":  # type: ignore[index]
        raise TraceError(
            f"this trace was made under bypass with {trace.attrs['rule']}: at alpha={alpha} other layers would have "
            "been taken out and the stream would differ. Trace again with effect='bypass' and that alpha, or use "
            "an 'observe' trace, which serves every alpha."
        )


def resolve_voids(trace: xr.Dataset, mask: xr.DataArray | None) -> xr.DataArray:
    """The given mask, else the trace's own; TraceError where there is neither."""
    if mask is not None:
        return mask
    if "void" not in trace:
        raise TraceError(
            "the trace was made without a rule, so it has no voids of its own: pass voids=voids(trace, alpha=0.8)."
        )
    return trace["void"]
