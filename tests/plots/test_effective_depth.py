import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.model_measures import effective_depths
from lacscope.plots._effective_depth import plot_effective_depths

pytestmark = pytest.mark.once

LENS = {
    "model": "tiny",
    "data": "numbers",
    "positions": "all tokens",
    "aggregation": "pooled over tokens",
    "n_samples": 3,
    "preset": "other",
}


def depths(*, overlap: float = 0.9) -> xr.Dataset:
    cosine, kl, high = np.array([-1.0, -1, 1, 1, 1]), np.array([8.0, 8, 8, 1, 1]), np.array([0, 0, 0, 0, overlap])
    curves = [xr.DataArray(values, {"layer": range(5)}, "layer") for values in (cosine, kl, high)]
    return effective_depths(*curves, attrs=LENS)


def test_each_criterion_is_a_marker_at_its_layer() -> None:
    ax = plot_effective_depths(depths())
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [1, 3, 4]
    assert [line.get_ydata()[0] for line in ax.get_lines()] == [0, 1, 2]
    assert len({line.get_marker() for line in ax.get_lines()}) == 3
    assert [text.get_text() for text in ax.texts[:3]] == ["1 (40%)", "3 (80%)", "4 (100%)"]
    assert ax.get_xlabel() == "layer"
    low, high = ax.get_xlim()
    assert low < 0 < 4 < high


def test_a_criterion_that_no_layer_meets_has_no_marker() -> None:
    ax = plot_effective_depths(depths(overlap=0.1))
    assert len(ax.get_lines()) == 2
    assert [text.get_position()[1] for text in ax.texts if text.get_text() == "no layer"] == [2]


def test_the_figure_says_what_it_rests_on_and_departs_in() -> None:
    text = " ".join(plot_effective_depths(depths()).texts[-1].get_text().split())
    assert text.startswith("tiny; numbers; n = 3 prompts; all tokens; one layer of the mean curve, pooled over tokens.")
    assert "last_layer = counts (paper: left out), if_none_meets = NaN (paper: -1)" in text


def test_given_axes_are_used() -> None:
    figure, ax = plt.subplots()
    assert plot_effective_depths(depths(), ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"without 'depth'. Give what lacscope.model_measures.effective_depths"):
        plot_effective_depths(depths().drop_vars("depth"))
    with pytest.raises(ValueError, match="has an extra dimension 'model'"):
        plot_effective_depths(depths().expand_dims(model=["a", "b"]))
