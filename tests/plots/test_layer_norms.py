import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lacscope.plots import plot_layer_norms
from lacscope.testing import synthetic_norms
from lacscope.trace_analyses._norms import norms_by_layer

pytestmark = pytest.mark.once

QUANTITIES = ("resid_post_norm", "delta_norm")


def legend_texts(ax: plt.Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def test_thick_means_and_thin_medians_are_the_table() -> None:
    table = norms_by_layer(synthetic_norms(4, n_layers=9))
    for ax, quantity in zip(plot_layer_norms(table.sample(frac=1, random_state=0)), QUANTITIES, strict=True):
        lines = ax.get_lines()[:4]
        for phase, (mean, median) in zip(("prefill", "decode"), (lines[:2], lines[2:]), strict=True):
            rows = table[table["phase"] == phase].sort_values("layer")
            np.testing.assert_array_equal(mean.get_ydata(), rows[f"{quantity}_mean"])
            np.testing.assert_array_equal(median.get_ydata(), rows[f"{quantity}_median"])
            assert median.get_linewidth() < mean.get_linewidth()


def test_labels_say_units_counts_and_that_sinks_are_excluded() -> None:
    for ax in plot_layer_norms(norms_by_layer(synthetic_norms(4))):
        assert "stream units" in ax.get_ylabel()
        assert "sinks excluded" in ax.get_ylabel()
        assert legend_texts(ax) == [
            "prefill, mean (n = 160 tokens of 4 samples)",
            "decode, mean (n = 20 tokens of 4 samples)",
            "thin: median (samples' medians averaged)",
        ]


@pytest.mark.parametrize(("spread", "scale"), [(1.0, "linear"), (100.0, "log")])
def test_the_norms_scale_follows_their_spread(spread: float, scale: str) -> None:
    table = norms_by_layer(synthetic_norms(4))
    late = table["layer"] > 6
    table.loc[late, ["resid_post_norm_mean", "resid_post_norm_median"]] *= spread
    left, right = plot_layer_norms(table)
    assert left.get_yscale() == scale
    assert ("log" in left.get_ylabel()) == (scale == "log")
    assert right.get_yscale() == "linear"


def test_a_phase_without_tokens_is_said() -> None:
    table = norms_by_layer(synthetic_norms(4))
    left, _ = plot_layer_norms(table[table["phase"] == "prefill"])
    assert legend_texts(left)[1] == "decode: no tokens"


@pytest.mark.parametrize("n_layers", [4, 30, 80])
def test_everything_is_inside_the_axes_and_below_the_legend(n_layers: int) -> None:
    panels = plot_layer_norms(norms_by_layer(synthetic_norms(4, n_layers)))
    panels[0].figure.canvas.draw()
    for ax in panels:
        low, high = ax.get_ylim()
        assert all(low <= np.min(line.get_ydata()) and np.max(line.get_ydata()) <= high for line in ax.get_lines())
        assert ax.get_legend().get_window_extent().y0 >= ax.bbox.y1


def test_wrong_input() -> None:
    norms = synthetic_norms(3)
    table = norms_by_layer(norms)
    with pytest.raises(ValueError, match=r"several rows of one phase and layer; average over samples first: lacscope"):
        plot_layer_norms(norms)
    with pytest.raises(ValueError, match=r"without 'delta_norm_mean'"):
        plot_layer_norms(table.drop(columns="delta_norm_mean"))
    with pytest.raises(ValueError, match=r"several values of 'model' \(synthetic, other\)"):
        plot_layer_norms(pd.concat([table, table.assign(model="other")]))
    with pytest.raises(ValueError, match=r"has phase 'answer'; a phase is one of prefill, decode"):
        plot_layer_norms(table.replace({"phase": {"decode": "answer"}}))
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"draws on 2 axes, got 3"):
        plot_layer_norms(table, axes)
