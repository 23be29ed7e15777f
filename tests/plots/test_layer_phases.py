import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots import plot_usage_by_layer
from lacscope.reproduction.scores._scores import usage_by_layer
from lacscope.testing import synthetic_scores, synthetic_trace
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once


def usage_of(prefill: list[float], decode: list[float], n: tuple[int, int] = (40, 10)) -> xr.DataArray:
    coords = {"phase": ["prefill", "decode"], "layer": np.arange(len(prefill)), "n": ("phase", list(n))}
    return xr.DataArray([prefill, decode], dims=("phase", "layer"), coords=coords)


def legend_texts(ax: plt.Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def test_raw_and_divided_by_each_phases_own_maximum() -> None:
    raw, relative = plot_usage_by_layer(usage_of([0.8, 0.2, 0.4], [0.5, 0.1, 0.25]))
    np.testing.assert_array_equal([line.get_ydata() for line in raw.get_lines()], [[0.8, 0.2, 0.4], [0.5, 0.1, 0.25]])
    np.testing.assert_allclose([line.get_ydata() for line in relative.get_lines()], [[1, 0.25, 0.5], [1, 0.2, 0.5]])
    assert legend_texts(raw)[0] == "prefill (n = 40 tokens)"
    assert legend_texts(relative) == [
        "prefill (n = 40 tokens), divided by 0.80",
        "decode (n = 10 tokens), divided by 0.50",
    ]


def test_the_axis_says_whose_normalisation_it_is() -> None:
    _, relative = plot_usage_by_layer(usage_of([0.8, 0.2], [0.5, 0.1]))
    assert relative.get_ylabel().replace("\n", " ") == (
        "share of the phase's maximum (our normalisation; the paper does not state its own)"
    )


def test_a_runs_dataset_at_one_alpha() -> None:
    scores = synthetic_scores(6, 8, alphas=(0.0, 0.4, 0.8))
    dataset = usage_by_layer(scores).sel(alpha=0.8)
    raw, relative = plot_usage_by_layer(dataset)
    for row, phase in enumerate(("prefill", "decode")):
        np.testing.assert_array_equal(raw.get_lines()[row].get_ydata(), dataset["usage"].sel(phase=phase))
        np.testing.assert_allclose(relative.get_lines()[row].get_ydata(), dataset["relative"].sel(phase=phase))
    assert raw.figure.get_suptitle() == "synthetic, boolq: usage by layer at alpha = 0.8"


def test_phases_without_tokens_or_activity_are_said() -> None:
    raw, relative = plot_usage_by_layer(usage_of([0.8, 0.2], [0.0, 0.0]))
    assert legend_texts(relative)[1] == "decode (n = 10 tokens): no active layer"
    assert len(raw.get_lines()) == 2
    assert len(relative.get_lines()) == 1
    raw, relative = plot_usage_by_layer(usage_of([0.8, 0.2], [np.nan, np.nan], (40, 0)))
    assert legend_texts(raw)[1] == legend_texts(relative)[1] == "decode: no tokens"
    assert len(raw.get_lines()) == len(relative.get_lines()) == 1


@pytest.mark.parametrize("n_layers", [4, 28, 80])
def test_legends_stay_clear(n_layers: int) -> None:
    panels = plot_usage_by_layer(layer_usage(synthetic_trace(n_layers=n_layers)))
    panels[0].figure.canvas.draw()
    for ax in panels:
        assert ax.get_legend().get_window_extent().y0 >= ax.bbox.y1
        assert ax.get_xlim()[1] > n_layers - 1


def test_the_given_axes_are_used(trace: xr.Dataset) -> None:
    figure, axes = plt.subplots(2, 1, layout="constrained")
    assert list(plot_usage_by_layer(layer_usage(trace), axes)) == list(axes)
    assert plt.get_fignums() == [figure.number]
    assert figure.get_suptitle() == ""


def test_wrong_input(trace: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"extra dimension 'alpha'.*alpha is one of 0.0, 0.8: select one"):
        plot_usage_by_layer(layer_usage(trace, voids(trace, [0.0, 0.8])))
    with pytest.raises(ValueError, match=r"without 'usage'"):
        plot_usage_by_layer(layer_usage(trace).to_dataset(name="share"))
    with pytest.raises(ValueError, match=r"without 'n'"):
        plot_usage_by_layer(layer_usage(trace).drop_vars("n"))
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"draws on 2 axes, got 3"):
        plot_usage_by_layer(layer_usage(trace), axes)
