"""Effective depth: each criterion on curves whose answer is plain."""

import numpy as np
import pytest
import xarray as xr

from lacscope.model_measures import (
    CSORDAS_PROMPT_FORMAT,
    effective_depths,
    first_high_overlap,
    first_low_kl,
    last_sign_change,
    logit_lens,
    pool_tokens,
    residual_cosines,
)
from lacscope.testing import tiny_model

pytestmark = pytest.mark.once


def curve(*values: float, dim: str = "layer") -> xr.DataArray:
    return xr.DataArray(np.array(values), {dim: np.arange(len(values))}, dim)


def test_last_sign_change() -> None:
    assert last_sign_change(curve(-1, 1, -1, -1, 1, 1)) == 3
    assert last_sign_change(curve(-1, 0, 1)) == 0  # zero counts as positive
    assert last_sign_change(curve(-1, 1, -1)) == 0  # falling again is no change of this kind
    assert np.isnan(last_sign_change(curve(1, 1, -1)))
    assert np.isnan(last_sign_change(curve(-1, -1)))
    assert np.isnan(last_sign_change(curve(1)))


def test_first_low_kl() -> None:
    assert first_low_kl(curve(3, 8, 4, 3.9, 1)) == 0  # low before it rose, as the published code has it
    assert first_low_kl(curve(5, 8, 4, 3.9, 1)) == 3  # half exactly is not under half
    assert first_low_kl(curve(5, 8, 4, 3.9, 1), share=0.2) == 4
    assert np.isnan(first_low_kl(curve(5, 5, 5)))


def test_first_high_overlap() -> None:
    assert first_high_overlap(curve(0, 0.3, 0.31, 0.2, 0.9)) == 2
    assert first_high_overlap(curve(0, 0.3, 0.31, 0.2, 0.9), threshold=0.5) == 4
    assert np.isnan(first_high_overlap(curve(0, 0.1)))


def test_layers_are_read_from_the_coordinate_whatever_its_name() -> None:
    assert first_high_overlap(curve(0, 0.1, 0.5, dim="state").isel(state=slice(1, None))) == 2


def test_the_three_side_by_side() -> None:
    found = effective_depths(curve(-1, -1, 1, 1), curve(8, 8, 8, 1), curve(0, 0, 0, 0))
    assert found["criterion"].values.tolist() == ["cosine", "kl", "overlap"]
    np.testing.assert_array_equal(found["layer"], [1, 3, np.nan])
    np.testing.assert_array_equal(found["depth"], [0.5, 1.0, np.nan])
    strict = effective_depths(curve(-1, -1, 1, 1), curve(8, 8, 3, 1), curve(0, 0.1, 0, 0), share=0.2, threshold=0.05)
    np.testing.assert_array_equal(strict["layer"], [1, 3, 1])


def test_the_last_layer_counts_and_none_is_nan_and_both_are_departures() -> None:
    found = effective_depths(curve(1, 1, 1), curve(8, 8, 1), curve(0, 0, 0.9))
    np.testing.assert_array_equal(found["layer"], [np.nan, 2, 2])
    unnamed = (
        "data not named (paper: GSM8K), prompt_format not named (paper: raw text in style csordas), "
        "samples = 0 (paper: 10), aggregation not named (paper: pooled over tokens)"
    )
    ours = "last_layer = counts (paper: left out), if_none_meets = NaN (paper: -1)"
    said = f"{unnamed}, {ours}"
    assert (found.attrs["preset"], found.attrs["departures"]) == ("hu_2025/effective_depth", said)
    assert found.attrs["n_layers"] == 3
    other = effective_depths(curve(1, 1), curve(8, 8), curve(0, 0), share=0.25)
    assert other.attrs["departures"] == f"{unnamed}, share = 0.25 (paper: 0.5), {ours}"


def test_the_curves_model_data_and_positions_are_taken_over() -> None:
    model = tiny_model(n_layers=3)
    prompts = [[5, 17, 3, 60], [8, 44, 9]]
    lens = pool_tokens(logit_lens(model, prompts, data="numbers", prompt_format=CSORDAS_PROMPT_FORMAT))
    cosines = pool_tokens(residual_cosines(model, prompts, sublayers=False))
    of_layers = lens.isel(state=slice(3))
    curves = (cosines["cos_update_resid"], of_layers["kl"], of_layers["overlap"])
    found = effective_depths(*curves, attrs=lens.attrs)
    ours = "last_layer = counts (paper: left out), if_none_meets = NaN (paper: -1)"
    assert found.attrs["departures"] == f"data = numbers (paper: GSM8K), samples = 2 (paper: 10), {ours}"
    for key in ("model", "dtype", "data", "positions", "n_samples"):
        assert found.attrs[key] == lens.attrs[key], key
    assert (found.attrs["data"], found.attrs["n_samples"]) == ("numbers", 2)
    assert found.attrs["preset"] != lens.attrs["preset"]
    bare = effective_depths(*curves).attrs
    assert (bare["model"], bare["positions"], bare["n_samples"]) == ("model not named", "positions not named", 0)


def test_wrong_curves_are_refused_in_words() -> None:
    flat = curve(0, 1, 2)
    with pytest.raises(ValueError, match=r"'kl' has dimensions \(sample, layer\); .* kl.mean\('sample'\)"):
        first_low_kl(flat.expand_dims(sample=2))
    with pytest.raises(ValueError, match=r"'cosine' is NaN at 1 of 3 layers"):
        last_sign_change(curve(0, np.nan, 1))
    with pytest.raises(ValueError, match=r"'overlap' is NaN at 2 of 2"):
        first_high_overlap(curve(np.nan, np.nan))
    with pytest.raises(ValueError, match=r"have 3, 4 and 3 values: .* of the L \+ 1 states of a logit lens leave out"):
        effective_depths(flat, curve(0, 1, 2, 3), flat)
