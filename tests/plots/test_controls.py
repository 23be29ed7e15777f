from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from score_tables import controls_table

from lacscope.plots import plot_controls

pytestmark = pytest.mark.once


def labels_of(ax: Axes) -> list[str]:
    """From the top."""
    return [tick.get_text() for tick in ax.get_yticklabels()][::-1]


def points_of(ax: Axes) -> dict[float, float]:
    return {float(bars[0].get_ydata()[0]): float(bars[0].get_xdata()[0]) for bars in ax.containers}


def test_rows_stand_by_accuracy_with_n_and_seeds() -> None:
    readout, bypass = plot_controls(controls_table().sample(frac=1.0, random_state=1))[:, 0]
    assert labels_of(readout) == [
        "full model\nn = 100 samples",
        "LAC\nn = 100 samples",
        "one constant exit\nn = 100 samples",
        "LAC's exits, permuted over tokens\nn = 100 samples, 2 seeds",
        "norm-only null\nn = 100 samples",
    ]
    assert labels_of(bypass)[1] == (
        "random layers, same count per token\nfirst and last layer kept, n = 100 samples, 2 seeds"
    )
    heights = points_of(bypass)
    assert list(heights) == sorted(heights)
    assert list(heights.values()) == sorted(heights.values())


def test_points_and_intervals_of_both_outcomes() -> None:
    table = controls_table()
    panels = plot_controls(table)
    for ax, name in zip(panels[1], ("accuracy", "margin"), strict=True):
        rows = table[table["effect"].isin(("bypass", "none"))].sort_values("accuracy")
        assert list(points_of(ax).values()) == rows[name].tolist()
        spans = [np.sort(bars[2][0].get_segments()[0][:, 0]) for bars in ax.containers]
        np.testing.assert_allclose(spans, rows[[f"{name}_low", f"{name}_high"]])
    assert "accuracy" in panels[1, 0].get_xlabel()
    assert "nats" in panels[1, 1].get_xlabel()


def test_what_is_identical_is_named_in_grey_and_is_no_result() -> None:
    readout, outcome = plot_controls(controls_table())[0]
    for ax in (readout, outcome):
        (words,) = ax.texts
        assert words.get_text() == "identical to the full model in every answer"
        assert words.get_position()[1] == 0
        assert 0 not in points_of(ax)
        assert len(points_of(ax)) == 4
        red, green, blue = (to_hex(words.get_color())[i : i + 2] for i in (1, 3, 5))
        assert red == green == blue


def test_the_full_models_interval_is_a_band() -> None:
    for ax in plot_controls(controls_table())[:, 0]:
        (band,) = ax.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.57, 0.69))


def test_only_the_alpha_of_the_controls_is_shown() -> None:
    table = controls_table()
    more = table[(table["effect"] == "bypass") & (table["rule"] == "lac")].assign(alpha=0.8, accuracy=0.1)
    bypass = plot_controls(pd.concat([table, more]))[1, 0]
    assert len(bypass.get_yticklabels()) == 9
    assert bypass.get_title(loc="left") == "bypass at alpha = 0.1"


def test_an_effect_without_controls_has_no_row() -> None:
    table = controls_table()
    panels = plot_controls(table[(table["effect"] != "readout")])
    assert panels.shape == (1, 2)
    assert panels[0, 0].get_title(loc="left") == "bypass at alpha = 0.1"


def test_different_numbers_of_samples_are_said() -> None:
    table = controls_table()
    table.loc[table["rule"] == "full", "n"] = 200
    assert "numbers of samples differ" in plot_controls(table)[0, 0].get_title(loc="left")


def test_tasks_without_a_margin_show_the_log_probability() -> None:
    table = controls_table().assign(margin=np.nan, margin_low=np.nan, margin_high=np.nan)
    assert "nats per token" in plot_controls(table)[0, 1].get_xlabel()


def test_labels_do_not_touch_and_stay_inside_the_figure() -> None:
    panels = plot_controls(controls_table())
    figure = panels[0, 0].figure
    figure.canvas.draw()
    for ax in panels.ravel():
        whole = ax.get_tightbbox()
        assert whole.x0 >= 0
        assert whole.x1 <= figure.bbox.x1 + 1
    boxes = [tick.get_window_extent() for tick in panels[1, 0].get_yticklabels()]
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


def test_the_given_axes_are_used() -> None:
    figure, axes = plt.subplots(2, 2)
    assert plot_controls(controls_table(), axes).tolist() == axes.tolist()
    assert plt.get_fignums() == [figure.number]
    assert figure.get_suptitle() == ""


def test_wrong_input() -> None:
    table = controls_table()
    with pytest.raises(ValueError, match=r"without 'seeds', 'identical'"):
        plot_controls(table.drop(columns=["seeds", "identical"]))
    with pytest.raises(ValueError, match=r"several values of 'scoring' \(choice, generated\)"):
        plot_controls(pd.concat([table, table.assign(scoring="generated")]))
    with pytest.raises(ValueError, match=r"no controls under readout or bypass: its rules are full, lac"):
        plot_controls(table[table["rule"].isin(("full", "lac"))])
    with pytest.raises(ValueError, match=r"controls under bypass\)' has several values of 'alpha' \(0.1, 0.5\)"):
        plot_controls(pd.concat([table, table[table["rule"] == "last_layers"].assign(alpha=0.5)]))
    with pytest.raises(ValueError, match=r"controls under readout at alpha 0.8 but no row of LAC beside them"):
        plot_controls(table[table["rule"] != "lac"])
    with pytest.raises(ValueError, match=r"but no row of the full model beside them"):
        plot_controls(table[table["rule"] != "full"])
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match=r"draws on 2 x 2 axes \(rows x columns\), got 2"):
        plot_controls(table, axes)
