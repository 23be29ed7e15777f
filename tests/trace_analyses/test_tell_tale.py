"""The Tell-Tale Norm's signals against plain loops as the authors' code has them, and by hand."""

import statistics

import numpy as np
import pytest
import xarray as xr

from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._tell_tale import (
    SIGNALS,
    late_layers,
    norm_signals,
    norm_thresholds,
    rank_candidates,
)

pytestmark = pytest.mark.once


def decode_norms(trace: xr.Dataset, sample: int, layer: int, stream: str = "resid_post_norm") -> list[float]:
    valid, phase = trace["valid"].values[sample], trace["phase"].values[sample]
    norms = trace[stream].values[sample, layer]
    return [float(norms[t]) for t in range(len(norms)) if valid[t] and phase[t] == "decode"]


@pytest.mark.parametrize("stream", ["resid_post_norm", "resid_pre_norm"])
def test_thresholds_equal_the_plain_quartiles(trace_fixture: xr.Dataset, stream: str) -> None:
    found = norm_thresholds(trace_fixture, stream=stream)
    for layer in range(trace_fixture.sizes["layer"]):
        pooled = [norm for sample in range(3) for norm in decode_norms(trace_fixture, sample, layer, stream)]
        low, _, high = statistics.quantiles(pooled, n=4, method="inclusive")
        assert found.values[layer] == pytest.approx(high + 1.5 * (high - low), rel=1e-6)
        assert int(found["n"]) == len(pooled)


def test_signals_equal_plain_loops() -> None:
    trace = synthetic_trace(n_samples=4, n_layers=6, decode_tokens=11, seed=2)  # 70 % of 11 is no whole number
    # Lower than a calibration would have them, so that something is above.
    thresholds = norm_thresholds(trace) * 0.8
    found = norm_signals(trace, thresholds.assign_attrs(stream="resid_post_norm"))
    for sample in range(4):
        for layer in range(6):
            norms, tau = decode_norms(trace, sample, layer), float(thresholds[layer])
            events = [max(0.0, norm - tau) for norm in norms]
            start = int((1 - 0.3) * len(events))
            expected = {
                "norm_sum": sum(norms),
                "excess": sum(events),
                "count_above": sum(norm > tau for norm in norms),
                "late_excess": sum(events[start:]),
            }
            for name, value in expected.items():
                assert found[name].values[sample, layer] == pytest.approx(value, rel=1e-6), name
        assert found["n_decode"].values[sample] == len(norms)
    assert (found["excess"].values > 0).any()
    assert (found["late_excess"].values < found["excess"].values).any()


def hand_made() -> xr.Dataset:
    """Two responses of 10 and 5 decode tokens; of the first the norms at layer 0 are 1 .. 10."""
    trace = synthetic_trace(n_samples=2, n_layers=4, prompt_tokens=5, decode_tokens=10)
    rows = trace.copy(deep=True)
    for sample in range(2):
        decode = np.flatnonzero(rows["phase"].values[sample] == "decode")
        rows["resid_post_norm"].values[sample][:, decode] = np.arange(1, len(decode) + 1)
    return rows


def test_by_hand() -> None:
    trace = hand_made()
    thresholds = xr.DataArray([6.0, 0.0, 10.0, 7.5], {"layer": range(4)}, ("layer",))
    found = norm_signals(trace, thresholds).isel(sample=0)
    assert found["norm_sum"].values.tolist() == [55, 55, 55, 55]
    assert found["excess"].values.tolist() == [1 + 2 + 3 + 4, 55, 0, 0.5 + 1.5 + 2.5]
    assert found["count_above"].values.tolist() == [4, 10, 0, 3]
    # The last 3 of 10 tokens: 8, 9, 10.
    assert found["late_excess"].values.tolist() == [2 + 3 + 4, 27, 0, 4.5]
    assert norm_signals(trace, thresholds, late_share=1)["late_excess"].values[0, 0] == 10
    # A norm that equals its threshold is not above it.
    assert found["count_above"].values[2] == 0


def test_a_response_without_decode_tokens_has_no_signal_and_is_last() -> None:
    trace = synthetic_trace(n_samples=4, decode_tokens=1)  # every second sample has none
    found = norm_signals(trace, norm_thresholds(trace) * 1e6)
    assert found["n_decode"].values.tolist() == [1, 0, 1, 0]
    for name in SIGNALS:
        assert np.isnan(found[name].values[1::2]).all()
        assert np.isfinite(found[name].values[::2]).all()
    # An excess of 0 is still that of a response.
    ranking = rank_candidates(found, "excess")
    assert ranking["rank"].values.tolist() == [1.5, 3.5, 1.5, 3.5]
    np.testing.assert_array_equal(ranking["score"].values, [0, np.nan, 0, np.nan])


def test_sinks_can_be_left_out() -> None:
    trace = hand_made()
    marked = trace.copy(deep=True)
    last = int(np.flatnonzero(marked["phase"].values[0] == "decode")[-1])
    marked["sink"].values[0, last] = True
    thresholds = xr.DataArray([6.0, 0.0, 10.0, 7.5], {"layer": range(4)}, ("layer",))
    assert norm_signals(marked, thresholds, sinks="exclude")["norm_sum"].values[0, 0] == 45
    assert norm_signals(marked, thresholds)["norm_sum"].values[0, 0] == 55
    assert int(norm_thresholds(marked, sinks="exclude")["n"]) == int(norm_thresholds(marked)["n"]) - 1


def test_late_layers_are_the_authors() -> None:
    assert late_layers(28) == (21, 22, 23, 24, 25, 26)
    assert [late_layers(n) for n in (2, 3, 4, 5)] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(ValueError, match="a model of 1 layers has no late ones"):
        late_layers(1)


def scored(values: list[list[float]]) -> xr.Dataset:
    array = np.array(values)
    ds = xr.Dataset({name: (("sample", "layer"), array * (i + 1)) for i, name in enumerate(SIGNALS)})
    return ds.assign_coords(sample=range(len(values)), layer=range(array.shape[1]))


def test_ranks_by_hand() -> None:
    signals = scored([[0, 0, 5, 9], [9, 9, 7, 0], [1, 1, 5, 1]])
    # Of four layers the third is the late one.
    assert rank_candidates(signals)["rank"].values.tolist() == [2.5, 1, 2.5]
    everything = rank_candidates(signals, "norm_sum", layers="all")
    assert everything["score"].values.tolist() == [14, 25, 8]
    assert everything["rank"].values.tolist() == [2, 1, 3]
    assert rank_candidates(signals, layers=[3])["rank"].values.tolist() == [1, 3, 2]
    assert everything.attrs["layers"] == "0, 1, 2, 3"


def test_candidates_are_ranked_within_their_question() -> None:
    signals = scored([[0, 0, 1, 0], [0, 0, 9, 0], [0, 0, 3, 0], [0, 0, 4, 0]])
    assert rank_candidates(signals, questions=["a", "b", "a", "b"])["rank"].values.tolist() == [2, 1, 1, 2]


def test_attributes_name_source_and_departures(trace_fixture: xr.Dataset) -> None:
    found = norm_signals(trace_fixture, norm_thresholds(trace_fixture), late_share=0.5, data="GSM8K")
    assert found.attrs["departures"] == "late_share = 0.5 (paper: 0.3)"
    assert found.attrs["data"] == "GSM8K"
    assert found["excess"].attrs["long_name"].startswith("B:")


def test_wrong_input(trace_fixture: xr.Dataset) -> None:
    thresholds = norm_thresholds(trace_fixture)
    with pytest.raises(ValueError, match=r"thresholds have dimensions \('layer',\) and 3 values; the trace has 12"):
        norm_signals(trace_fixture, thresholds[:3])
    with pytest.raises(ValueError, match="are of stream 'resid_post_norm', the signals of 'resid_pre_norm': take one"):
        norm_signals(trace_fixture, thresholds, stream="resid_pre_norm")
    with pytest.raises(ValueError, match="are of sinks 'include', the signals of 'exclude': take one for both"):
        norm_signals(trace_fixture, thresholds, sinks="exclude")
    other = trace_fixture.assign_attrs(model="another")
    with pytest.raises(ValueError, match=r"are of model '.*', the signals of 'another': take one for both"):
        norm_signals(other, thresholds)
    with pytest.raises(ValueError, match=r"late_share must be a number above 0 and up to 1, got 0"):
        norm_signals(trace_fixture, thresholds, late_share=0.0)
    with pytest.raises(ValueError, match="no decode token: give max_new_tokens="):
        norm_thresholds(synthetic_trace(decode_tokens=0))
    signals = norm_signals(trace_fixture, thresholds)
    with pytest.raises(ValueError, match="the signals have layers 0 to 11; choose among those"):
        rank_candidates(signals, layers=[12])
    with pytest.raises(ValueError, match="questions names 2 of 3 samples"):
        rank_candidates(signals, questions=["a", "b"])


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_are_answered_with_the_known_ones(trace_fixture: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="stream must be 'resid_post_norm' or 'resid_pre_norm', got 'delta_norm'"):
        norm_thresholds(trace_fixture, stream="delta_norm")
    signals = norm_signals(trace_fixture, norm_thresholds(trace_fixture))
    with pytest.raises(ValueError, match="unknown signal 'B'; choose one of 'norm_sum', 'excess'"):
        rank_candidates(signals, "B")
