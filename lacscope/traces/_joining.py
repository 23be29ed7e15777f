"""Traces put together: rules beside each other, samples one after the other."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lacscope.traces._normalised import TOKEN_LABELS
from lacscope.traces._schema import TOKEN_COORDS, TraceError, validate

_FILLS = {**TOKEN_LABELS, "token_class": ""}


def stack_rules(traces: Sequence[xr.Dataset], rules: Sequence[str]) -> xr.Dataset:
    """Traces of the same samples under several rules as one, with a leading dimension ``rule``.

    One trace with a ``rule`` dimension (many rules observed in one pass) is returned as it is.
    """
    if len(traces) == 1:
        only = traces[0]
        if "void" in only and "rule" not in only.dims:
            only["void"] = only["void"].expand_dims(rule=np.array(rules, dtype=object))
        return only
    stacked = xr.concat(_padded(traces), dim="rule", data_vars="all")
    stacked = stacked.assign_coords(rule=np.array(rules, dtype=object))
    stacked.attrs = {**traces[0].attrs, "rule": "[" + ", ".join(rules) + "]"}
    return validate(stacked.set_coords(list(TOKEN_COORDS)))


def join_traces(traces: Sequence[xr.Dataset]) -> xr.Dataset:
    """Traces of other samples of one model as one, padded to the longest.

    Args:
        traces: traces made alike: of one model, with the same rule, effect and variables. Variables of your own are
            joined too, over (sample, ...); past a sample's end they are NaN.

    Raises:
        TraceError: no traces, one that is none, or traces that differ in model, rule, effect, layers or variables, or
            share a sample's number.

    >>> from lacscope.testing import synthetic_trace
    >>> one, other = synthetic_trace(n_samples=2), synthetic_trace(n_samples=1).assign_coords(sample=[2])
    >>> join_traces([one, other])["sample"].values.tolist()
    [0, 1, 2]
    """
    if not traces:
        raise TraceError("there are no traces to join: give at least one.")
    traces = [validate(trace) for trace in traces]
    first = traces[0]
    for number, trace in enumerate(traces):
        for key in ("model", "rule", "effect", "n_layers"):
            if trace.attrs[key] != first.attrs[key]:
                raise TraceError(
                    f"trace {number} has {key} {trace.attrs[key]!r}, the first {first.attrs[key]!r}: join traces that "
                    "were made alike."
                )
        if not np.array_equal(trace["layer"].values, first["layer"].values):
            raise TraceError(f"trace {number} and the first hold other layers: join whole traces, then select layers.")
        if set(trace.data_vars) != set(first.data_vars):
            differ = ", ".join(sorted(map(str, set(trace.data_vars) ^ set(first.data_vars))))
            raise TraceError(f"trace {number} and the first differ in their variables: {differ}.")
    samples = np.concatenate([trace["sample"].values for trace in traces])
    if len(set(samples.tolist())) < len(samples):
        raise TraceError("two traces have a sample of one number: give trace(..., sample_ids=...) other numbers.")
    joined = xr.concat(_padded(traces), dim="sample", data_vars="minimal", combine_attrs="override")
    return validate(joined.set_coords(list(TOKEN_COORDS)))


def _padded(traces: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Each with as many tokens as the longest, its labels of tokens as variables."""
    n_tokens = max(trace.sizes["token"] for trace in traces)
    padded = []
    for trace in traces:
        flat = trace.reset_coords(list(TOKEN_COORDS))
        fill = {str(name): _FILLS.get(str(name), np.nan) for name in flat.data_vars}
        padded.append(flat.reindex(token=np.arange(n_tokens), fill_value=fill))
    return padded
