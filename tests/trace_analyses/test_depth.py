"""Exit depth and skippable compute against cells worked out by hand, and against plain loops."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from oracle import exit_depth, mean

from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._depth import mean_exit_depth, skippable_compute
from lacscope.traces._schema import NORMS, PHASES, SampleTrace, TraceError, build
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

COST = {"block": 10.0, "kv": 2.0, "attend": 1.0, "head": 5.0}
V, A = True, False


def hand_made() -> xr.Dataset:
    """Two layers; one prompt token with both active, one with a void above, and a generated one all void."""
    void = np.array([[A, A, V], [A, V, V]])
    layerwise = {name: np.ones((2, 3), dtype=np.float32) for name in NORMS}
    sample = SampleTrace(np.array([5, 6, 7]), np.array([-1, 7, 8]), np.array([False, False, True]), layerwise, void)
    return build([sample], {"model": "hand", "rule": None, "effect": "observe", "cost": COST})


def test_skippable_compute_by_hand() -> None:
    found = skippable_compute(hand_made())
    assert found.dims == ("effect", "phase")
    assert found["n"].values.tolist() == [2, 1]
    # Blocks cost 11, 12 and 13 at positions 0, 1, 2. Whole: 2 x 11 + 5, 2 x 12 + 5, 2 x 13 + 5.
    np.testing.assert_allclose(found.sel(effect="bypass"), [12 / (27 + 29), 26 / 31])
    # Past the exit: one block of position 1 and both of position 2, each less the keys and values (2).
    np.testing.assert_allclose(found.sel(effect="readout"), [10 / (27 + 29), 2 * 11 / 31])
    assert found.attrs["realised_saving"] == 0.0


def test_an_early_void_spares_a_bypass_and_not_a_readout() -> None:
    trace = hand_made()
    mask = xr.full_like(trace["void"], False)
    mask[0, 0, :] = True
    found = skippable_compute(trace, mask)
    assert (found.sel(effect="bypass") > 0.3).all()
    assert (found.sel(effect="readout") == 0).all()


def test_mean_exit_depth_by_hand() -> None:
    found = mean_exit_depth(hand_made())
    assert found.values.tolist() == [0.75, 0.0]
    assert found["n"].values.tolist() == [2, 1]


def loop_share(trace: xr.Dataset, effect: str, phase: str) -> float:
    cost = json.loads(trace.attrs["cost"])
    spared = whole = 0.0
    n_layers = trace.sizes["layer"]
    for sample in range(trace.sizes["sample"]):
        for token in range(trace.sizes["token"]):
            if not trace["valid"].values[sample, token] or trace["phase"].values[sample, token] != phase:
                continue
            block = cost["block"] + cost["attend"] * (token + 1)
            void = trace["void"].values[sample, :, token].tolist()
            whole += n_layers * block + cost["head"]
            if effect == "bypass":
                spared += sum(void) * block
            else:
                spared += n_layers * (1 - exit_depth(void)) * (block - cost["kv"])
    return spared / whole if whole else math.nan


@pytest.mark.parametrize("decode_tokens", [6, 0])
def test_skippable_compute_equals_the_plain_loops(decode_tokens: int) -> None:
    trace = synthetic_trace(decode_tokens=decode_tokens)
    found = skippable_compute(trace)
    for effect in ("bypass", "readout"):
        for phase in PHASES:
            expected = pytest.approx(loop_share(trace, effect, phase), nan_ok=True)
            assert found.sel(effect=effect, phase=phase).item() == expected


def test_mean_exit_depth_equals_the_plain_loops(trace_fixture: xr.Dataset) -> None:
    found = mean_exit_depth(trace_fixture)
    for phase in PHASES:
        picked = trace_fixture["valid"].values & (trace_fixture["phase"].values == phase)
        depths = [exit_depth(trace_fixture["void"].values[i, :, j].tolist()) for i, j in np.argwhere(picked)]
        assert found.sel(phase=phase).item() == pytest.approx(mean(depths))
        assert found["n"].sel(phase=phase) == len(depths)


def test_no_decode_tokens_give_nan_with_n_0() -> None:
    trace = synthetic_trace(decode_tokens=0)
    for found in (mean_exit_depth(trace), skippable_compute(trace)):
        assert found.sel(phase="decode").isnull().all()
        assert found["n"].sel(phase="decode") == 0


def test_many_alphas(trace_fixture: xr.Dataset) -> None:
    mask = voids(trace_fixture, [0.5, 0.8])
    share, depth = skippable_compute(trace_fixture, mask), mean_exit_depth(trace_fixture, mask)
    assert share.dims == ("alpha", "effect", "phase")
    np.testing.assert_allclose(share.sel(alpha=0.8), skippable_compute(trace_fixture))
    np.testing.assert_allclose(depth.sel(alpha=0.8), mean_exit_depth(trace_fixture))


def test_order_of_samples_changes_nothing(trace_fixture: xr.Dataset) -> None:
    mixed = trace_fixture.isel(sample=[1, 2, 0])
    xr.testing.assert_allclose(skippable_compute(mixed), skippable_compute(trace_fixture))
    xr.testing.assert_allclose(mean_exit_depth(mixed), mean_exit_depth(trace_fixture))


def test_an_unknown_cost_is_said(trace_fixture: xr.Dataset) -> None:
    trace_fixture.attrs.pop("cost")
    with pytest.raises(TraceError, match="the cost of synthetic's blocks is not known, so no bound can be given"):
        skippable_compute(trace_fixture)
