"""Traces put together: rules beside each other, samples one after the other."""

import json

import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope.testing import synthetic_trace, tiny_model
from lacscope.traces._joining import join_traces, stack_rules
from lacscope.traces._schema import NORMS, TOKEN_COORDS, TraceError
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

RULES = ['{"alpha": 0.5, "name": "A"}', '{"alpha": 0.8, "name": "A"}']


def test_stack_rules_pads_to_the_longest() -> None:
    short, long = synthetic_trace(2, 4, 10, 2), synthetic_trace(2, 4, 10, 6, seed=1)
    stacked = stack_rules([short, long], RULES)
    assert stacked.sizes["token"] == long.sizes["token"]
    assert stacked["rule"].values.tolist() == RULES
    assert json.loads(stacked.attrs["rule"]) == [json.loads(rule) for rule in RULES]
    for index, trace in enumerate((short, long)):
        kept = stacked.isel(rule=index, token=slice(0, trace.sizes["token"]))
        for name in (*NORMS, *TOKEN_COORDS, "void"):
            assert stacked[name].dtype == trace[name].dtype, name
            np.testing.assert_array_equal(kept[name].values, trace[name].values)
    padding = stacked.isel(rule=0, token=slice(short.sizes["token"], None))
    assert not padding["valid"].any()
    assert (padding["token_id"] == -1).all()
    assert (padding["phase"] == "").all()


def test_one_rule_gets_the_dimension_too() -> None:
    trace = synthetic_trace()
    expected = trace["void"].values.copy()
    stacked = stack_rules([trace], RULES[:1])
    assert stacked["void"].dims[0] == "rule"
    np.testing.assert_array_equal(stacked["void"].values[0], expected)


def test_joined_traces_are_the_trace_of_all_prompts() -> None:
    model, prompts = tiny_model(), [[5, 17, 3], [8, 44, 9, 61, 7, 20], [1, 2], [60, 3, 3, 5]]
    whole = lacscope.trace(model, prompts, responses=[[4], [5, 6], [7], [8, 9]], measures=("surprisal",))
    parts = [
        lacscope.trace(
            model, prompts[at], responses=[[4], [5, 6], [7], [8, 9]][at], measures=("surprisal",),
            sample_ids=range(4)[at],
        )
        for at in (slice(0, 1), slice(1, 4))
    ]  # fmt: skip
    joined = join_traces(parts)
    xr.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-6)  # a delta is a difference of norms
    assert {name: array.dtype for name, array in joined.variables.items()} == {
        name: array.dtype for name, array in whole.variables.items()
    }
    np.testing.assert_array_equal(voids(joined, 0.5).values, voids(whole, 0.5).values)


def test_variables_of_your_own_are_joined_too() -> None:
    short, long = synthetic_trace(2, 4, 10, 2), synthetic_trace(1, 4, 10, 6).assign_coords(sample=[7])
    mine = [
        trace.assign(kl=trace["valid"] * 2.0, right=("sample", np.ones(trace.sizes["sample"], dtype=bool)))
        for trace in (short, long)
    ]
    joined = join_traces(mine)
    assert joined["sample"].values.tolist() == [0, 1, 7]
    assert joined["right"].values.tolist() == [True] * 3
    assert joined["kl"].isel(sample=0).isnull().sum() == long.sizes["token"] - short.sizes["token"]


def test_traces_that_do_not_join() -> None:
    trace = synthetic_trace(n_samples=1)
    other = trace.assign_coords(sample=[1])
    with pytest.raises(TraceError, match="there are no traces to join: give at least one"):
        join_traces([])
    with pytest.raises(TraceError, match=r"trace 1 has model 'm', the first '.*': join traces that were made alike"):
        join_traces([trace, other.assign_attrs(model="m")])
    with pytest.raises(TraceError, match="trace 1 and the first differ in their variables: kl"):
        join_traces([trace, other.assign(kl=other["delta_norm"])])
    with pytest.raises(TraceError, match=r"two traces have a sample of one number: give trace\(..., sample_ids=...\)"):
        join_traces([trace, trace])
