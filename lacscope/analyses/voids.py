"""Voids of a recorded trace, at any alpha, without another forward pass."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from lacscope.dataset import TraceError, model_named, rule_of, validate
from lacscope.thresholds import check_alpha, lac_thresholds


def voids(trace: xr.Dataset, alpha: float | int | Sequence[float | int] | np.ndarray) -> xr.DataArray:
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
    several = np.ndim(alpha) > 0
    alphas = [check_alpha(a) for a in np.asarray(alpha, dtype=object).flat]
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
        **model_named(trace.attrs),
        "tokens_chosen_by": chosen,
    }
    if not several:
        found.attrs["alpha"] = alphas[0]
    return found


def _check_replayable(trace: xr.Dataset, alpha: float) -> None:
    plan = json.loads(str(trace.attrs.get("plan", "{}")))
    if plan.get("idle"):
        raise TraceError(
            f"this trace was made under the plan [{plan['plan']}], which skips layers {plan['idle']}: they have no "
            "part in the other layers' history. Use the voids that the trace recorded (trace with rule=), or a trace "
            "without a plan."
        )
    if trace.attrs["effect"] != "bypass":
        return
    if rule_of(trace) != {"name": "L2AdaptiveComputation", "alpha": alpha, "unit": "block"}:
        raise TraceError(
            f"this trace was made under bypass with {trace.attrs['rule']}: at alpha={alpha} other layers would have "
            "been taken out and the stream would differ. Trace again with effect='bypass' and that alpha, or use "
            "an 'observe' trace, which serves every alpha."
        )


def resolve_voids(trace: xr.Dataset, mask: xr.DataArray | None) -> xr.DataArray:
    """The given mask, else the trace's own; TraceError where there is neither, or the mask is another trace's."""
    if mask is not None:
        return _check_mask(trace, mask)
    if "void" not in trace:
        raise TraceError(
            "the trace was made without a rule, so it has no voids of its own: pass voids=voids(trace, alpha=0.8)."
        )
    return trace["void"]


def _check_mask(trace: xr.Dataset, mask: xr.DataArray) -> xr.DataArray:
    """The mask, if it is one of this trace's: xarray would silently keep what two labellings share."""
    if mask.dtype != bool:
        raise TraceError(f"voids must be a bool mask, True at voids; got dtype {mask.dtype}.")
    for dim in ("sample", "layer", "token"):
        if dim not in mask.dims or not np.array_equal(mask[dim].values, trace[dim].values):
            raise TraceError(
                f"the voids are of another trace: their '{dim}' has {mask.sizes.get(dim, 0)} entries or other labels, "
                f"the trace's has {trace.sizes[dim]}. Make them with voids(trace, alpha) of this very trace."
            )
    return mask
