"""What an xarray user writes with a mask, against a direct count over the valid cells of prompts of unequal length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lacscope.rules import GivenVoids
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._usage import layer_usage, token_usage, usage_by_alpha
from lacscope.traces._joining import join_traces
from lacscope.traces._lac import lac_thresholds
from lacscope.traces._masks import VoidMask
from lacscope.traces._schema import SampleTrace, TraceError, build
from lacscope.traces._voids import recorded_voids, voids

pytestmark = pytest.mark.once

Cells = list[tuple[int, int, int, float]]  # sample, layer, token, 1 at a void
ATTRS = {"model": "m", "rule": '{"alpha": 0.5, "name": "L2AdaptiveComputation", "unit": "block"}', "effect": "observe"}
LAYERS = 4


def ragged_trace(lengths: list[int], seed: int) -> xr.Dataset:
    """Prompts of these lengths, with an answer from their third token on, and voids of any shape."""
    rng = np.random.default_rng(seed)
    samples = []
    for length in lengths:
        post = rng.uniform(1, 9, (LAYERS, length)).astype(np.float32)
        pre = np.concatenate([rng.uniform(1, 9, (1, length)).astype(np.float32), post[:-1]])
        delta = post - pre
        norms = {"resid_pre_norm": pre, "resid_post_norm": post, "delta_norm": delta, "update_norm": abs(delta) + 1}
        ids = rng.integers(0, 50, length)
        samples.append(
            SampleTrace(
                ids, np.full(length, -1), np.arange(length) >= 2, norms, void=delta < lac_thresholds(delta, 0.5)
            )
        )
    return build(samples, ATTRS)


def cells_of(trace: xr.Dataset, alpha: float) -> Cells:
    """Each valid cell, one after the other."""
    found = []
    for sample in range(trace.sizes["sample"]):
        for token in range(trace.sizes["token"]):
            if trace["valid"].values[sample, token]:
                delta = trace["delta_norm"].values[sample, :, token : token + 1]
                void = delta < lac_thresholds(delta, alpha)
                found += [(sample, layer, token, float(void[layer, 0])) for layer in range(len(delta))]
    return found


def mean(values: Any) -> float:
    kept = list(values)
    return float(np.mean(kept)) if kept else float("nan")


def per_token(cells: Cells, reduce: Callable[[list[float]], float]) -> list[float]:
    tokens = sorted({(s, t) for s, _, t, _ in cells})
    return [reduce([v for s, _, t, v in cells if (s, t) == token]) for token in tokens]


# Each idiom is one number, beside the same number counted cell by cell.
IDIOMS: dict[str, tuple[Callable[[Any, xr.Dataset], Any], Callable[[Cells, xr.Dataset], float]]] = {
    "mean": (lambda v, t: v.mean(), lambda c, t: mean(x[3] for x in c)),
    "~": (lambda v, t: (~v).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "~~": (lambda v, t: (~~v).mean(), lambda c, t: mean(x[3] for x in c)),
    "1 -": (lambda v, t: (1 - v).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "True -": (lambda v, t: (True - v).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "logical_not": (lambda v, t: np.logical_not(v).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "np.mean": (lambda v, t: np.mean(v), lambda c, t: mean(x[3] for x in c)),
    "nanmean": (lambda v, t: np.nanmean(v.values), lambda c, t: mean(x[3] for x in c)),
    "== 0": (lambda v, t: (v == 0).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "== False": (lambda v, t: (v == False).mean(), lambda c, t: mean(1 - x[3] for x in c)),  # noqa: E712
    "== 1": (lambda v, t: (v == 1).mean(), lambda c, t: mean(x[3] for x in c)),
    "!= 1": (lambda v, t: (v != 1).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "> 0": (lambda v, t: (v > 0).mean(), lambda c, t: mean(x[3] for x in c)),
    "< 1": (lambda v, t: (v < 1).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "array <": (lambda v, t: (np.ones(v.shape) > v).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "isin": (lambda v, t: v.isin([0]).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "sum": (lambda v, t: v.sum(), lambda c, t: sum(x[3] for x in c)),
    "count": (lambda v, t: v.count(), lambda c, t: len(c)),
    "sum over count": (lambda v, t: (~v).sum() / v.count(), lambda c, t: mean(1 - x[3] for x in c)),
    "sum of layers": (lambda v, t: v.sum("layer").mean(), lambda c, t: mean(per_token(c, sum))),
    "active layers": (
        lambda v, t: (~v).sum("layer").mean(),
        lambda c, t: mean(per_token(c, lambda x: LAYERS - sum(x))),
    ),
    "any": (lambda v, t: v.any("layer").mean(), lambda c, t: mean(per_token(c, max))),
    "all": (lambda v, t: v.all("layer").mean(), lambda c, t: mean(per_token(c, min))),
    "all active": (lambda v, t: (~v).all("layer").mean(), lambda c, t: mean(per_token(c, lambda x: 1 - max(x)))),
    "max": (lambda v, t: v.max("layer").mean(), lambda c, t: mean(per_token(c, max))),
    "cumsum": (
        lambda v, t: v.cumsum("layer").isel(layer=1).mean(),
        lambda c, t: mean(per_token([x for x in c if x[1] < 2], sum)),
    ),
    "& valid": (lambda v, t: (v & t["valid"]).mean(), lambda c, t: mean(x[3] for x in c)),
    "valid &": (lambda v, t: (t["valid"] & ~v).sum(), lambda c, t: sum(1 - x[3] for x in c)),
    "| ~valid": (lambda v, t: (v | ~t["valid"]).mean(), lambda c, t: mean(x[3] for x in c)),
    "one phase": (
        lambda v, t: (~v).where(v["phase"] == "decode").mean(),
        lambda c, t: mean(1 - x[3] for x in c if x[2] >= 2),
    ),
    "sum of one phase": (
        lambda v, t: v.where(v["phase"] == "decode").sum("layer").mean(),
        lambda c, t: mean(per_token([x for x in c if x[2] >= 2], sum)),
    ),
    "where of a norm": (
        lambda v, t: t["update_norm"].where(v).mean(),
        lambda c, t: mean(t["update_norm"].values[x[:3]] for x in c if x[3]),
    ),
    "where not of a norm": (
        lambda v, t: t["update_norm"].where(~v).mean(),
        lambda c, t: mean(t["update_norm"].values[x[:3]] for x in c if not x[3]),
    ),
    "xr.where": (lambda v, t: xr.where(v, 0, 1).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "xr.where of ==": (lambda v, t: xr.where(v == 1, 0.0, 1.0).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "tokens where": (
        lambda v, t: t["token_id"].where(v.isel(layer=2)).count(),
        lambda c, t: sum(x[3] for x in c if x[1] == 2),
    ),
    "where, else 0": (
        lambda v, t: t["update_norm"].where(~v, 0).mean(),
        lambda c, t: mean((1 - x[3]) * t["update_norm"].values[x[:3]] for x in c),
    ),
    "weights": (
        lambda v, t: (v * t["update_norm"]).sum() / t["update_norm"].sum(),
        lambda c, t: (
            sum(x[3] * t["update_norm"].values[x[:3]] for x in c) / sum(t["update_norm"].values[x[:3]] for x in c)
        ),
    ),
    "isel(sample=0)": (lambda v, t: (~v.isel(sample=0)).mean(), lambda c, t: mean(1 - x[3] for x in c if x[0] == 0)),
    "sel(sample=1)": (lambda v, t: v.sel(sample=1).mean(), lambda c, t: mean(x[3] for x in c if x[0] == 1)),
    "a slice of layers": (
        lambda v, t: (~v).isel(layer=slice(1, 3)).mean(),
        lambda c, t: mean(1 - x[3] for x in c if x[1] in (1, 2)),
    ),
    "one token": (lambda v, t: (~v).isel(token=-1).mean(), lambda c, t: _last_column(c, t)),
    "mean of means": (
        lambda v, t: (~v).mean(("layer", "token")).mean(),
        lambda c, t: mean(mean(1 - x[3] for x in c if x[0] == s) for s in range(t.sizes["sample"])),
    ),
    "groupby phase": (
        lambda v, t: v.groupby("phase").mean(...).sel(phase="prefill"),
        lambda c, t: mean(x[3] for x in c if x[2] < 2),
    ),
    "groupby sample": (lambda v, t: v.groupby("sample").sum("layer").mean(), lambda c, t: mean(per_token(c, sum))),
    "groupby any": (lambda v, t: v.groupby("sample").any("layer").mean(), lambda c, t: mean(per_token(c, max))),
    "coarsen": (
        lambda v, t: v.coarsen(layer=2).sum().isel(layer=0).mean(),
        lambda c, t: mean(per_token([x for x in c if x[1] < 2], sum)),
    ),
    "coarsen mean": (lambda v, t: v.coarsen(layer=2).mean().mean(), lambda c, t: mean(x[3] for x in c)),
    "weighted": (
        lambda v, t: v.weighted(xr.DataArray([1.0, 2, 3, 4], dims="layer")).mean(),
        lambda c, t: sum(x[3] * (x[1] + 1) for x in c) / sum(x[1] + 1 for x in c),
    ),
    "weighted sum": (
        lambda v, t: v.weighted(xr.DataArray([1.0, 2, 3, 4], dims="layer")).sum("layer").mean(),
        lambda c, t: mean(
            sum(x[3] * (x[1] + 1) for x in c if (x[0], x[2]) == one) for one in {(x[0], x[2]) for x in c}
        ),
    ),
    "to_dataframe": (lambda v, t: v.to_dataframe()["void"].mean(), lambda c, t: mean(x[3] for x in c)),
    "frame of active layers": (
        lambda v, t: (~v).to_dataframe().groupby(["sample", "token"])["active"].sum().mean(),
        lambda c, t: mean(per_token(c, lambda x: LAYERS - sum(x))),
    ),
    "to_series": (lambda v, t: len(v.to_series()), lambda c, t: len(c)),
    "to_pandas": (
        lambda v, t: v.isel(sample=0).to_pandas().sum().mean(),
        lambda c, t: mean(per_token([x for x in c if x[0] == 0], sum)),
    ),
    "astype(float)": (lambda v, t: (1 - v.astype(float)).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "concat": (lambda v, t: (~xr.concat([v, v], dim="twice")).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "median": (lambda v, t: v.sum("layer").median(), lambda c, t: float(np.median(per_token(c, sum)))),
    "stack": (lambda v, t: (~v.stack(cell=("sample", "token"))).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "reindex": (lambda v, t: (~v.reindex(token=range(30))).mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "agreement": (lambda v, t: (v == recorded_voids(t)).mean(), lambda c, t: _agreement(c, t)),
    "layer_usage": (lambda v, t: layer_usage(t, v, by="all").mean(), lambda c, t: mean(1 - x[3] for x in c)),
    "token_usage": (
        lambda v, t: token_usage(t, v)["active_layers"].mean(),
        lambda c, t: mean(per_token(c, lambda x: LAYERS - sum(x))),
    ),
}


def _last_column(cells: Cells, trace: xr.Dataset) -> float:
    last = trace.sizes["token"] - 1
    return mean(1 - x[3] for x in cells if x[2] == last)


def _agreement(cells: Cells, trace: xr.Dataset) -> float:
    own = {x[:3]: x[3] for x in cells_of(trace, 0.5)}
    return mean(x[3] == own[x[:3]] for x in cells)


@pytest.mark.parametrize("name", list(IDIOMS))
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(3, 9), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
    alpha=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_an_idiom_is_the_count_over_valid_cells(name: str, lengths: list[int], seed: int, alpha: float) -> None:
    trace = ragged_trace(lengths, seed)
    written, counted = IDIOMS[name]
    assert float(written(voids(trace, alpha), trace)) == pytest.approx(
        counted(cells_of(trace, alpha), trace), rel=1e-5, nan_ok=True
    )


RAISING = {
    "astype(bool)": lambda v: v.astype(bool),
    "astype(int)": lambda v: v.astype(int),
    "argmax": lambda v: v.argmax("layer"),
    "values": lambda v: ~v.values,
    "of counts": lambda v: v.sum("layer") & True,
}


@pytest.mark.parametrize("name", list(RAISING))
def test_what_has_no_right_answer_raises(name: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        RAISING[name](voids(ragged_trace([3, 9], 0), 0.3))


def test_without_padding_it_is_any_type_that_is_asked_for() -> None:
    trace = ragged_trace([5, 9], 0)
    one = voids(trace, 0.3).isel(sample=1)
    assert one.astype(bool).dtype == bool
    assert type(one.astype(bool)) is xr.DataArray
    with pytest.raises(TypeError, match=r"padding is neither void nor active, so the mask cannot be bool.*fillna\(0\)"):
        voids(trace, 0.3).astype(bool)
    assert voids(trace, 0.3).fillna(0).astype(bool).sum() == voids(trace, 0.3).sum()


def test_the_recorded_mask_is_missing_on_padding_too() -> None:
    trace = ragged_trace([3, 9], 1)
    share = mean(x[3] for x in cells_of(trace, 0.5))
    assert float(trace["void"].mean()) == pytest.approx(share)
    assert float((1 - trace["void"]).mean()) == pytest.approx(1 - share)
    assert float((~recorded_voids(trace)).mean()) == pytest.approx(1 - share)
    xr.testing.assert_identical(recorded_voids(trace), voids(trace, 0.5))


def test_a_sum_goes_on_where_float32_stops() -> None:
    many = VoidMask(xr.DataArray(np.ones((2**24 + 2, 1), dtype=np.float32), dims=("token", "layer")))
    assert float(many.sum("token").item()) == 2**24 + 2


def test_it_says_what_made_it_and_can_be_saved(tmp_path: Path) -> None:
    trace = synthetic_trace()
    void = voids(trace, 0.3)
    assert void.dtype == np.float32
    assert {type(value) for value in void.attrs.values()} <= {str, int, float}
    assert (void.attrs["alpha"], void.attrs["effect"]) == (0.3, "observe")
    assert void.attrs["rule"] == '{"alpha": 0.3, "name": "L2AdaptiveComputation", "unit": "block"}'
    assert '"alpha": [0.1, 0.3]' in voids(trace, [0.1, 0.3]).attrs["rule"]
    void.to_netcdf(tmp_path / "void.nc")
    with xr.open_dataarray(tmp_path / "void.nc") as opened:
        again = VoidMask(opened.load())
    assert float((~again).mean()) == float((~void).mean())
    xr.testing.assert_equal(layer_usage(trace, again), layer_usage(trace, void))
    assert GivenVoids.of(again) == GivenVoids.of(void)


def test_attributes_that_are_set_stay_and_a_copy_has_its_own() -> None:
    mask = VoidMask(xr.DataArray(np.zeros(3, dtype=np.float32), dims="token"))
    mask.attrs = {"a": 1}
    mask.attrs["b"] = 2
    other = mask.copy(deep=True)
    other.attrs["b"] = 3
    other[0] = 1
    assert (mask.attrs, float(mask.sum())) == ({"a": 1, "b": 2}, 0)
    assert (other.attrs["b"], float(other.sum())) == (3, 1)


def test_the_papers_alpha_is_the_default() -> None:
    trace = synthetic_trace()
    xr.testing.assert_identical(voids(trace), voids(trace, 0.8))
    xr.testing.assert_identical(usage_by_alpha(trace), usage_by_alpha(trace, [0.8]))


@pytest.mark.usefixtures("unchecked")
def test_a_table_of_alphas_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a number or a list of numbers, got an array of shape \(2, 2\)"):
        voids(synthetic_trace(), np.ones((2, 2)))


# --- masks of other traces ----------------------------------------------------------------------------------


def test_a_mask_of_other_tokens_or_other_norms_is_refused() -> None:
    trace = synthetic_trace()
    with pytest.raises(TraceError, match="of another trace: their 'token_id' differs"):
        layer_usage(trace, voids(synthetic_trace(seed=1), 0.8))
    other = trace.assign(delta_norm=trace["delta_norm"] * np.float32(1.5))
    for mask in (
        voids(other, 0.8),
        ~~voids(other, 0.8),
        voids(other, [0.1, 0.8]).isel(alpha=1),
        voids(other, 0.8) & True,
    ):
        with pytest.raises(TraceError, match="of another trace: they were made of other norms of the same tokens"):
            layer_usage(trace, mask)
    with pytest.raises(TraceError, match="made of other norms"):
        layer_usage(trace.isel(sample=[1]), voids(other, 0.8).isel(sample=[1]))


@pytest.mark.parametrize(
    "select",
    [{"sample": [2, 0]}, {"sample": 1}, {"sample": slice(1, None)}, {"token": slice(0, 9)}],
    ids=["samples", "one sample", "slice", "tokens"],
)
def test_what_is_selected_of_both_belongs_together(select: dict[str, Any]) -> None:
    trace = synthetic_trace()
    part, mask = trace.isel(select), voids(trace, 0.5).isel(select)
    xr.testing.assert_equal(layer_usage(part, mask), layer_usage(part, voids(part, 0.5)))
    assert float((~mask).mean()) == pytest.approx(float(layer_usage(part, mask, by="all").mean()))


def test_a_slice_of_layers_has_the_usage_of_its_layers() -> None:
    trace = synthetic_trace()
    part, mask = trace.isel(layer=slice(1, 4)), voids(trace, 0.5).isel(layer=slice(1, 4))
    expected = layer_usage(trace, voids(trace, 0.5), by="all").isel(layer=slice(1, 4))
    assert 0 < float(expected.mean()) < 1
    xr.testing.assert_equal(layer_usage(part, mask, by="all"), expected)
    with pytest.raises(TraceError, match=r"holds 3 of 12 layers \(1, 2, 3\), and active layers and exit depth"):
        token_usage(part, mask)
    with pytest.raises(TraceError, match="a layer is a void by what the layers before it added"):
        voids(part, 0.5)
    first = trace.isel(layer=slice(0, 4))
    np.testing.assert_array_equal(voids(first, 0.5), voids(trace, 0.5).isel(layer=slice(0, 4)))


def test_masks_put_together_are_those_of_the_joined_trace() -> None:
    one, other = synthetic_trace(), synthetic_trace(prompt_tokens=9, seed=3).assign_coords(sample=[5, 6, 7])
    joined = join_traces([one, other])
    together = xr.concat([voids(one, 0.5), voids(other, 0.5)], dim="sample", join="outer")
    xr.testing.assert_equal(layer_usage(joined, together), layer_usage(joined, voids(joined, 0.5)))
