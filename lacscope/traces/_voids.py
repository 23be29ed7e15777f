"""Voids of a recorded trace, at any alpha, without another forward pass."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lacscope.traces._lac import check_alpha, spread_before
from lacscope.traces._masks import (
    ACTIVE,
    MASK_NAMES,
    STREAM_KEY,
    VOID,
    VoidMask,
    flags_of,
    mask_of,
    stream_key,
    void_mask,
)
from lacscope.traces._normalised import TOKEN_LABELS, label_values
from lacscope.traces._schema import TOKEN_COORDS, TraceError, model_named, require_first_layers, rule_of, validate

_DIMS = ("sample", "layer", "token")
_LAC = "L2AdaptiveComputation"


def voids(trace: xr.Dataset, alpha: float | int | Sequence[float | int] | np.ndarray = 0.8) -> VoidMask:
    """Which (layer, token) pairs are voids under L2 Adaptive Computation.

    Args:
        trace: a trace. Under ``observe`` and ``readout`` its norms are the full model's, so every alpha is
            allowed (after a readout the *tokens* are still those of the traced alpha; the attribute
            ``tokens_chosen_by`` says so). Its first layers alone will do.
        alpha: scale of the threshold, >= 0; or several, which gives a new leading dimension ``alpha``.

    Returns:
        Mask over (sample, layer, token), float32: 1 at voids, 0 where active, NaN where the token is not valid, so that
        ``(~void).mean()`` is usage over any dimensions (see :class:`VoidMask`). Attributes ``alpha`` (of one), ``rule``
        and ``effect``. Of one phase: ``void.where(void.phase == "decode")`` (``phase`` is a label of tokens, no
        dimension, so ``sel`` does not know it). Saved by ``void.to_netcdf(path)``.

    Raises:
        TraceError: the trace is of a ``bypass`` run under another rule or alpha: its stream would have been
            another one; or it lacks layers before the others.
        ValueError: a negative or non-finite alpha, one given twice, or an array of more than one dimension.

    Source: arXiv 2505.14467, section 3: void where d_l < alpha * (max_{k<l} d_k - min_{k<l} d_k).

    >>> from lacscope.testing import synthetic_trace
    >>> voids(synthetic_trace(), alpha=[0.0, 0.8]).dims
    ('alpha', 'sample', 'layer', 'token')
    """
    whole = validate(trace)
    if np.ndim(alpha) > 1:
        raise ValueError(f"alpha must be a number or a list of numbers, got an array of shape {np.shape(alpha)}.")
    several = np.ndim(alpha) > 0
    alphas = [check_alpha(a) for a in np.asarray(alpha, dtype=object).flat]
    if several and not alphas:
        raise ValueError("alpha is an empty list; give at least one alpha.")
    twice = [one for place, one in enumerate(alphas) if one in alphas[:place]]
    if twice:
        raise ValueError(f"alpha has {twice[0]:g} twice; give one alpha, or each once.")
    for one in alphas:
        _check_replayable(whole, one)
    require_first_layers(
        whole, "a layer is a void by what the layers before it added, so none of those may lack", all_of_them=False
    )
    delta = whole["delta_norm"].transpose(..., "layer", "token")
    values = np.full((len(alphas), *delta.shape), np.nan, dtype=np.float32)
    valid = np.broadcast_to(whole["valid"].transpose(..., "token").values[..., None, :], delta.shape)
    measured, spread = delta.values[valid], spread_before(delta.values)[valid]
    for found, one in zip(values, alphas, strict=True):
        found[valid] = measured < measured.dtype.type(one) * spread
    # Shallow: a deep copy would copy the text of every token.
    void = delta.copy(deep=False, data=values[0])
    if several:
        void = void.expand_dims(alpha=alphas).copy(deep=False, data=values)
    rule = {"name": _LAC, "alpha": alphas if several else alphas[0], "unit": "block"}
    own: dict[str, str | int | float] = {
        "rule": json.dumps(rule, sort_keys=True),
        "tokens_chosen_by": _chosen_by(whole),
    }
    own |= {} if several else {"alpha": alphas[0]}
    return _as_selected(trace, labelled(void, whole, own))


def recorded_voids(trace: xr.Dataset) -> VoidMask:
    """The voids that the trace's own rule found while it ran, in the form of :func:`voids`.

    ``trace["void"]`` holds the same numbers, 1, 0 and NaN on padding, as a plain array: its ``mean`` is right too, but
    ``~``, ``==`` and ``sum`` over layers know nothing of padding.

    Raises:
        TraceError: not a trace, or one made without a rule.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> bool((recorded_voids(trace) == voids(trace, 0.8)).all())
    True
    """
    whole = validate(trace)
    rule = rule_of(whole) if "void" in whole else None
    own: dict[str, str | int | float] = {"rule": whole.attrs["rule"], "tokens_chosen_by": _chosen_by(whole)}
    if isinstance(rule, dict) and "alpha" in rule:
        own["alpha"] = float(rule["alpha"])
    return _as_selected(trace, labelled(_recorded(whole), whole, own))


def _chosen_by(trace: xr.Dataset) -> str:
    effect = trace.attrs["effect"]
    return "the full model" if effect == "observe" else f"{effect} {trace.attrs['rule']}"


def _recorded(trace: xr.Dataset) -> xr.DataArray:
    if "void" not in trace:
        raise TraceError(
            "the trace was made without a rule, so it has no voids of its own: pass voids=voids(trace, alpha=0.8)."
        )
    return trace["void"]


def labelled(void: xr.DataArray, trace: xr.Dataset, attrs: dict[str, str | int | float]) -> VoidMask:
    """A mask of this trace, bool or with NaN on padding, as it is handed out: it knows its trace, and says its rule."""
    mask = mask_of(void, trace["valid"]) if void.dtype == bool else void_mask(void)
    mask = mask.assign_coords({STREAM_KEY: _key_of(trace)})
    mask.name = VOID
    made = {"long_name": MASK_NAMES[VOID], "units": "1", **model_named(trace.attrs)}
    mask.attrs = {**made, "rule": "null", "effect": trace.attrs["effect"], **attrs}
    return mask


def _key_of(trace: xr.Dataset) -> xr.DataArray:
    return stream_key(trace["delta_norm"], trace["valid"])


def _as_selected(trace: xr.Dataset, mask: VoidMask) -> VoidMask:
    """Of one sample selected as ``isel(sample=0)``, the mask without that dimension, as the trace has none."""
    return mask if "sample" in trace.dims else mask.isel(sample=0)


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
    """The given mask, else the trace's own, as plain bool: True at voids, False also where the token is not valid.

    Raises TraceError where there is neither, or the mask is another trace's.
    """
    given = _recorded(trace) if mask is None else _checked(trace, mask)
    plain = flags_of(given).drop_vars((STREAM_KEY, *TOKEN_COORDS), errors="ignore")
    found = (plain & trace["valid"]).transpose(*given.dims)
    found.attrs = dict(given.attrs)
    return found.rename(VOID)


def _checked(trace: xr.Dataset, mask: xr.DataArray) -> xr.DataArray:
    """The mask, if it is one of this trace's: xarray would silently keep what two labellings share."""
    if not isinstance(mask, xr.DataArray):
        raise TraceError(f"voids must be a mask made by voids(trace, alpha), got {type(mask).__name__}.")
    if mask.name == ACTIVE:
        raise TraceError("this mask is 1 where a layer is active: give the voids themselves, not ~voids.")
    try:
        flags_of(mask)
    except TypeError as error:
        raise TraceError(f"voids must be a mask, 1 or True at voids, 0 or False elsewhere; {error}") from error
    if "sample" not in mask.dims and "sample" in mask.coords:
        mask = _with_sample(mask)
    for dim in _DIMS:
        if dim not in mask.dims or not np.array_equal(mask[dim].values, trace[dim].values):
            raise _foreign(
                f"their '{dim}' has {mask.sizes.get(dim, 0)} entries or other labels, the trace's has "
                f"{trace.sizes[dim]}"
            )
    for name in ("token_id", "valid"):
        if name in mask.coords and not _same(mask[name], trace[name], TOKEN_LABELS[name]):
            raise _foreign(f"their '{name}' differs from the trace's")
    whole = len(trace["layer"]) == trace.attrs["n_layers"]
    if whole and STREAM_KEY in mask.coords and not _same(mask[STREAM_KEY], _key_of(trace), 0):
        raise _foreign("they were made of other norms of the same tokens")
    return mask


def _foreign(why: str) -> TraceError:
    return TraceError(f"the voids are of another trace: {why}. Make them with voids(trace, alpha) of this very trace.")


def _same(own: xr.DataArray, traces: xr.DataArray, fill: Any) -> bool:
    """Whether a mask's labels are the trace's, in whatever type and order of dimensions xarray has left them."""
    one, other = xr.broadcast(xr.DataArray(own.variable), xr.DataArray(traces.variable))
    return np.array_equal(label_values(one.transpose(*other.dims).values, fill), other.values)


def _with_sample(mask: xr.DataArray) -> xr.DataArray:
    """A mask of one sample with that dimension, its labels of tokens too."""
    labels = [name for name in (*TOKEN_COORDS, STREAM_KEY) if name in mask.coords]
    wide = xr.DataArray(mask).expand_dims("sample")
    return wide.assign_coords(
        {name: mask[name].variable.set_dims({"sample": 1, **dict(mask[name].sizes)}) for name in labels}
    )
