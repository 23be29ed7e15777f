import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots import plot_usage_by_alpha
from lacscope.trace_analyses._usage import layer_usage, usage_by_alpha

pytestmark = pytest.mark.once

ALPHAS = [0.8, 0.0, 0.4]


def test_lines_are_the_usage_in_the_order_of_alpha(trace: xr.Dataset) -> None:
    usage = usage_by_alpha(trace, ALPHAS)
    ax = plot_usage_by_alpha(usage)
    for line, phase in zip(ax.get_lines(), ("prefill", "decode"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0.0, 0.4, 0.8])
        np.testing.assert_array_equal(line.get_ydata(), [usage.sel(alpha=a, phase=phase) for a in (0.0, 0.4, 0.8)])
    first, second = ax.get_lines()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] >= 1


def test_legend_says_n_and_what_was_pooled(trace: xr.Dataset) -> None:
    legend = plot_usage_by_alpha(usage_by_alpha(trace, ALPHAS, sinks="exclude")).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["prefill (n = 36 tokens)", "decode (n = 14 tokens)"]
    assert legend.get_title().get_text() == "pooled over tokens, sinks left out"


def test_a_phase_without_tokens_is_said_and_not_drawn(prompt_only: xr.Dataset) -> None:
    ax = plot_usage_by_alpha(usage_by_alpha(prompt_only, ALPHAS))
    assert len(ax.get_lines()) == 1
    assert ax.get_legend().get_texts()[1].get_text() == "decode: no tokens"


def test_the_given_axes_are_used_and_stay_readable_when_small(trace: xr.Dataset) -> None:
    figure, ax = plt.subplots(figsize=(3, 2.6), layout="constrained")
    assert plot_usage_by_alpha(usage_by_alpha(trace, ALPHAS), ax) is ax
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.y0 >= ax.bbox.y1
    assert legend.x1 <= figure.bbox.x1


def test_wrong_input(trace: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"dimensions \(phase, layer\), without 'alpha'. Give what lacscope.usage_by"):
        plot_usage_by_alpha(layer_usage(trace))
    with pytest.raises(ValueError, match=r"without 'n'"):
        plot_usage_by_alpha(usage_by_alpha(trace, ALPHAS).drop_vars("n"))
