import doctest
import json
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import lacscope.plots._groups
from lacscope.plots._groups import plot_usage_by_group
from lacscope.trace_analyses._group_usage import usage_by_group
from lacscope.trace_analyses._groups import groups_by_class, groups_by_correct, groups_by_position
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once


@pytest.fixture
def found(trace: xr.Dataset) -> xr.Dataset:
    return usage_by_group(trace, groups_by_class(trace), seed=0, n_bootstrap=30, data="rivers")


def test_dots_and_intervals_are_the_table(found: xr.Dataset) -> None:
    dots, _ = plot_usage_by_group(found)
    for bars, name in zip(dots.containers, ("usage", "exit_depth"), strict=True):
        np.testing.assert_allclose(bars[0].get_xdata(), found[name])
        ends = np.array([segment[:, 0] for segment in bars[2][0].get_segments()])
        np.testing.assert_allclose(ends, np.stack([found[f"{name}_low"], found[f"{name}_high"]], axis=1), atol=1e-12)
        assert np.abs(bars[0].get_ydata() - np.arange(found.sizes["group"])).max() < 0.5
    assert [label.get_text() for label in dots.get_yticklabels()] == found["group"].values.tolist()
    assert dots.get_ylim()[0] > dots.get_ylim()[1], "the first group is on top"
    first, second = (bars[0].get_markerfacecolor() for bars in dots.containers)
    assert first != second == "white"


def test_the_right_panel_is_the_usage_by_layer_on_the_whole_scale(found: xr.Dataset) -> None:
    _, layers = plot_usage_by_group(found)
    (image,) = layers.get_images()
    np.testing.assert_array_equal(image.get_array(), found["usage_by_layer"].values)
    assert image.get_clim() == (0, 1)
    assert layers.get_ylim() == plot_usage_by_group(found)[0].get_ylim()


def test_the_figure_says_what_it_rests_on(found: xr.Dataset) -> None:
    dots, _ = plot_usage_by_group(found)
    title = dots.figure.get_suptitle()
    assert title == (
        "synthetic: usage by token class at alpha = 0.8\nrivers; n = 3 samples; all tokens read, sinks in groups of "
        "their own; tokens pooled over samples, 95 % intervals over samples"
    )
    words = [text.get_text() for text in dots.texts]
    assert words[0] == "n = 3\n(3 samples)"
    assert len(words) == found.sizes["group"]


@pytest.mark.parametrize("by", ["position", "correct", "lone"])
def test_everything_is_inside_the_figure(trace: xr.Dataset, by: str) -> None:
    groups = groups_by_position(trace) if by == "position" else groups_by_correct(trace, [True, False, True])
    if by == "lone":
        groups = groups.copy(data=np.where(groups.values == "", "", "$one$").astype(object))
        groups.attrs["groups"] = json.dumps(["$one$"])
    panels = plot_usage_by_group(usage_by_group(trace, groups, seed=0, n_bootstrap=20))
    figure = panels[0].figure
    figure.canvas.draw()
    for ax in panels:
        box = ax.get_tightbbox()
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
    beside = [text.get_window_extent() for text in panels[0].texts]
    assert max(box.x1 for box in beside) <= panels[1].bbox.x0 + 1, "the counts stand between the panels"
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(beside))


def test_one_alpha_of_several_can_be_selected(trace: xr.Dataset) -> None:
    both = usage_by_group(trace, groups_by_class(trace), voids(trace, [0.1, 0.8]), seed=0, n_bootstrap=20)
    with pytest.raises(ValueError, match=r"^'found' has several alphas \(0\.1, 0\.8\); a figure shows one: give found"):
        plot_usage_by_group(both)
    dots, _ = plot_usage_by_group(both.sel(alpha=0.1))
    assert "at alpha = 0.1" in dots.figure.get_suptitle()


def test_given_axes_are_used_and_left_untitled(found: xr.Dataset) -> None:
    figure, axes = plt.subplots(1, 2)
    assert plot_usage_by_group(found, axes).tolist() == list(axes)
    assert figure.get_suptitle() == ""
    with pytest.raises(ValueError, match="draws on 2 axes, got 1"):
        plot_usage_by_group(found, axes[:1])


def test_wrong_input(found: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"without 'exit_depth'. Give what lacscope.usage_by_group"):
        plot_usage_by_group(found.drop_vars("exit_depth"))


def test_the_docstrings_example_runs() -> None:
    outcome = doctest.testmod(lacscope.plots._groups)
    assert (outcome.failed, outcome.attempted) == (0, 6)
