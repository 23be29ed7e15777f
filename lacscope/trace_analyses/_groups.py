"""Tokens put into groups: by class, by position, by surprisal, or by whether their sample's answer was right.

Each function gives one name a token, in an order that tables and figures keep. A grouping of your own is a str
DataArray over (sample, token) with the trace's labels, "" for tokens in no group; its attribute ``groups``, a JSON
list, orders the names (without it they are sorted).
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xarray as xr
from jaxtyping import Bool

from lacscope.guards._arguments import real_numbers, whole_numbers
from lacscope.trace_analyses._phases import POSITION_EDGES, SURPRISAL_EDGES
from lacscope.trace_analyses._tokens import CLASSES, token_classes
from lacscope.traces._schema import TraceError, model_named, validate

ANSWERS = ("answer right", "answer wrong")


def groups_by_class(trace: xr.Dataset) -> xr.DataArray:
    """Groups of tokens of one class, from their text alone: see :mod:`lacscope.trace_analyses`.

    Returns:
        str DataArray (sample, token), "" where the token is not valid.

    Raises:
        TraceError: not a trace, or one whose tokens differ from rule to rule.

    >>> from lacscope.testing import synthetic_trace
    >>> groups_by_class(synthetic_trace()).values[0, 0]
    'position 0'
    """
    trace = _single(trace)
    classes = token_classes(trace)
    return _grouping(trace, classes.values, CLASSES, "token class")


def groups_by_position(trace: xr.Dataset, edges: Sequence[int] = POSITION_EDGES) -> xr.DataArray:
    """Groups of tokens that stand at like positions of their sample.

    Args:
        trace: a trace.
        edges: bin b holds the positions from ``edges[b - 1]`` to below ``edges[b]``; the first those below
            ``edges[0]``, the last those from ``edges[-1]`` on. Whole numbers above 0, ascending. The default's
            bins are at most half as wide as their positions are far.

    Returns:
        str DataArray (sample, token): "0", "1", "4-5", ..., "8192+"; "" where the token is not valid.

    Raises:
        TraceError: the reasons of :func:`groups_by_class`.
        ValueError: edges that are not ascending, or not above 0.

    >>> from lacscope.testing import synthetic_trace
    >>> groups_by_position(synthetic_trace(), (1, 4)).values[0, :6].tolist()
    ['0', '1-3', '1-3', '1-3', '4+', '4+']
    """
    trace = _single(trace)
    valid = trace["valid"].values
    edges = whole_numbers("edges", edges)
    _check_edges(edges)
    starts = (0, *edges)
    names = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(starts)] + [f"{starts[-1]}+"]
    bins = np.searchsorted(edges, trace["token"].values, side="right")
    return _grouping(trace, np.where(valid, np.array(names, dtype=object)[bins], ""), names, "position of the token")


def groups_by_surprisal(trace: xr.Dataset, edges: Sequence[float | int] = SURPRISAL_EDGES) -> xr.DataArray:
    """Groups of tokens of like surprisal: how unlikely the model found the token that it now reads.

    Args:
        trace: a trace with ``measures=("surprisal",)``.
        edges: the edges of the bins in nats, ascending, above 0; bins as in :func:`groups_by_position`.

    Returns:
        str DataArray (sample, token): "< 0.01", "0.01 to 0.1", ..., ">= 12"; "" where the token is not valid or
        has no surprisal, as the first of a sample.

    Raises:
        TraceError: the reasons of :func:`groups_by_class`, or no surprisal in the trace.
        ValueError: edges that are not ascending, or not above 0.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> trace["surprisal"] = trace["valid"] * 0.3
    >>> groups_by_surprisal(trace, (0.1, 0.5)).values[0, 0]
    '0.1 to 0.5'
    """
    trace = _single(trace)
    valid = trace["valid"].values
    if "surprisal" not in trace:
        raise TraceError("the trace has no surprisal to group tokens by: trace again with measures=('surprisal',).")
    edges = real_numbers("edges", edges)
    _check_edges(edges)
    inner = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    names = [f"< {edges[0]:g}", *inner, f">= {edges[-1]:g}"]
    surprisal = trace["surprisal"].transpose("sample", "token").values
    bins = np.searchsorted(edges, surprisal, side="right")
    known = valid & ~np.isnan(surprisal)
    # NaN sorts last, and is masked.
    labels = np.where(known, np.array(names, dtype=object)[bins], "")
    return _grouping(trace, labels, names, "surprisal of the token read (nats)")


def groups_by_correct(trace: xr.Dataset, correct: Sequence[bool] | Bool[np.ndarray, " sample"]) -> xr.DataArray:
    """Groups of all tokens of the samples whose answer was right, and of those whose answer was wrong.

    Right and wrong answers are to different questions, of other lengths and other words: a difference between the
    two groups is no effect of being right.

    Args:
        trace: a trace.
        correct: whether each sample's answer was right, in the trace's order of samples.

    Returns:
        str DataArray (sample, token): "answer right" or "answer wrong"; "" where the token is not valid.

    Raises:
        TraceError: the reasons of :func:`groups_by_class`.
        ValueError: another number of values than samples, or values that are not bool.

    >>> from lacscope.testing import synthetic_trace
    >>> groups_by_correct(synthetic_trace(n_samples=2), [True, False]).values[:, 0].tolist()
    ['answer right', 'answer wrong']
    """
    trace = _single(trace)
    valid = trace["valid"].values
    right = np.asarray(correct)
    if right.shape != (len(valid),) or right.dtype != bool:
        raise ValueError(
            f"correct must be {len(valid)} bools, one for each sample of the trace; got {right.dtype} of shape "
            f"{right.shape}."
        )
    names = np.array(ANSWERS, dtype=object)[np.where(right, 0, 1)]
    return _grouping(trace, np.where(valid, names[:, None], ""), ANSWERS, "whether the sample's answer was right")


def group_names(groups: xr.DataArray) -> list[str]:
    """Names of a grouping's groups, in its order; ValueError where a token has a name that the order lacks."""
    given = sorted({str(name) for name in np.unique(groups.values.astype(str))} - {""})
    if "groups" not in groups.attrs:
        return given
    names = [str(name) for name in json.loads(groups.attrs["groups"])]
    unlisted = [name for name in given if name not in names]
    if unlisted:
        raise ValueError(f"a token's group is {unlisted[0]!r}, and the attribute 'groups' lists {', '.join(names)}.")
    return names


def _single(trace: xr.Dataset) -> xr.Dataset:
    """The trace, if its tokens are the same under all its rules."""
    trace = validate(trace)
    if "rule" in trace["valid"].dims:
        raise TraceError("each rule of this trace has tokens of its own: choose one with trace.sel(rule=...).")
    return trace


def _check_edges(edges: Sequence[float | int]) -> None:
    if len(edges) == 0 or edges[0] <= 0 or any(b <= a for a, b in pairwise(edges)):
        raise ValueError(f"edges must be ascending numbers above 0, got {list(edges)}.")


def _grouping(trace: xr.Dataset, labels: np.ndarray, names: Sequence[str], by: str) -> xr.DataArray:
    groups = trace["valid"].transpose("sample", "token").copy(data=labels.astype(object))
    groups.name = "group"
    groups.attrs = {"long_name": by, "groups": json.dumps(list(names)), **model_named(trace.attrs)}
    return groups
