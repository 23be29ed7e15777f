"""Several results in one figure: each at its own depth, each with its own look, what they share said once."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope.plots import plot_together
from lacscope.plots._together import _look
from lacscope.testing import synthetic_trace

pytestmark = pytest.mark.once

PROMPTS = [[5, 17, 3, 60], [8, 44, 9]]


def result(n_layers: int, n_samples: int = 3, **attrs: Any) -> xr.Dataset:
    values = np.random.default_rng(n_layers).random((n_samples, n_layers))
    named = {"importance": "score", "model": f"m{n_layers}", "data": "toy", "quantization": "", **attrs}
    found = xr.Dataset({"score": (("sample", "layer"), values)}, {"layer": np.arange(n_layers)}, named)
    found["score"].attrs = {"long_name": "score of the layer", "units": "nats"}
    return lacscope.traces.with_spread(found)


def test_results_of_one_depth_share_the_axis_of_layers() -> None:
    one, other = result(5), result(5, data="texts")
    ax = plot_together({"toy": one, "texts": other})
    lines = ax.get_lines()
    np.testing.assert_array_equal(lines[0].get_xdata(), range(5))
    np.testing.assert_allclose(lines[1].get_ydata(), other["score"].mean("sample"))
    assert ax.get_xlabel() == "layer"
    assert ax.get_ylabel() == "score of the layer\n(nats)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["toy (n = 3 samples)", "texts (n = 3 samples)"]
    caption = ax.texts[0].get_text()
    assert caption.startswith("m5; data: toy = toy, texts = texts")


def test_where_depths_differ_the_axis_is_relative() -> None:
    small, large = result(4), result(8)
    ax = plot_together({"small": small, "large": large})
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(ax.get_lines()[1].get_xdata()[[0, -1]], [1 / 16, 15 / 16])
    assert ax.get_xlabel() == "relative depth"
    assert ax.get_xlim() == (0, 1)


def test_arrays_and_states_are_drawn_too() -> None:
    usage = {str(n): lacscope.layer_usage(synthetic_trace(n_layers=n)).sel(phase="prefill") for n in (4, 6)}
    ax = plot_together(usage)
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), usage["6"])
    assert "tokens)" in ax.get_legend().get_texts()[0].get_text()
    lens = {name: result(n).rename(layer="state") for name, n in (("a", 3), ("b", 5))}
    x = [line.get_xdata().tolist() for line in plot_together(lens, "score").get_lines()]
    assert x == [[0, 0.5, 1], [0, 0.25, 0.5, 0.75, 1]]


def test_measures_of_two_models_go_in_as_they_come(tiny: Any) -> None:
    other = lacscope.testing.tiny_model("gpt2", n_layers=3)
    found = {name: lacscope.block_influence(model, PROMPTS) for name, model in (("llama", tiny), ("gpt2", other))}
    axes = plt.subplots()[1]
    assert plot_together(found, ax=axes) is axes
    assert len(axes.get_lines()) == 2


def test_what_cannot_be_drawn_together_is_refused() -> None:
    one = result(4)
    with pytest.raises(ValueError, match="results must be two results or more by their labels"):
        plot_together({"alone": one})
    with pytest.raises(ValueError, match=r"results\['b'\] has no variable 'kl'; it has score"):
        plot_together({"a": one.assign(kl=one["score"]), "b": one}, "kl")
    unnamed = result(4).assign(other=("layer", np.zeros(4)))
    del unnamed.attrs["importance"]
    with pytest.raises(ValueError, match=r"results\['b'\] has score, other: say which with variable="):
        plot_together({"a": one, "b": unnamed})
    with pytest.raises(ValueError, match="some results are by layer and some by state"):
        plot_together({"a": one, "b": one.rename(layer="state")})
    with pytest.raises(ValueError, match=r"'results\['a'\]' has an extra dimension 'phase'"):
        plot_together({"a": lacscope.layer_usage(synthetic_trace()), "b": one})


def test_no_two_of_sixteen_lines_look_the_same() -> None:
    looks = [_look(place) for place in range(16)]
    assert len(set(looks)) == 16
