import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots._depth_score import plot_depth_scores

pytestmark = pytest.mark.once

ATTRS = {
    "model": "made up",
    "data": "1 hop: a; 2 hops: b",
    "n_samples": 21,
    "positions": "measured at p >= t",
    "aggregation": "mean over prompts",
    "preset": "csordas_2025/depth_score",
    "departures": "",
    "n_layers": 30,
    "confidence": 0.95,
}


def scores(*, intervals: bool = True) -> xr.Dataset:
    score = np.array([[10.0, 14.0], [11.0, 15.0]])
    half = 1.0 if intervals else np.nan
    dims = ("group", "measure")
    return xr.Dataset(
        {"score": (dims, score), "low": (dims, score - half), "high": (dims, score + 2 * half)},
        coords={
            "group": ["1 hop", "2 hops"],
            "measure": ["later layers", "output"],
            "n_samples": ("group", [20, 1]),
        },
        attrs=ATTRS,
    )


def test_points_and_intervals_are_the_scores() -> None:
    ax = plot_depth_scores(scores())
    later, output = ax.get_lines()
    np.testing.assert_array_equal(later.get_ydata(), [10, 11])
    np.testing.assert_array_equal(output.get_ydata(), [14, 15])
    assert later.get_marker() != output.get_marker()
    ends = [[list(segment[:, 1]) for segment in lines.get_segments()] for lines in ax.collections]
    assert ends == [[[9, 12], [10, 13]], [[13, 16], [14, 17]]]
    for line, lines in zip((later, output), ax.collections, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [segment[0, 0] for segment in lines.get_segments()])


def test_the_figure_says_n_units_and_what_it_rests_on() -> None:
    ax = plot_depth_scores(scores())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1 hop\nn = 20 prompts", "2 hops\nn = 1 prompt"]
    assert ax.get_ylabel() == "depth score\n(layer, of 0 to 29)"
    assert "95% intervals: bootstrap over prompts" in ax.get_legend().get_title().get_text().replace("\n", " ")
    assert "1 hop: a; 2 hops: b" in " ".join(text.get_text() for text in ax.texts)


def test_without_intervals_the_points_stand_alone() -> None:
    ax = plot_depth_scores(scores(intervals=False))
    assert "no intervals" in ax.get_legend().get_title().get_text()
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [10, 11])
    ax.figure.canvas.draw()


def test_given_axes_are_used() -> None:
    figure, ax = plt.subplots()
    assert plot_depth_scores(scores(), ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"without 'low'. Give what lacscope.model_measures.depth_scores"):
        plot_depth_scores(scores().drop_vars("low"))
    with pytest.raises(ValueError, match=r"has an extra dimension 'model'"):
        plot_depth_scores(scores().expand_dims(model=["a", "b"]))
