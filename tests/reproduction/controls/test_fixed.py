"""Controls that are the same for every token: which layers, and the norm-only null."""

import numpy as np
import pytest
import xarray as xr
from oracle import lac_voids

from lacscope.reproduction.controls import last_layers, lowest_usage, median_norm_curve, norm_null
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._schema import TraceError

pytestmark = pytest.mark.once

# --- bypass: fixed layers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_void", "expected"), [(0, ()), (1, (4,)), (2, (2, 4)), (3, (1, 2, 4)), (4, (1, 2, 3, 4)), (5, (0, 1, 2, 3, 4))]
)
def test_lowest_usage_by_hand(n_void: int, expected: tuple[int, ...]) -> None:
    usage = xr.DataArray([1.0, 0.5, 0.2, 0.7, 0.2], dims="layer")
    assert lowest_usage(usage, n_void) == expected


def test_of_many_equal_layers_the_deepest_are_the_lowest() -> None:
    assert lowest_usage(xr.DataArray(np.tile([0.2, 0.9], 50), dims="layer"), 5) == (90, 92, 94, 96, 98)


def test_lowest_usage_of_a_trace(trace_fixture: xr.Dataset) -> None:
    usage = layer_usage(trace_fixture, by="all")
    chosen = lowest_usage(usage, 4)
    assert max(usage.values[list(chosen)]) <= min(np.delete(usage.values, chosen))


def test_what_lowest_usage_refuses(trace_fixture: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"one dimension 'layer', got \('phase', 'layer'\)"):
        lowest_usage(layer_usage(trace_fixture), 2)
    with pytest.raises(ValueError, match="usage is NaN, so no layer is the lowest"):
        lowest_usage(xr.DataArray([1.0, np.nan], dims="layer"), 1)
    with pytest.raises(ValueError, match="the model has 2 layers, so 0 to 2 of them can be voids; got 3"):
        lowest_usage(xr.DataArray([1.0, 0.5], dims="layer"), 3)


def test_the_last_layers() -> None:
    assert last_layers(5, 2) == (3, 4)
    assert last_layers(5, 0) == ()
    assert last_layers(2, 2) == (0, 1)
    with pytest.raises(ValueError, match="the model has 5 layers, so 0 to 5 of them can be voids; got -1"):
        last_layers(5, -1)


# --- norm-only null -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 0.4, 0.8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_null_is_the_rule_on_one_curve(alpha: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = rng.uniform(1, 50, 9).astype(dtype)
        expected = lac_voids([[float(step)] for step in np.diff(curve)], alpha)
        assert norm_null(curve, alpha).tolist() == [row[0] for row in expected]


@pytest.mark.parametrize("curve", [[1.0], [1.0, np.nan, 2.0]])
def test_what_is_no_curve(curve: list[float]) -> None:
    with pytest.raises(ValueError, match=r"curve must be the finite norms n_0 \.\. n_L of at least one layer, got \["):
        norm_null(np.array(curve), 0.8)
    with pytest.raises(ValueError, match="alpha must be a finite number >= 0"):
        norm_null(np.array([1.0, 2.0]), -0.5)


def test_the_median_curve_leaves_out_sinks_and_padding() -> None:
    trace = synthetic_trace(3, 5, 12, 4)
    curve = median_norm_curve(trace)
    for boundary in range(6):
        norms = []
        for row in range(3):
            for t in np.flatnonzero(trace["valid"].values[row]):
                if not trace["sink"].values[row, t]:
                    name, layer = ("resid_post_norm", boundary - 1) if boundary else ("resid_pre_norm", 0)
                    norms.append(float(trace[name].values[row, layer, t]))
        norms.sort()
        middle = (norms[(len(norms) - 1) // 2] + norms[len(norms) // 2]) / 2
        assert curve[boundary] == pytest.approx(middle, rel=1e-6)


def test_a_trace_of_sinks_alone_has_no_curve(trace_fixture: xr.Dataset) -> None:
    with pytest.raises(TraceError, match="every token of the trace is a sink, so it has no typical norm"):
        median_norm_curve(trace_fixture.isel(token=[0]))


def test_a_mask_per_rule_is_refused(trace_fixture: xr.Dataset) -> None:
    trace = trace_fixture.expand_dims(rule=["one", "two"])
    with pytest.raises(TraceError, match="not each along 'rule'"):
        median_norm_curve(trace)
