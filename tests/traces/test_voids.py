"""Voids of a recorded trace at any alpha, and when that is not allowed."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from oracle import lac_margins

from lacscope.testing import synthetic_trace
from lacscope.traces._schema import TraceError
from lacscope.traces._voids import resolve_voids, voids

pytestmark = pytest.mark.once

LAC = '{{"alpha": {alpha}, "name": "L2AdaptiveComputation", "unit": "{unit}"}}'
FIXED = '{"layers": [1], "name": "FixedLayers", "unit": "block"}'


def made_by(effect: str, rule: str) -> xr.Dataset:
    return synthetic_trace().assign_attrs(effect=effect, rule=rule)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_equals_the_plain_loops(trace_fixture: xr.Dataset, alpha: float) -> None:
    found = voids(trace_fixture, alpha)
    for sample in range(trace_fixture.sizes["sample"]):
        valid = trace_fixture["valid"].values[sample]
        margins = np.array(lac_margins(trace_fixture["delta_norm"].values[sample][:, valid].tolist(), alpha))
        clear = np.abs(margins) > 1e-4
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(found.values[sample][:, valid][clear], margins[clear] < 0)
        assert np.isnan(found.values[sample][:, ~valid]).all()


def test_one_alpha_equals_the_recorded_voids(trace_fixture: xr.Dataset) -> None:
    found = voids(trace_fixture, 0.8)
    assert (found.dims, found.dtype, found.name) == (("sample", "layer", "token"), np.dtype(np.float32), "void")
    np.testing.assert_array_equal(found, trace_fixture["void"])
    assert found.attrs["alpha"] == 0.8


@pytest.mark.parametrize("alphas", [[0.5, 0.8], (0.5, 0.8), np.array([0.5, 0.8])])
def test_many_alphas_are_a_leading_dimension(trace_fixture: xr.Dataset, alphas: Any) -> None:
    found = voids(trace_fixture, alphas)
    assert found.dims == ("alpha", "sample", "layer", "token")
    assert found["alpha"].values.tolist() == [0.5, 0.8]
    for alpha in (0.5, 0.8):
        np.testing.assert_array_equal(found.sel(alpha=alpha), voids(trace_fixture, alpha))


def test_one_alpha_in_a_list_keeps_the_dimension(trace_fixture: xr.Dataset) -> None:
    assert voids(trace_fixture, [0.8]).sizes["alpha"] == 1
    assert "alpha" not in voids(trace_fixture, 1).dims


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (-1.0, r"alpha must be a finite number >= 0, got -1\.0"),
        ([0.5, float("nan")], r"alpha must be a finite number >= 0, got nan"),
        ([], "alpha is an empty list; give at least one alpha"),
        (True, "alpha must be a number >= 0, got True"),
        ("0.8", r"alpha must be a number >= 0, got '0\.8'"),
        (None, "alpha must be a number >= 0, got None"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_alphas(trace_fixture: xr.Dataset, alpha: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voids(trace_fixture, alpha)


def test_an_observed_trace_serves_every_alpha() -> None:
    assert voids(made_by("observe", FIXED), 0.3).attrs["tokens_chosen_by"] == "the full model"


def test_a_readout_trace_serves_every_alpha_and_says_who_chose_its_tokens() -> None:
    rule = LAC.format(alpha=0.8, unit="block")
    found = voids(made_by("readout", rule), [0.3, 0.8])
    assert found.attrs["tokens_chosen_by"] == f"readout {rule}"
    np.testing.assert_array_equal(found, voids(synthetic_trace(), [0.3, 0.8]))


def test_a_bypass_trace_serves_its_own_alpha() -> None:
    trace = made_by("bypass", LAC.format(alpha=0.8, unit="block"))
    np.testing.assert_array_equal(voids(trace, 0.8), voids(synthetic_trace(), 0.8))


@pytest.mark.parametrize(
    "rule",
    [LAC.format(alpha=0.5, unit="block"), LAC.format(alpha=0.8, unit="mlp"), FIXED, "null", "[]"],
    ids=["other alpha", "other unit", "other rule", "no rule", "many rules"],
)
@pytest.mark.parametrize("alpha", [0.8, [0.5, 0.8]])
def test_a_bypass_trace_refuses_other_alphas(rule: str, alpha: Any) -> None:
    with pytest.raises(TraceError, match=r"made under bypass .* at alpha=.* the stream would differ\. Trace again"):
        voids(made_by("bypass", rule), alpha)


def test_a_real_bypass_trace(tiny: Any) -> None:
    from lacscope import L2AdaptiveComputation, trace

    found = trace(tiny, [[5, 6, 7, 8]], rule=L2AdaptiveComputation(0.5), effect="bypass")
    np.testing.assert_array_equal(voids(found, 0.5), found["void"])
    with pytest.raises(TraceError, match=r"at alpha=0\.6"):
        voids(found, 0.6)


def test_a_trace_under_many_rules_keeps_the_dimension(trace_fixture: xr.Dataset) -> None:
    from lacscope.traces._joining import stack_rules

    other = synthetic_trace(seed=1)
    both = stack_rules([trace_fixture, other], [LAC.format(alpha=a, unit="block") for a in (0.5, 0.8)])
    found = voids(both, [0.5, 0.8])
    assert found.dims == ("alpha", "rule", "sample", "layer", "token")
    np.testing.assert_array_equal(found[1, 1], voids(other, 0.8))


def test_without_a_rule_there_is_nothing_to_resolve(trace_fixture: xr.Dataset) -> None:
    bare = trace_fixture.drop_vars("void")
    with pytest.raises(TraceError, match=r"no voids of its own: pass voids=voids\(trace, alpha=0\.8\)"):
        resolve_voids(bare, None)
    assert resolve_voids(bare, voids(bare, 0.8)).dtype == bool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 2, "must be a mask, 1 or True at voids.*got float32 of other values"),
        (lambda mask: ~mask, "this mask is 1 where a layer is active: give the voids themselves, not ~voids"),
        (lambda mask: 1 - mask, "this mask is 1 where a layer is active"),
        (lambda mask: mask.isel(sample=[0, 1]), "another trace: their 'sample' has 2 entries or other labels.* has 3"),
        (lambda mask: mask.assign_coords(sample=[0, 1, 7]), "another trace: their 'sample' has 3 entries or other"),
        (lambda mask: mask.isel(layer=slice(1, None)), "another trace: their 'layer' has 11 entries"),
        (lambda mask: mask.isel(token=0), "another trace: their 'token' has 0 entries"),
    ],
)
def test_a_mask_of_another_trace_is_refused(trace_fixture: xr.Dataset, change: Any, message: str) -> None:
    # xarray would keep what the two labellings share, and give a number of it.
    with pytest.raises(TraceError, match=message):
        resolve_voids(trace_fixture, change(voids(trace_fixture, 0.8)))


def test_an_alpha_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha has 0.8 twice; give one alpha, or each once"):
        voids(synthetic_trace(), [0.8, 0.8])
