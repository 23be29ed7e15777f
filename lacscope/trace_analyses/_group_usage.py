"""Usage and effects by group of tokens, with bootstrap intervals over samples. Streams and tokens: no model.

Every number is a ratio of two sums over the group's tokens, pooled over samples. Its interval resamples samples, not
tokens: tokens of one text resemble each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from lacscope.guards._arguments import made_by, one_of
from lacscope.trace_analyses._bootstrap import bootstrap_ratios, check_bootstrap
from lacscope.trace_analyses._depth import flops
from lacscope.trace_analyses._groups import group_names
from lacscope.trace_analyses._tokens import POSITION_0
from lacscope.trace_analyses._usage import token_usage, without_token_coords
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import result_attrs
from lacscope.traces._schema import TOKENWISE_MEASURES, TraceError, cost_of, made_from, rule_of, validate
from lacscope.traces._voids import resolve_voids

GroupedSinks = Literal["apart", "include", "exclude"]
OTHER_SINKS = "other sinks"
_LAYERWISE = ("delta_norm", "update_norm", "attn_out_norm", "mlp_out_norm", "cos_pre_post")
_SAID = {"apart": "sinks in groups of their own", "include": "sinks among the others", "exclude": "sinks left out"}
_READ = {"all": "all tokens read", "prefill": "prompt tokens", "decode": "answer tokens"}


def usage_by_group(
    trace: xr.Dataset,
    groups: xr.DataArray,
    voids: xr.DataArray | None = None,
    *,
    seed: int,
    sinks: GroupedSinks = "apart",
    phase: Literal["all", "prefill", "decode"] = "all",
    values: xr.Dataset | None = None,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    data: str = "",
) -> xr.Dataset:
    """How much of the model each group of tokens uses, and what its layers do for it.

    Args:
        trace: a trace.
        groups: a grouping of its tokens, such as ``groups_by_class(trace)`` (:mod:`lacscope.trace_analyses`).
        voids: a mask, with or without a dimension ``alpha``; default: the trace's own.
        seed: the seed of the bootstrap, >= 0.
        sinks: ``"apart"``: position 0 and the other sinks leave their groups for two of their own, ``"position 0"``
            and ``"other sinks"``; ``"include"``: they stay; ``"exclude"``: they are in no group. A few sinks set the
            mean norms of a group that they stay in.
        phase: the phase whose tokens count.
        values: further values of each token, over (sample, token) or (sample, layer, token), such as
            ``token_shift(full, changed)``; NaN where a token has none.
        n_bootstrap: resamples of the samples.
        level: the level of the intervals, in (0, 1).
        data: the name of the prompts, for figures.

    Returns:
        Dataset over ``group``, those with tokens alone, in the grouping's order. Means over the group's tokens, each
        ``x`` with its interval ``x_low`` .. ``x_high`` (NaN with fewer than two samples):

        - ``usage``: share of (layer, token) pairs that are active, and ``usage_by_layer`` (group, layer);
        - ``exit_depth``: (last active layer + 1) / L;
        - ``skippable_compute`` (effect, group): share of the group's FLOPs that knowing its voids beforehand could
          have spared, at most (see :func:`lacscope.skippable_compute`); left out where the model's cost is unknown;
        - (group, layer) ``delta_norm``, ``update_norm``, and of the measures ``attn_out_norm``, ``mlp_out_norm``,
          ``cos_pre_post`` those that the trace has;
        - (group) ``surprisal``, ``rank``, ``entropy`` where the trace has them, and all of ``values``; each with
          ``x_n``, the number of tokens that have one;
        - ``n`` (tokens) and ``n_samples`` of each group.

    Drawn by :func:`lacscope.plots.plot_usage_by_group`.

    Raises:
        TraceError: voids of another trace; a dimension ``rule``.
        ValueError: a grouping or values with other dimensions or labels, a value's name that is taken, no token in
            any group, an option out of range.

    >>> from lacscope.trace_analyses._groups import groups_by_class
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> found = usage_by_group(trace, groups_by_class(trace), seed=0, n_bootstrap=50)
    >>> float(found["usage"].sel(group="position 0")) == float(found["usage_by_layer"].sel(group="position 0").mean())
    True
    """
    trace = validate(trace)
    mask = resolve_voids(trace, voids)
    if "rule" in (*trace.dims, *mask.dims):
        raise TraceError("the trace has a dimension 'rule': take each rule on its own, with trace.sel(rule=...).")
    one_of("sinks", sinks, _SAID)
    one_of("phase", phase, _READ)
    check_bootstrap(seed, n_bootstrap, level)
    made_by("groups", groups, xr.DataArray, "groups_by_class(trace)")
    tokens = _Grouped.of(trace, groups, sinks, phase)
    draw = partial(bootstrap_ratios, seed=seed, n=n_bootstrap, confidence=level)
    found: dict[str, xr.DataArray] = {}
    for name, (above, below, own_n) in _quantities(trace, mask, _aligned(trace, values)).items():
        found |= _ratios(name, above, below, tokens, draw, level)
        if own_n:
            found[f"{name}_n"] = _counts(tokens.sums(below.notnull() & (below > 0)), tokens.names, "tokens")
    counted = tokens.sums(trace["valid"])
    found["n"] = _counts(counted, tokens.names, "tokens")
    found["n_samples"] = _counts(counted > 0, tokens.names, "samples")
    settings = {"sinks": sinks, "phase": phase, "seed": seed, "n_bootstrap": n_bootstrap, "level": level}
    resting_on = result_attrs(
        "usage_by_group",
        made_from(trace, "usage_by_group", mask.attrs),
        preset=None,
        settings=settings,
        positions=f"{_READ[phase]}, {_SAID[sinks]}",
        aggregation=f"tokens pooled over samples, {100 * level:g} % intervals over samples",
        n_samples=trace.sizes["sample"],
        data=data,
    )
    own = {"grouped_by": groups.attrs.get("long_name", "group"), "n_layers": trace.sizes["layer"]}
    alpha = _alpha_of(trace) if voids is None else mask.attrs.get("alpha")
    at = {} if alpha is None or "alpha" in mask.dims else {"alpha": float(alpha)}
    return xr.Dataset(found, attrs={**resting_on, **own, **at})


def _alpha_of(trace: xr.Dataset) -> float | None:
    """The alpha of the trace's own voids, None where another rule made them."""
    rule = rule_of(trace)
    return rule.get("alpha") if isinstance(rule, dict) else None


@dataclass(frozen=True)
class _Grouped:
    """Which group each token is in: ``code`` indexes ``names``, -1 for tokens in none."""

    names: list[str]
    code: Int[np.ndarray, "sample token"]

    @classmethod
    def of(cls, trace: xr.Dataset, groups: xr.DataArray, sinks: GroupedSinks, phase: str) -> "_Grouped":
        _check_labels(trace, groups, "groups", "token")
        labels = groups.transpose("sample", "token").values.astype(object)
        names = group_names(groups)
        sink = trace["sink"].transpose("sample", "token").values
        if sinks == "apart":
            first = np.broadcast_to(trace["token"].values == 0, sink.shape)
            labels = np.where(sink & first, POSITION_0, np.where(sink, OTHER_SINKS, labels))
            names = [*dict.fromkeys([POSITION_0, *names, OTHER_SINKS])]
        elif sinks == "exclude":
            labels = np.where(sink, "", labels)
        counted = trace["valid"].transpose("sample", "token").values
        if phase != "all":
            counted = counted & (trace["phase"].transpose("sample", "token").values == phase)
        labels = np.where(counted, labels, "")
        held = [name for name in names if (labels == name).any()]
        if not held:
            raise ValueError(f"no token is in a group: {_READ[phase]}, {_SAID[sinks]}, groups {', '.join(names)}.")
        code = np.full(labels.shape, -1)
        for index, name in enumerate(held):
            code[labels == name] = index
        return cls(held, code)

    def sums(self, values: xr.DataArray) -> Float[np.ndarray, "sample group ..."]:
        """Sums over each sample's tokens of each group; NaN counts as 0."""
        ordered = without_token_coords(values).transpose("sample", "token", ...).values.astype(np.float64)
        ordered = np.nan_to_num(ordered, nan=0.0)
        member = np.arange(len(self.names))[:, None] == self.code[:, None, :]
        return np.stack([np.tensordot(own.astype(float), row, 1) for own, row in zip(member, ordered, strict=True)])


_Quantity = tuple[xr.DataArray, xr.DataArray, bool]  # numerator, denominator, whether only some tokens have one


def _quantities(trace: xr.Dataset, mask: xr.DataArray, values: xr.Dataset) -> dict[str, _Quantity]:
    """By name: what is summed over a group's tokens, what it is divided by, both a token's."""
    valid = without_token_coords(trace["valid"])
    active = without_token_coords(~mask) & valid
    per_token = without_token_coords(token_usage(trace, mask)["exit_depth"])
    ones = valid.astype(float)
    found: dict[str, _Quantity] = {
        "usage": (_named(active.mean("layer"), "share of (layer, token) pairs that are active", "1"), ones, False),
        "usage_by_layer": (_named(active, "share of tokens for which the layer is active", "1"), ones, False),
        "exit_depth": (_named(per_token, "mean exit depth: (last active layer + 1) / layers", "1"), ones, False),
    }
    if cost_of(trace) is not None:
        spared, whole = flops(trace, mask)
        words = "share of FLOPs that a perfect forecast of the voids could spare"
        found["skippable_compute"] = (_named(spared, words, "1"), whole * ones, False)
    for name in _LAYERWISE:
        if name in trace:
            found[name] = (without_token_coords(trace[name]), ones, False)
    tokenwise = {name: trace[name] for name in TOKENWISE_MEASURES if name in trace}
    for name, array in (tokenwise | {str(name): values[name] for name in values.data_vars}).items():
        if name in found:
            raise ValueError(f"values has {name!r}, which the result has of the trace itself: rename it.")
        known = array.notnull()
        have = (known.all("layer") if "layer" in array.dims else known) & valid
        found[name] = (without_token_coords(array.where(have)), without_token_coords(have).astype(float), True)
    return found


def _named(array: xr.DataArray, long_name: str, units: str) -> xr.DataArray:
    return array.assign_attrs(long_name=long_name, units=units)


def _ratios(
    name: str,
    above: xr.DataArray,
    below: xr.DataArray,
    tokens: _Grouped,
    draw: Callable[..., np.ndarray],
    level: float,
) -> dict[str, xr.DataArray]:
    """The quantity by group and along its further dimensions, and the ends of its interval."""
    further = [str(dim) for dim in above.dims if dim not in ("sample", "token")]
    shape = tuple(above.sizes[dim] for dim in further)
    tops, bottoms = tokens.sums(above), tokens.sums(below)
    tops = tops.reshape(*tops.shape[:2], -1)
    total = bottoms.sum(0)
    middle = tops.sum(0)
    middle = np.divide(middle, total[:, None], out=np.full_like(middle, np.nan, dtype=float), where=total[:, None] != 0)
    ends = np.stack([draw(tops[:, group], bottoms[:, group]) for group in range(len(tokens.names))], axis=1)
    coords = {"group": tokens.names} | {dim: above[dim].values for dim in further}
    dims = ("group", *further)
    leading = [dim for dim in ("alpha", "effect") if dim in further]
    attrs = {key: above.attrs[key] for key in ("long_name", "units") if key in above.attrs}
    made = {}
    for suffix, columns in (("", middle), ("_low", ends[0]), ("_high", ends[1])):
        said = {**attrs, "level": level} if suffix else attrs
        array = xr.DataArray(columns.reshape(-1, *shape), dims=dims, coords=coords, attrs=said)
        made[name + suffix] = array.transpose(*leading, "group", ...)
    return made


def _counts(per_sample: np.ndarray, names: list[str], units: str) -> xr.DataArray:
    total = per_sample.sum(0).astype(np.int64)
    return xr.DataArray(total, dims="group", coords={"group": names}, attrs={"units": units})


def _aligned(trace: xr.Dataset, values: xr.Dataset | None) -> xr.Dataset:
    if values is None:
        return xr.Dataset()
    for name in values.data_vars:
        _check_labels(trace, values[name], f"values[{name!r}]", "layer" if "layer" in values[name].dims else "token")
    return values


def _check_labels(trace: xr.Dataset, array: xr.DataArray, name: str, kind: Literal["layer", "token"]) -> None:
    """ValueError unless the array has a value for each of this trace's tokens, or layers and tokens."""
    dims = ("sample", "layer", "token") if kind == "layer" else ("sample", "token")
    if set(array.dims) != set(dims):
        raise ValueError(f"{name} has dimensions {array.dims}, not {dims}: give one value a token of this trace.")
    for dim in dims:
        if not np.array_equal(array[dim].values, trace[dim].values):
            raise ValueError(
                f"{name} is of another trace: its '{dim}' has {array.sizes[dim]} entries or other labels, the "
                f"trace's has {trace.sizes[dim]}."
            )


USAGE_BY_GROUP = Measure(
    usage_by_group,
    "usage by group",
    "usage and exit depth of groups of tokens",
    plot="plot_usage_by_group",
    needs="trace",
    group="tokens",
)
