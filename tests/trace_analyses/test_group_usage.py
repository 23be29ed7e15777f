"""Usage and effects by group against plain loops, cells worked out by hand, and the sums over all tokens."""

import itertools

import numpy as np
import pytest
import xarray as xr

from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._depth import skippable_compute
from lacscope.trace_analyses._group_usage import usage_by_group
from lacscope.trace_analyses._groups import groups_by_class, groups_by_correct, groups_by_position
from lacscope.trace_analyses._statistics import bootstrap_ratio
from lacscope.trace_analyses._usage import layer_usage, token_usage
from lacscope.traces._schema import NORMS, SampleTrace, TraceError, build
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

V, A = True, False


def whole(trace: xr.Dataset) -> xr.DataArray:
    """One group of all valid tokens."""
    return trace["valid"].copy(data=np.where(trace["valid"].values, "all", "").astype(object))


def hand_made() -> xr.Dataset:
    """Two samples of two layers; position 0 is a sink, as everywhere."""
    samples = []
    for void in ([[A, A, V], [A, V, V]], [[A, A, A], [V, A, V]]):
        layerwise = {name: np.full((2, 3), 2.0, dtype=np.float32) for name in NORMS}
        layerwise["delta_norm"] = np.array([[9, 1, 2], [9, 3, 4]], dtype=np.float32)
        ids, decode = np.array([5, 6, 7]), np.array([False, False, True])
        samples.append(SampleTrace(ids, np.array([-1, 7, 8]), decode, layerwise, np.array(void)))
    cost = {"block": 10.0, "kv": 2.0, "attend": 1.0, "head": 5.0}
    return build(samples, {"model": "hand", "rule": None, "effect": "observe", "cost": cost})


def test_by_hand() -> None:
    trace = hand_made()
    found = usage_by_group(trace, groups_by_correct(trace, [True, False]), seed=0, n_bootstrap=20)
    assert found["group"].values.tolist() == ["position 0", "answer right", "answer wrong"]
    assert found["n"].values.tolist() == [2, 2, 2]
    assert found["n_samples"].values.tolist() == [2, 1, 1]
    # Active of two layers: 2 and 1 at position 0; 1 and 0 in the first sample; 2 and 1 in the second.
    np.testing.assert_allclose(found["usage"], [3 / 4, 1 / 4, 3 / 4])
    np.testing.assert_allclose(found["usage_by_layer"], [[1, 0.5], [0.5, 0], [1, 0.5]])
    np.testing.assert_allclose(found["exit_depth"], [(1 + 0.5) / 2, (0.5 + 0) / 2, (1 + 0.5) / 2])
    np.testing.assert_allclose(found["delta_norm"], [[9, 9], [1.5, 3.5], [1.5, 3.5]])
    # Blocks cost 11, 12 and 13; whole passes 27, 29 and 31. The second sample's last token is void in one block.
    np.testing.assert_allclose(
        found["skippable_compute"].sel(effect="bypass"), [11 / 54, (12 + 26) / 60, 13 / 60], rtol=1e-12
    )
    assert np.isnan(found["usage_low"].values[1:]).all(), "one sample has no interval"
    assert found["usage_low"].values[0] == 0.5
    assert found["usage_high"].values[0] == 1.0


@pytest.mark.parametrize("sinks", ["apart", "include", "exclude"])
@pytest.mark.parametrize("phase", ["all", "prefill", "decode"])
def test_equals_the_plain_loops(sinks: str, phase: str) -> None:
    trace = synthetic_trace(4, 5, 12, 6, seed=2)
    trace["sink"].values[1, 4] = True
    groups = groups_by_class(trace)
    expected: dict[str, list[tuple[int, int]]] = {}
    for sample, token in itertools.product(range(4), range(trace.sizes["token"])):
        if not trace["valid"].values[sample, token]:
            continue
        if phase != "all" and trace["phase"].values[sample, token] != phase:
            continue
        name = groups.values[sample, token]
        if trace["sink"].values[sample, token]:
            if sinks == "exclude":
                continue
            if sinks == "apart":
                name = "position 0" if token == 0 else "other sinks"
        expected.setdefault(name, []).append((sample, token))
    found = usage_by_group(trace, groups, seed=0, n_bootstrap=30, sinks=sinks, phase=phase)  # type: ignore[arg-type]
    assert set(found["group"].values) == set(expected)
    exits = token_usage(trace)["exit_depth"].values
    for name, cells in expected.items():
        own = found.sel(group=name)
        active = [trace["void"].values[s, :, t] == 0 for s, t in cells]
        assert int(own["n"]) == len(cells)
        assert int(own["n_samples"]) == len({s for s, _ in cells})
        assert float(own["usage"]) == pytest.approx(np.mean(active))
        np.testing.assert_allclose(own["usage_by_layer"], np.mean(active, axis=0))
        assert float(own["exit_depth"]) == pytest.approx(np.mean([exits[s, t] for s, t in cells]))
        for quantity in ("delta_norm", "update_norm"):
            loop = np.mean([trace[quantity].values[s, :, t].astype(float) for s, t in cells], axis=0)
            np.testing.assert_allclose(own[quantity], loop, rtol=1e-6)


def test_one_group_of_all_is_what_the_other_analyses_say(trace_fixture: xr.Dataset) -> None:
    found = usage_by_group(trace_fixture, whole(trace_fixture), seed=0, n_bootstrap=20, sinks="include")
    np.testing.assert_allclose(found["usage_by_layer"].values[0], layer_usage(trace_fixture, by="all"))
    for phase in ("prefill", "decode"):
        part = usage_by_group(
            trace_fixture, whole(trace_fixture), seed=0, n_bootstrap=20, sinks="include", phase=phase
        )  # fmt: skip
        share = skippable_compute(trace_fixture).sel(phase=phase)
        np.testing.assert_allclose(part["skippable_compute"].values[:, 0], share)


def test_the_interval_is_the_bootstrap_of_the_ratio_over_samples() -> None:
    trace = synthetic_trace(9, 6, 20, 8, seed=1)
    found = usage_by_group(trace, groups_by_position(trace, (4, 10)), seed=3, n_bootstrap=200, level=0.9)
    for name, inside in (("4-9", range(4, 10)), ("10+", range(10, trace.sizes["token"]))):
        counted = trace["valid"].values[:, inside] & ~trace["sink"].values[:, inside]
        active = (trace["void"].values[:, :, inside] == 0).sum(1) / 6
        expected = bootstrap_ratio(
            (active * counted).sum(1), counted.sum(1).astype(float), seed=3, n=200, confidence=0.9
        )  # fmt: skip
        own = found.sel(group=name)
        np.testing.assert_allclose([own["usage_low"], own["usage_high"]], expected, rtol=1e-9)
        assert float(own["usage_low"]) < float(own["usage"]) < float(own["usage_high"])


def test_several_alphas_are_each_alphas_own(trace_fixture: xr.Dataset) -> None:
    groups = groups_by_class(trace_fixture)
    both = usage_by_group(trace_fixture, groups, voids(trace_fixture, [0.1, 0.8]), seed=0, n_bootstrap=20)
    assert both["usage"].dims == ("alpha", "group")
    assert both["usage_by_layer"].dims == ("alpha", "group", "layer")
    assert both["delta_norm"].dims == ("group", "layer")
    for alpha in (0.1, 0.8):
        one = usage_by_group(trace_fixture, groups, voids(trace_fixture, alpha), seed=0, n_bootstrap=20)
        assert one.attrs["alpha"] == alpha
        for name in ("usage", "usage_low", "exit_depth", "skippable_compute", "usage_by_layer_high"):
            np.testing.assert_allclose(both[name].sel(alpha=alpha), one[name])


def test_given_values_are_averaged_where_there_are_any(trace_fixture: xr.Dataset) -> None:
    kl = xr.full_like(trace_fixture["valid"], np.nan, dtype=float)
    kl[0, 3], kl[0, 4], kl[1, 3] = 1.0, 2.0, 6.0
    by_layer = trace_fixture["delta_norm"] * 2
    values = xr.Dataset({"kl": kl, "twice": by_layer})
    found = usage_by_group(
        trace_fixture, whole(trace_fixture), seed=0, n_bootstrap=20, values=values, sinks="exclude"
    )  # fmt: skip
    assert float(found["kl"].squeeze()) == 3.0
    assert found["kl_n"].values.tolist() == [3]
    np.testing.assert_allclose(found["twice"], 2 * found["delta_norm"])
    assert found["twice_n"].values.tolist() == found["n"].values.tolist()


def test_the_traces_own_measures_are_there() -> None:
    trace = synthetic_trace()
    trace["surprisal"] = trace["delta_norm"].isel(layer=0, drop=True)
    trace["cos_pre_post"] = trace["delta_norm"] * 0 + 0.5
    found = usage_by_group(trace, whole(trace), seed=0, n_bootstrap=20)
    assert (found["cos_pre_post"] == 0.5).all()
    np.testing.assert_allclose(found["surprisal"], found["delta_norm"].isel(layer=0), rtol=1e-6)
    assert "entropy" not in found


def test_no_cost_no_skippable_compute(trace_fixture: xr.Dataset) -> None:
    del trace_fixture.attrs["cost"]
    assert "skippable_compute" not in usage_by_group(trace_fixture, whole(trace_fixture), seed=0, n_bootstrap=20)


def test_what_made_it_stands_in_the_attributes(trace_fixture: xr.Dataset) -> None:
    found = usage_by_group(trace_fixture, groups_by_class(trace_fixture), seed=0, n_bootstrap=20, data="a river")
    assert found.attrs["positions"] == "all tokens read, sinks in groups of their own"
    assert found.attrs["aggregation"] == "tokens pooled over samples, 95 % intervals over samples"
    assert (found.attrs["data"], found.attrs["n_samples"], found.attrs["alpha"]) == ("a river", 3, 0.8)
    assert all(type(value) in (str, int, float) for value in found.attrs.values())


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused(trace_fixture: xr.Dataset) -> None:
    groups = groups_by_class(trace_fixture)

    def asked(**options: object) -> xr.Dataset:
        return usage_by_group(trace_fixture, **{"groups": groups, "seed": 0} | options)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"^unknown sinks 'drop'; choose one of 'apart', 'include', 'exclude'\.$"):
        asked(sinks="drop")
    with pytest.raises(ValueError, match=r"^unknown phase 'PP'; choose one of 'all', 'prefill', 'decode'\.$"):
        asked(phase="PP")
    with pytest.raises(ValueError, match=r"^level must be between 0 and 1"):
        asked(level=95)
    with pytest.raises(ValueError, match=r"^groups has dimensions \('token',\), not \('sample', 'token'\)"):
        asked(groups=groups.isel(sample=0, drop=True))
    with pytest.raises(ValueError, match=r"^groups is of another trace: its 'sample' has 2 entries or other labels"):
        asked(groups=groups.isel(sample=[0, 1]))
    with pytest.raises(ValueError, match=r"^no token is in a group: all tokens read, sinks left out, groups "):
        asked(groups=groups.where(groups == "position 0", ""), sinks="exclude")
    with pytest.raises(ValueError, match=r"^values has 'usage', which the result has of the trace itself: rename it"):
        asked(values=xr.Dataset({"usage": trace_fixture["valid"] * 1.0}))
    with pytest.raises(ValueError, match=r"^values\['kl'\] has dimensions \('sample',\), not \('sample', 'token'\)"):
        asked(values=xr.Dataset({"kl": trace_fixture["sample"] * 1.0}))
    with pytest.raises(TraceError, match=r"^the trace has a dimension 'rule': take each rule on its own"):
        asked(voids=trace_fixture["void"].expand_dims(rule=["one"]))
