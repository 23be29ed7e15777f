"""Control masks that are the same for every token: fixed layers, and the mask of one typical norm curve."""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from lacscope.reproduction.controls._drawn import check_single
from lacscope.trace_analyses._usage import counted_tokens
from lacscope.traces._lac import check_alpha, lac_thresholds
from lacscope.traces._schema import TraceError, require_first_layers, validate


def lowest_usage(usage: xr.DataArray, n_layers_void: int) -> tuple[int, ...]:
    """The layers of lowest usage, in rising order: a fixed mask for ``bypass``. Of equals, the deeper one.

    Args:
        usage: a usage over ``layer`` alone, such as ``layer_usage(trace, by="all")``.
        n_layers_void: the number of layers, 0 .. L.

    Raises:
        ValueError: other dimensions, usage that is NaN, or a number of layers that the model does not have.

    >>> lowest_usage(xr.DataArray([1.0, 0.2, 0.5, 0.2], dims="layer"), 1)
    (3,)
    """
    if usage.dims != ("layer",):
        raise ValueError(
            f"usage must have the one dimension 'layer', got {usage.dims}: choose one phase and alpha with "
            "usage.sel(...), or take layer_usage(trace, by='all')."
        )
    if np.isnan(usage.values).any():
        raise ValueError("usage is NaN, so no layer is the lowest: it was taken over no tokens.")
    _check_count(n_layers_void, len(usage))
    deepest_first = np.arange(len(usage))[::-1]
    order = deepest_first[np.argsort(usage.values[::-1], kind="stable")]
    return tuple(sorted(int(layer) for layer in order[:n_layers_void]))


def last_layers(n_layers: int, n_void: int) -> tuple[int, ...]:
    """The last ``n_void`` of ``n_layers`` layers: a fixed mask for ``bypass``.

    Raises ValueError for a number of layers that the model does not have.

    >>> last_layers(12, 3)
    (9, 10, 11)
    """
    _check_count(n_void, n_layers)
    return tuple(range(n_layers - n_void, n_layers))


def norm_null(curve: Float[np.ndarray, " boundary"], alpha: float | int) -> Bool[np.ndarray, " layer"]:
    """The norm-only null: the rule of L2 Adaptive Computation on one norm curve, the same for every token.

    What usage and score have beyond it is all that the rule owes to the token; the rest is how norms grow.

    Args:
        curve: norms n_0 .. n_L, in stream units; see :func:`median_norm_curve`.
        alpha: scale of the threshold, >= 0.

    Returns:
        One bool per layer, True at voids.

    Raises:
        ValueError: a curve with fewer than two norms, or one that is not finite; a bad alpha.

    >>> norm_null(np.array([10.0, 30.0, 32.0, 31.0, 60.0]), alpha=0.8)
    array([False, False,  True, False])
    """
    if len(curve) < 2 or not np.isfinite(curve).all():
        raise ValueError(f"curve must be the finite norms n_0 .. n_L of at least one layer, got {curve}.")
    delta = np.diff(curve)[:, None]
    return (delta < lac_thresholds(delta, check_alpha(alpha)))[:, 0]


def median_norm_curve(trace: xr.Dataset) -> Float[np.ndarray, " boundary"]:
    """Median norm n_0 .. n_L over the valid tokens that are no sinks: L+1 float32 values, in stream units.

    Raises:
        TraceError: the trace has no such token, or a dimension ``rule``.

    >>> from lacscope.testing import synthetic_trace
    >>> median_norm_curve(synthetic_trace(n_layers=12)).shape
    (13,)
    """
    trace = validate(trace)
    check_single(trace.dims)
    require_first_layers(trace, "the norm curve runs over all of them")
    counted = counted_tokens(trace, "exclude").values
    if not counted.any():
        raise TraceError("every token of the trace is a sink, so it has no typical norm: trace longer prompts.")
    entering = trace["resid_pre_norm"].transpose("layer", "sample", "token").values[:1]
    leaving = trace["resid_post_norm"].transpose("layer", "sample", "token").values
    return np.median(np.concatenate([entering, leaving])[:, counted], axis=-1)


def _check_count(n_void: int, n_layers: int) -> None:
    if not 0 <= n_void <= n_layers:
        raise ValueError(f"the model has {n_layers} layers, so 0 to {n_layers} of them can be voids; got {n_void}.")
