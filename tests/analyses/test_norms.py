"""The norm profile against plain loops over the trace's own numbers."""

import statistics

import numpy as np
import pytest
import xarray as xr
from oracle import mean

from lacscope.analyses.norms import QUANTITIES, norm_profile
from lacscope.dataset import PHASES
from lacscope.testing import synthetic_trace


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
