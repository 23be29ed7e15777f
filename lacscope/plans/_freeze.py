"""The least used layers of a trace, as a plan that skips them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from lacscope.guards._arguments import is_real
from lacscope.plans._plan import Plan
from lacscope.rules._scope import layer_indices
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._schema import require_first_layers, validate
from lacscope.traces._voids import voids


def freeze(
    trace: xr.Dataset,
    *,
    alpha: float | int,
    phase: Literal["prefill", "decode", "all"] = "prefill",
    skip: int | None = None,
    min_usage: float | int | None = None,
    protect: Sequence[int] = (0, -1),
) -> Plan:
    """The plan that skips the layers which a prompt, or a data set, used least: wall-clock speed out of voids.

    Args:
        trace: a trace of the model as it is, ``observe`` or ``readout``.
        alpha: scale of the threshold at which usage is counted.
        phase: the phase whose tokens count; all samples are pooled.
        skip: the number of layers to skip, the least used first; of equals the deeper.
        min_usage: the usage (0 to 1) below which every layer is skipped, instead of ``skip``.
        protect: layers never skipped; negative ones count from the last.

    Raises:
        ValueError: a trace made under a plan or with effect ``bypass``, not one of ``skip`` and ``min_usage``, more
            layers than there are unprotected, or a phase without tokens.
        TraceError: a trace that has no voids at this alpha (see :func:`lacscope.voids`).

    >>> from lacscope.testing import synthetic_trace
    >>> freeze(synthetic_trace(), alpha=0.8, skip=4).describe()
    '0-5, 10-11'
    """
    if (skip is None) == (min_usage is None):
        raise ValueError(f"give skip= (how many) or min_usage= (a share), one of the two; got {skip=}, {min_usage=}.")
    if phase not in ("prefill", "decode", "all"):
        raise ValueError(f"phase must be 'prefill', 'decode' or 'all', got {phase!r}.")
    if np.ndim(alpha) > 0:
        raise ValueError(f"alpha must be one number, got {alpha!r}: usage at each alpha makes a plan of its own.")
    trace = validate(trace)
    require_first_layers(trace, "a plan is made of all of them")
    if "plan" in trace.attrs:
        raise ValueError(
            f"the trace was made under the plan {trace.attrs['plan']}: freeze a trace of the model as it is."
        )
    if trace.attrs.get("effect") == "bypass":
        raise ValueError(
            "the trace was made with effect='bypass', so its voids are those of a model whose layers were skipped "
            "already: freeze a trace of the model as it is (effect 'observe' or 'readout')."
        )
    if "rule" in trace["delta_norm"].dims:
        raise ValueError(
            f"the trace has {trace.sizes['rule']} rules, each with norms of its own: freeze one, with .isel(rule=0)."
        )
    usage = layer_usage(trace, voids(trace, alpha), "all" if phase == "all" else "phase")
    share = (usage if phase == "all" else usage.sel(phase=phase)).values
    if np.isnan(share).any():
        raise ValueError(
            f"the trace has no {phase} tokens to count usage over; trace with max_new_tokens= or take another phase."
        )
    n_layers = len(share)
    protect = layer_indices(protect, "protect")
    outside = [layer for layer in protect if not -n_layers <= layer < n_layers]
    if outside:
        raise ValueError(f"protect has layers {outside}; the trace has layers 0 to {n_layers - 1}.")
    kept = {layer % n_layers for layer in protect}
    ranked = sorted(set(range(n_layers)) - kept, key=lambda layer: (share[layer], -layer))
    if min_usage is not None:
        if not is_real(min_usage) or not 0 <= min_usage <= 1:
            raise ValueError(f"min_usage is a share of tokens, 0 to 1; got {min_usage!r:.80}.")
        return Plan.skip(n_layers, [layer for layer in ranked if share[layer] < min_usage])
    assert skip is not None
    if isinstance(skip, bool) or not hasattr(skip, "__index__"):
        raise ValueError(f"skip is a number of layers (int), got {skip!r}.")
    if not 0 <= skip <= len(ranked):
        raise ValueError(f"skip must be 0 to {len(ranked)} ({n_layers} layers, {len(kept)} protected); got {skip}.")
    return Plan.skip(n_layers, ranked[:skip])
