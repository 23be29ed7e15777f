"""The norm profile against plain loops over the trace's own numbers; a run's norms table against weighted means."""

import statistics

import numpy as np
import pytest
import xarray as xr
from oracle import mean

from lacscope.testing import synthetic_norms, synthetic_trace
from lacscope.trace_analyses._norms import QUANTITIES, norm_profile, norms_by_layer
from lacscope.traces._schema import PHASES

pytestmark = pytest.mark.once


def values(trace: xr.Dataset, quantity: str, phase: str, layer: int) -> tuple[list[float], list[float]]:
    """(sinks', others') values of one layer and phase."""
    sinks, others = [], []
    for sample in range(trace.sizes["sample"]):
        for token in range(trace.sizes["token"]):
            if trace["valid"].values[sample, token] and trace["phase"].values[sample, token] == phase:
                kept = sinks if trace["sink"].values[sample, token] else others
                kept.append(float(trace[quantity].values[sample, layer, token]))
    return sinks, others


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("phase", PHASES)
def test_equals_the_plain_loops(trace_fixture: xr.Dataset, quantity: str, phase: str) -> None:
    found = norm_profile(trace_fixture)
    for layer in range(trace_fixture.sizes["layer"]):
        sinks, others = values(trace_fixture, quantity, phase, layer)
        cell = found.sel(quantity=quantity, phase=phase, layer=layer)
        quartiles = statistics.quantiles(others, n=4, method="inclusive")
        for name, expected in zip(("q25", "median", "q75"), quartiles, strict=True):
            assert cell[name].item() == pytest.approx(expected, rel=1e-5)
        assert cell["mean"].item() == pytest.approx(mean(sinks + others), rel=1e-5, abs=1e-5)
        sizes = [abs(value) for value in sinks]
        share = sum(sizes) / sum(abs(value) for value in sinks + others)
        assert cell["sink_share"].item() == pytest.approx(share, rel=1e-5)
        assert (cell["n"].item(), cell["n_sinks"].item()) == (len(others), len(sinks))


def test_dimensions(trace_fixture: xr.Dataset) -> None:
    found = norm_profile(trace_fixture)
    for name in ("q25", "median", "q75", "mean", "sink_share"):
        assert found[name].dims == ("quantity", "phase", "layer"), name
    assert found["n"].dims == found["n_sinks"].dims == ("phase",)


def test_sinks_move_the_mean_and_not_the_median(trace_fixture: xr.Dataset) -> None:
    found = norm_profile(trace_fixture).sel(quantity="resid_post_norm", phase="prefill")
    assert (found["sink_share"].values[1:-1] > 0.5).all()
    assert (found["mean"].values[1:-1] > 2 * found["median"].values[1:-1]).all()
    # Another decade on the sinks moves no quartile.
    louder = trace_fixture.copy(deep=True)
    louder["resid_post_norm"].values[:, :, 0] *= 10
    np.testing.assert_array_equal(norm_profile(louder)["median"], norm_profile(trace_fixture)["median"])


def test_no_decode_tokens_give_nan_with_n_0() -> None:
    found = norm_profile(synthetic_trace(decode_tokens=0)).sel(phase="decode")
    assert found["n"] == 0
    for name in ("q25", "median", "q75", "mean", "sink_share"):
        assert found[name].isnull().all(), name


def test_order_of_samples_and_padding_change_nothing(trace_fixture: xr.Dataset) -> None:
    expected = norm_profile(trace_fixture)
    xr.testing.assert_allclose(norm_profile(trace_fixture.isel(sample=[2, 0, 1])), expected)
    # What the padding holds beside NaN norms is nobody's business.
    noisy = trace_fixture.copy(deep=True)
    noisy["sink"].values[~noisy["valid"].values] = True
    noisy["phase"].values[~noisy["valid"].values] = "decode"
    xr.testing.assert_identical(norm_profile(noisy), expected)


# --- a run's norms table --------------------------------------------------------------------------------


def test_samples_weigh_as_many_tokens_as_they_have() -> None:
    norms = synthetic_norms(3, n_layers=2)
    norms.loc[norms["sample"] == 0, "n"] = 100
    row = norms_by_layer(norms).query("phase == 'prefill' and layer == 1").iloc[0]
    one = norms[(norms["phase"] == "prefill") & (norms["layer"] == 1)].sort_values("sample")
    for name in ("resid_post_norm_mean", "delta_norm_median"):
        assert row[name] == pytest.approx(np.average(one[name], weights=[100, 40, 40]))
    assert (row["n"], row["samples"]) == (180, 3)


def test_samples_without_tokens_of_a_phase_do_not_count() -> None:
    norms = synthetic_norms(3, n_layers=2)
    empty = (norms["sample"] == 0) & (norms["phase"] == "decode")
    norms.loc[empty, "n"] = 0
    norms.loc[empty, [f"{quantity}_mean" for quantity in QUANTITIES]] = np.nan
    found = norms_by_layer(norms).query("phase == 'decode'")
    assert found["samples"].tolist() == [2, 2]
    assert found["n"].tolist() == [10, 10]
    assert found["delta_norm_mean"].notna().all()


def test_a_norms_table_that_lacks_columns_is_refused() -> None:
    norms = synthetic_norms(3)
    with pytest.raises(
        ValueError, match=r"^the norms lack sample, n; they have model, .*\. Give a run's norms table\.$"
    ):
        norms_by_layer(norms.drop(columns=["sample", "n"]))
