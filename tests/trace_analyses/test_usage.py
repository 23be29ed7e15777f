"""Usage against plain loops over the trace's own numbers."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import xarray as xr
from oracle import exit_depth, mean

from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._usage import By, Sinks, Weight, layer_usage, token_usage, usage_by_alpha
from lacscope.traces._schema import PHASES
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once


def tokens(trace: xr.Dataset, phase: str | None, sinks: str, sample: int) -> Iterator[int]:
    """Positions of a sample's tokens that count."""
    for token in range(trace.sizes["token"]):
        counts = bool(trace["valid"].values[sample, token])
        counts &= phase is None or trace["phase"].values[sample, token] == phase
        counts &= sinks == "include" or not trace["sink"].values[sample, token]
        if counts:
            yield token


def loop_usage(trace: xr.Dataset, layer: int, phase: str | None, weight: str, sinks: str) -> tuple[float, int]:
    """Usage of one layer, and over how many tokens (samples)."""
    void = trace["void"].values
    samples = [
        [float(not void[sample, layer, token]) for token in tokens(trace, phase, sinks, sample)]
        for sample in range(trace.sizes["sample"])
    ]
    if weight == "sample":
        shares = [mean(active) for active in samples if active]
        return mean(shares), len(shares)
    pooled = [active for sample in samples for active in sample]
    return mean(pooled), len(pooled)


@pytest.mark.parametrize("sinks", get_args(Sinks))
@pytest.mark.parametrize("weight", get_args(Weight))
@pytest.mark.parametrize("by", get_args(By))
def test_equals_the_plain_loops(trace_fixture: xr.Dataset, by: By, weight: Weight, sinks: Sinks) -> None:
    usage = layer_usage(trace_fixture, by=by, weight=weight, sinks=sinks)
    phases = [None] if by == "all" else list(PHASES)
    for phase in phases:
        picked = usage if phase is None else usage.sel(phase=phase)
        for layer in range(trace_fixture.sizes["layer"]):
            if by == "sample":
                for sample in range(trace_fixture.sizes["sample"]):
                    one = trace_fixture.isel(sample=[sample])
                    expected, n = loop_usage(one, layer, phase, "token", sinks)
                    assert picked.values[sample, layer] == pytest.approx(expected)
                    assert picked["n"].values[sample] == n
            else:
                expected, n = loop_usage(trace_fixture, layer, phase, weight, sinks)
                assert picked.values[layer] == pytest.approx(expected)
                assert picked["n"] == n
    assert (usage.attrs["weight"], usage.attrs["sinks"], usage.attrs["units"]) == (weight, sinks, "1")


def test_the_weights_and_the_sinks_make_a_difference(trace_fixture: xr.Dataset) -> None:
    # Else the test above could not tell them apart.
    plain = layer_usage(trace_fixture)
    assert not np.allclose(plain, layer_usage(trace_fixture, weight="sample"))
    assert not np.allclose(plain, layer_usage(trace_fixture, sinks="exclude"))


@pytest.mark.parametrize(("by", "dims"), [("phase", ("phase",)), ("sample", ("phase", "sample")), ("all", ())])
def test_dimensions(trace_fixture: xr.Dataset, by: By, dims: tuple[str, ...]) -> None:
    assert layer_usage(trace_fixture, by=by).dims == (*dims, "layer")
    many = layer_usage(trace_fixture, voids(trace_fixture, [0.5, 0.8]), by=by)
    assert many.dims == ("alpha", *dims, "layer")
    np.testing.assert_allclose(many.sel(alpha=0.8).values, layer_usage(trace_fixture, by=by).values)


def test_no_decode_tokens_give_nan_with_n_0() -> None:
    usage = layer_usage(synthetic_trace(decode_tokens=0))
    assert usage.sel(phase="decode").isnull().all()
    assert usage["n"].sel(phase="decode") == 0
    assert usage.sel(phase="prefill").notnull().all()
    by_sample = layer_usage(synthetic_trace(2, decode_tokens=1), by="sample")
    assert by_sample["n"].sel(phase="decode").values.tolist() == [1, 0]
    assert by_sample.sel(phase="decode").isnull().all("layer").values.tolist() == [False, True]


def test_a_sample_without_decode_does_not_weigh() -> None:
    trace = synthetic_trace(2, decode_tokens=1)
    usage = layer_usage(trace, weight="sample").sel(phase="decode")
    assert usage["n"] == 1
    np.testing.assert_array_equal(usage, layer_usage(trace.isel(sample=[0])).sel(phase="decode"))


def test_all_active_and_all_void(trace_fixture: xr.Dataset) -> None:
    for share in (0.0, 1.0):
        mask = xr.full_like(trace_fixture["void"], share == 0.0)
        assert (layer_usage(trace_fixture, mask) == share).all()


def _more_padding(trace: xr.Dataset) -> xr.Dataset:
    longer = synthetic_trace(4, prompt_tokens=40)
    assert longer.sizes["token"] > trace.sizes["token"]
    fills = {"void": np.nan, "valid": False, "sink": True, "special": True, "token_text": "x", "phase": "prefill"}
    flat = trace.reset_coords(["token_id", "next_token_id", *(name for name in fills if name != "void")])
    fill = {name: fills.get(str(name), np.nan if flat[name].dtype.kind == "f" else -1) for name in flat.data_vars}
    wide = flat.reindex(token=np.arange(longer.sizes["token"]), fill_value=fill)
    return wide.set_coords([name for name in flat.data_vars if flat[name].ndim == 2])


@pytest.mark.parametrize(
    "change",
    [_more_padding, lambda trace: trace.isel(sample=[2, 0, 1])],
    ids=["padding", "order of samples"],
)
def test_what_must_change_nothing(trace_fixture: xr.Dataset, change: Any) -> None:
    changed = change(trace_fixture)
    for weight in get_args(Weight):
        xr.testing.assert_allclose(
            layer_usage(changed, weight=weight), layer_usage(trace_fixture, weight=weight), rtol=1e-12
        )
    xr.testing.assert_allclose(
        layer_usage(changed, by="sample").sel(sample=[0, 1, 2]), layer_usage(trace_fixture, by="sample")
    )


def test_what_is_not_offered(trace_fixture: xr.Dataset, unchecked: None) -> None:
    with pytest.raises(ValueError, match="by must be 'phase', 'sample' or 'all', got 'layer'"):
        layer_usage(trace_fixture, by="layer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be 'token' or 'sample', got 'mean'"):
        layer_usage(trace_fixture, weight="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sinks must be 'include' or 'exclude', got 'drop'"):
        layer_usage(trace_fixture, sinks="drop")  # type: ignore[arg-type]


# --- over alpha -----------------------------------------------------------------------------------------


def test_usage_by_alpha_is_the_share_of_active_pairs(trace_fixture: xr.Dataset) -> None:
    alphas = [0.0, 0.5, 0.8, 2]
    usage = usage_by_alpha(trace_fixture, alphas)
    assert usage.dims == ("alpha", "phase")
    for alpha in alphas:
        for phase in PHASES:
            at = trace_fixture.assign(void=voids(trace_fixture, alpha))
            layers = [loop_usage(at, layer, phase, "token", "include") for layer in range(12)]
            assert usage.sel(alpha=alpha, phase=phase).item() == pytest.approx(mean([share for share, _ in layers]))
            assert usage["n"].sel(phase=phase) == layers[0][1]
    assert (usage.diff("alpha") <= 0).all()
    np.testing.assert_array_equal(usage_by_alpha(trace_fixture, np.array(alphas)), usage)


# --- by token -------------------------------------------------------------------------------------------


def test_token_usage_equals_the_plain_loops(trace_fixture: xr.Dataset) -> None:
    found = token_usage(trace_fixture)
    assert found["exit_depth"].dims == found["active_layers"].dims == ("sample", "token")
    assert "phase" in found.coords
    for sample in range(3):
        for token in range(trace_fixture.sizes["token"]):
            void = trace_fixture["void"].values[sample, :, token].tolist()
            active, depth = found["active_layers"].values[sample, token], found["exit_depth"].values[sample, token]
            if trace_fixture["valid"].values[sample, token]:
                assert active == void.count(False)
                assert depth == pytest.approx(exit_depth(void))
            else:
                assert math.isnan(active)
                assert math.isnan(depth)


def test_exit_depth_by_hand(trace_fixture: xr.Dataset) -> None:
    mask = xr.full_like(trace_fixture["void"], True)
    mask[0, 2, 0] = mask[0, 5, 0] = mask[0, 11, 1] = False
    found = token_usage(trace_fixture, mask)
    assert found["exit_depth"].values[0, :3].tolist() == [6 / 12, 1.0, 0.0]
    assert found["active_layers"].values[0, :3].tolist() == [2, 1, 0]


def test_token_usage_at_many_alphas(trace_fixture: xr.Dataset) -> None:
    many = token_usage(trace_fixture, voids(trace_fixture, [0.5, 0.8]))
    for name in ("active_layers", "exit_depth"):
        assert many[name].dims == ("alpha", "sample", "token")
        np.testing.assert_array_equal(many[name].sel(alpha=0.8), token_usage(trace_fixture)[name])
