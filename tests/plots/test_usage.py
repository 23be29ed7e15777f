from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle, StepPatch

from lacscope.plots import plot_usage
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._usage import layer_usage, token_usage
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

PHASES = ("prefill", "decode")


def legend_texts(ax: Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def bars_of(ax: Axes) -> list[list[Rectangle]]:
    return [list(container) for container in ax.containers]


def steps_of(ax: Axes) -> list[StepPatch]:
    return [patch for patch in ax.patches if isinstance(patch, StepPatch)]


def test_bar_heights_are_the_usage(trace: xr.Dataset) -> None:
    usage = layer_usage(trace)
    by_layer, _, _ = plot_usage(usage, token_usage(trace))
    prefill, decode = bars_of(by_layer)
    for bars, phase in zip((prefill, decode), PHASES, strict=True):
        np.testing.assert_array_equal([bar.get_height() for bar in bars], usage.sel(phase=phase))
        assert {round(bar.get_x() + bar.get_width() / 2) for bar in bars} == set(range(12))
    for left, right in zip(prefill, decode, strict=True):
        assert left.get_x() + left.get_width() == pytest.approx(right.get_x())
    assert by_layer.get_ylim()[0] == 0
    assert by_layer.get_ylim()[1] >= 1


def test_phases_differ_by_more_than_colour(trace: xr.Dataset) -> None:
    by_layer, active, _ = plot_usage(layer_usage(trace), token_usage(trace))
    prefill, decode = bars_of(by_layer)
    assert prefill[0].get_hatch() != decode[0].get_hatch()
    first, second = steps_of(active)
    assert first.get_fill() != second.get_fill()


@pytest.mark.parametrize(("panel", "name", "per_bin"), [(1, "active_layers", 1), (2, "exit_depth", 12)])
def test_distributions_count_each_token_once(trace: xr.Dataset, panel: int, name: str, per_bin: int) -> None:
    per_token = token_usage(trace)
    ax = plot_usage(layer_usage(trace), per_token)[panel]
    for steps, phase in zip(steps_of(ax), PHASES, strict=True):
        values = per_token[name].values[per_token["phase"].values == phase]
        want = [np.mean(np.round(values * per_bin) == layers) for layers in range(13)]
        heights, edges, _ = steps.get_data()
        np.testing.assert_allclose(heights, want)
        np.testing.assert_allclose((edges[:-1] + edges[1:]) / 2 * per_bin, np.arange(13), atol=1e-9)
        assert heights.sum() == pytest.approx(1)


def test_n_is_in_every_legend(trace: xr.Dataset) -> None:
    for ax in plot_usage(layer_usage(trace), token_usage(trace)):
        assert legend_texts(ax) == ["prefill (n = 39 tokens)", "decode (n = 14 tokens)"]
        assert "sinks included" in ax.get_legend().get_title().get_text()


def test_sinks_left_out_of_usage_are_left_out_beside_it(trace: xr.Dataset) -> None:
    per_token = token_usage(trace)
    panels = plot_usage(layer_usage(trace, sinks="exclude"), per_token)
    for ax in panels:
        assert legend_texts(ax)[0] == "prefill (n = 36 tokens)"
        assert "sinks left out" in ax.get_legend().get_title().get_text()
    kept = (per_token["phase"] == "prefill").values & ~per_token["sink"].values
    want = np.bincount(per_token["active_layers"].values[kept].astype(int), minlength=13) / 36
    np.testing.assert_allclose(steps_of(panels[1])[0].get_data().values, want)


def test_samples_are_counted_where_they_were_averaged(trace: xr.Dataset) -> None:
    by_layer, active, _ = plot_usage(layer_usage(trace, weight="sample"), token_usage(trace))
    assert legend_texts(by_layer) == ["prefill (n = 3 samples)", "decode (n = 3 samples)"]
    assert "mean of the samples' shares" in by_layer.get_legend().get_title().get_text()
    assert legend_texts(active)[0] == "prefill (n = 39 tokens)"


def test_a_phase_without_tokens_is_said_and_not_drawn(prompt_only: xr.Dataset) -> None:
    by_layer, active, depth = plot_usage(layer_usage(prompt_only), token_usage(prompt_only))
    assert len(bars_of(by_layer)) == len(steps_of(active)) == len(steps_of(depth)) == 1
    for ax in (by_layer, active, depth):
        assert legend_texts(ax)[1] == "decode: no tokens"


def test_one_phase_alone_stands_on_its_layer(trace: xr.Dataset) -> None:
    by_layer, active, _ = plot_usage(layer_usage(trace).sel(phase=["decode"]), token_usage(trace))
    (bars,) = bars_of(by_layer)
    assert bars[3].get_x() + bars[3].get_width() / 2 == pytest.approx(3)
    assert legend_texts(active) == ["decode (n = 14 tokens)"]


@pytest.mark.parametrize("n_layers", [4, 30, 80])
def test_legends_and_labels_stay_clear(n_layers: int) -> None:
    trace = synthetic_trace(n_layers=n_layers)
    panels = plot_usage(layer_usage(trace), token_usage(trace))
    figure = panels[0].figure
    figure.canvas.draw()
    right_end = 0.0
    for ax in panels:
        legend, whole = ax.get_legend().get_window_extent(), ax.get_tightbbox()
        assert legend.y0 >= ax.bbox.y1
        assert whole.x0 >= right_end
        right_end = whole.x1
        ticks = [tick.get_window_extent() for tick in ax.get_xticklabels() if tick.get_text()]
        shown = [box for box in ticks if ax.bbox.x0 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1]
        assert all(a.x1 < b.x0 for a, b in pairwise(shown))
    assert right_end <= figure.bbox.x1


def test_more_layers_make_a_wider_figure() -> None:
    widths = []
    for n_layers in (30, 80):
        trace = synthetic_trace(n_layers=n_layers)
        widths.append(plot_usage(layer_usage(trace), token_usage(trace))[0].figure.get_figwidth())
    assert widths[0] < widths[1]


def test_given_axes_are_drawn_on_and_returned(trace: xr.Dataset) -> None:
    figure, axes = plt.subplots(3, 1, figsize=(5, 9), layout="constrained")
    panels = plot_usage(layer_usage(trace), token_usage(trace), list(axes))
    assert list(panels) == list(axes)
    assert plt.get_fignums() == [figure.number]


def test_wrong_input(trace: xr.Dataset) -> None:
    usage, per_token = layer_usage(trace), token_usage(trace)
    several = voids(trace, [0.0, 0.8])
    with pytest.raises(ValueError, match=r"'usage' has an extra dimension 'alpha'.*alpha is one of 0.0, 0.8: select"):
        plot_usage(layer_usage(trace, several), per_token)
    with pytest.raises(ValueError, match=r"'per_token' has an extra dimension 'alpha'"):
        plot_usage(usage, token_usage(trace, several))
    with pytest.raises(ValueError, match=r"dimensions \(layer\), without 'phase'. Give what lacscope.layer_usage"):
        plot_usage(layer_usage(trace, by="all"), per_token)
    with pytest.raises(ValueError, match=r"without 'n'. Give what lacscope.layer_usage\(trace\) returns"):
        plot_usage(usage.drop_vars("n"), per_token)
    with pytest.raises(ValueError, match=r"without 'exit_depth'. Give what lacscope.token_usage\(trace\) returns"):
        plot_usage(usage, per_token.drop_vars("exit_depth"))
    with pytest.raises(ValueError, match=r"'usage' only 2 layers: they are of different traces"):
        plot_usage(usage.isel(layer=slice(2)), per_token)
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match=r"draws on 3 axes, got 2"):
        plot_usage(usage, per_token, axes)
