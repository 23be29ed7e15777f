import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from score_tables import ALPHAS, controls_table, summary_table

from lacscope.plots import plot_continuous_by_alpha
from lacscope.plots._continuous import outcome_of

pytestmark = pytest.mark.once


def lines_of(ax: plt.Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_ydata() for line in ax.get_lines()}


def test_lines_are_the_choice_rows_of_lac() -> None:
    summary = pd.concat([summary_table(), controls_table()[lambda table: ~table["rule"].isin(("full", "lac"))]])
    upper, lower = plot_continuous_by_alpha(summary)[:, 0]
    for effect in ("readout", "bypass"):
        rows = summary[(summary["effect"] == effect) & (summary["scoring"] == "choice") & (summary["rule"] == "lac")]
        np.testing.assert_array_equal(lines_of(upper)[effect], rows["kl"])
        np.testing.assert_array_equal(lines_of(lower)[effect], rows["margin"])
    assert lines_of(lower)["full model and band: 0.80"][0] == 0.8
    assert lower.patches[0].get_y() == pytest.approx(0.6)


def test_effects_differ_by_more_than_colour() -> None:
    upper = plot_continuous_by_alpha(summary_table())[0, 0]
    first, second = (line for line in upper.get_lines() if line.get_label() in ("readout", "bypass"))
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()


def test_a_zero_divergence_stays_on_the_logarithmic_axis() -> None:
    upper = plot_continuous_by_alpha(summary_table())[0, 0]
    upper.figure.canvas.draw()
    assert upper.get_yscale() == "symlog"
    assert upper.get_ylim()[0] < 0
    linear = upper.yaxis.get_transform().linthresh
    assert linear == 0.01  # the smallest divergence is 0.02
    assert "log beyond 0.01" in upper.get_ylabel()
    assert upper.get_ylim()[1] > 1.2 * 9.02


def test_where_nothing_differs_the_axis_is_still_drawn() -> None:
    same = summary_table().assign(kl=0.0, kl_low=0.0, kl_high=0.0)
    upper = plot_continuous_by_alpha(same)[0, 0]
    upper.figure.canvas.draw()
    assert 0 < upper.get_ylim()[1] < 0.01


def test_the_outcome_is_the_margin_where_there_is_one() -> None:
    summary = summary_table()
    assert "margin" in plot_continuous_by_alpha(summary)[1, 0].get_ylabel()
    assert "per token" in plot_continuous_by_alpha(summary, outcome="target_logp")[1, 0].get_ylabel()
    without = summary.assign(margin=np.nan, margin_low=np.nan, margin_high=np.nan)
    lower = plot_continuous_by_alpha(without)[1, 0]
    assert "nats per token" in lower.get_ylabel()
    np.testing.assert_allclose(lines_of(lower)["bypass"], [-2 - 4 * alpha for alpha in ALPHAS])


def test_one_column_per_model_and_n_in_its_title() -> None:
    panels = plot_continuous_by_alpha(pd.concat([summary_table(), summary_table("other").assign(n=50)]))
    titles = [ax.get_legend().get_title().get_text().replace("\n", " ") for ax in panels[0]]
    assert titles[0].startswith("tiny boolq")
    assert titles[0].endswith("n = 200 samples")
    assert titles[1].startswith("other boolq")
    assert titles[1].endswith("n = 50 samples")


def test_an_effect_that_was_not_run_is_said() -> None:
    summary = summary_table()[lambda table: table["effect"] != "bypass"]
    legend = plot_continuous_by_alpha(summary)[0, 0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["readout", "bypass: not run"]


def test_legends_cover_no_data() -> None:
    panels = plot_continuous_by_alpha(summary_table())
    panels[0, 0].figure.canvas.draw()
    for ax in panels.ravel():
        assert ax.get_legend().get_window_extent().y0 >= ax.bbox.y1


def test_wrong_input() -> None:
    summary = summary_table()
    with pytest.raises(ValueError, match=r"without 'kl'"):
        plot_continuous_by_alpha(summary.drop(columns="kl"))
    with pytest.raises(ValueError, match=r"without 'margin_low'"):
        plot_continuous_by_alpha(summary.drop(columns="margin_low"))
    with pytest.raises(ValueError, match=r"several values of 'style' \(paper, plain\)"):
        plot_continuous_by_alpha(pd.concat([summary, summary.assign(style="plain")]))
    with pytest.raises(ValueError, match=r"outcome must be one of 'margin', 'target_logp', got 'loss'"):
        outcome_of(summary, "loss")
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"draws on 2 x 1 axes \(rows x columns\), got 3"):
        plot_continuous_by_alpha(summary, axes)
