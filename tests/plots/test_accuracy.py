import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from score_tables import ALPHAS, summary_table

from lacscope.plots import plot_accuracy_by_alpha

pytestmark = pytest.mark.once

REFERENCES = {"tiny": {"chance": 0.5, "majority": 0.62, "full": 0.9, "full_low": 0.8, "full_high": 1.0}}


def legend_texts(ax: Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def line_of(ax: Axes, label: str) -> Line2D:
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return line


@pytest.mark.parametrize(("panel", "effect"), [(0, "readout"), (1, "bypass")])
def test_accuracy_and_its_intervals_are_the_summary(panel: int, effect: str) -> None:
    summary = summary_table().sample(frac=1.0, random_state=0)
    ax = plot_accuracy_by_alpha(summary, REFERENCES)[panel, 0]
    for scoring, words in (("choice", "choice log-probability"), ("generated", "generated answer")):
        rows = summary[(summary["effect"] == effect) & (summary["scoring"] == scoring)].sort_values("alpha")
        line = line_of(ax, f"{effect}, {words}")
        np.testing.assert_array_equal(line.get_ydata(), rows["accuracy"])
        np.testing.assert_allclose(line.get_xdata(), rows["alpha"], atol=0.02)
    drawn = np.concatenate([np.sort(segment[:, 1]) for bars in ax.containers for segment in bars[2][0].get_segments()])
    rows = summary[summary["effect"] == effect].sort_values(["scoring", "alpha"])
    np.testing.assert_allclose(drawn.reshape(-1, 2), rows[["accuracy_low", "accuracy_high"]])


def test_scores_are_told_apart_by_marker_and_few_points_are_not_joined() -> None:
    ax = plot_accuracy_by_alpha(summary_table(), REFERENCES)[1, 0]
    choice, generated = line_of(ax, "bypass, choice log-probability"), line_of(ax, "bypass, generated answer")
    assert choice.get_marker() != generated.get_marker()
    assert choice.get_linestyle() == "-"
    assert generated.get_linestyle() == "None"


def test_hollow_marks_what_is_identical_and_says_why() -> None:
    readout, bypass, _, _ = plot_accuracy_by_alpha(summary_table(), REFERENCES)[:, 0]
    hollow = [line for line in readout.get_lines() if line.get_markerfacecolor() == "white"]
    assert [round(x, 1) for line in hollow for x in line.get_xdata()] == [0.0, 0.1, 0.2, 0.1]
    assert "hollow: identical to the full model, by construction (no scored position exits early)" in legend_texts(
        readout
    )
    assert not any(text.startswith("hollow") for text in legend_texts(bypass))


def test_full_model_and_reference_lines_with_the_full_models_band() -> None:
    ax = plot_accuracy_by_alpha(summary_table(), REFERENCES)[0, 0]
    heights = {str(line.get_label()): line.get_ydata()[0] for line in ax.get_lines() if len(set(line.get_ydata())) == 1}
    assert heights["chance: 0.50"] == 0.5
    assert heights["majority class: 0.62"] == 0.62
    assert heights["full model and band, choice log-probability: 0.63"] == 0.63
    low = [patch.get_y() for patch in ax.patches]
    assert low == pytest.approx([0.57, 0.57])
    assert not any("0.90" in text for text in legend_texts(ax)), "the full model is the summary's, drawn once"


def test_lines_that_do_not_exist_are_left_out() -> None:
    ax = plot_accuracy_by_alpha(summary_table(), {"tiny": {"chance": np.nan, "majority": np.nan}})[0, 0]
    assert not any(text.startswith(("chance", "majority")) for text in legend_texts(ax))
    assert np.isfinite(ax.get_ylim()).all()


def test_unparseable_share_at_the_alphas_that_were_generated() -> None:
    strip = plot_accuracy_by_alpha(summary_table(), REFERENCES)[2, 0]
    np.testing.assert_allclose(line_of(strip, "bypass").get_ydata(), [0.16, 0.58])
    np.testing.assert_allclose(line_of(strip, "readout").get_ydata(), [0.1, 0.1])
    assert line_of(strip, "full model").get_ydata()[0] == 0.1


def test_without_generated_answers_it_says_so() -> None:
    readout, _, strip, usage = plot_accuracy_by_alpha(summary_table(generated=False), REFERENCES)[:, 0]
    assert [text.get_text() for text in strip.texts] == ["no generated answers"]
    assert "readout, generated answer: not run" in legend_texts(readout)
    assert "RG: response generation (decode), full model's stream: none" in legend_texts(usage)


def test_usage_by_phase_with_the_papers_words_spelled_once() -> None:
    both = pd.concat([summary_table(), summary_table("other")])
    panels = plot_accuracy_by_alpha(both, {})
    first, second = legend_texts(panels[3, 0]), legend_texts(panels[3, 1])
    assert first == [
        "PP: prompt processing (prefill), full model's stream, choice",
        "PP, bypassed stream, choice",
        "RG: response generation (decode), full model's stream, generated",
        "RG, bypassed stream, generated",
    ]
    assert second[0] == "PP, full model's stream, choice"
    usage = [line for line in panels[3, 0].get_lines() if not str(line.get_label()).startswith("_")]
    np.testing.assert_allclose(usage[0].get_ydata(), [0.9 - 0.55 * alpha for alpha in ALPHAS])
    np.testing.assert_allclose(usage[2].get_ydata(), [0.95 - 0.4 * alpha for alpha in ALPHAS])
    assert len({line.get_marker() for line in usage}) == 4


def test_controls_and_protected_rows_are_left_out() -> None:
    summary = summary_table()
    control = summary[summary["effect"] == "bypass"].assign(accuracy=0.01, accuracy_low=0.0, accuracy_high=0.02)
    more = pd.concat([summary, control.assign(rule="random_layers"), control.assign(protect=True)])
    plain = plot_accuracy_by_alpha(summary, REFERENCES)[1, 0]
    ax = plot_accuracy_by_alpha(more, REFERENCES)[1, 0]
    np.testing.assert_array_equal(
        line_of(ax, "bypass, choice log-probability").get_ydata(),
        line_of(plain, "bypass, choice log-probability").get_ydata(),
    )


def test_a_model_with_its_own_alphas_keeps_its_lines_joined() -> None:
    both = pd.concat([summary_table(), summary_table("fine", tuple(np.linspace(0, 1, 11)), generated=False)])
    panels = plot_accuracy_by_alpha(both, {})
    assert line_of(panels[0, 0], "readout, choice log-probability").get_linestyle() == "-"
    assert panels[0, 0].get_xlim() == panels[0, 1].get_xlim()
    assert panels[0, 0].get_ylim() == panels[1, 1].get_ylim()
    np.testing.assert_allclose(panels[0, 0].get_xticks(), ALPHAS)


def test_titles_count_samples() -> None:
    summary = summary_table()
    title = plot_accuracy_by_alpha(summary, {})[0, 0].get_legend().get_title().get_text()
    assert title.replace("\n", " ").endswith("n = 200 samples (choice), n = 200 samples (generated)")
    summary.loc[(summary["effect"] == "bypass") & (summary["scoring"] == "choice"), "n"] = 50
    title = plot_accuracy_by_alpha(summary, {})[0, 0].get_legend().get_title().get_text()
    assert "n = 50 to 200 samples (choice)" in title.replace("\n", " ")


@pytest.mark.parametrize("n_models", [1, 2])
def test_legends_stand_above_their_panels_and_inside_the_figure(n_models: int) -> None:
    summary = pd.concat([summary_table(f"model-{index}") for index in range(n_models)])
    panels = plot_accuracy_by_alpha(summary, {"model-0": REFERENCES["tiny"]})
    figure = panels[0, 0].figure
    figure.canvas.draw()
    for (row, _), ax in np.ndenumerate(panels):
        legend = ax.get_legend().get_window_extent()
        assert legend.y0 >= ax.bbox.y1
        assert legend.x1 <= figure.bbox.x1
        assert legend.y1 <= (figure.bbox.y1 if row == 0 else panels[row - 1, 0].get_tightbbox().y0 + 1)
        low, high = ax.get_ylim()
        for line in ax.get_lines():
            assert low <= np.min(line.get_ydata(), initial=low)
            assert np.max(line.get_ydata(), initial=high) <= high


def test_the_given_axes_are_used() -> None:
    figure, axes = plt.subplots(4, 1)
    assert list(plot_accuracy_by_alpha(summary_table(), REFERENCES, axes)[:, 0]) == list(axes)
    assert plt.get_fignums() == [figure.number]


def test_wrong_input() -> None:
    summary = summary_table()
    with pytest.raises(ValueError, match=r"without 'why'. Give what lacscope.reproduction.scores.summarise returns"):
        plot_accuracy_by_alpha(summary.drop(columns="why"), {})
    with pytest.raises(ValueError, match=r"several values of 'task' \(boolq, mmlu\).*summary\[summary\['task'\] =="):
        plot_accuracy_by_alpha(pd.concat([summary, summary.assign(task="mmlu")]), {})
    with pytest.raises(ValueError, match=r"'summary' has no rows: nothing to draw"):
        plot_accuracy_by_alpha(summary.iloc[:0], {})
    with pytest.raises(ValueError, match=r"no row of rule 'lac', only full"):
        plot_accuracy_by_alpha(summary[summary["rule"] == "full"], {})
    _, axes = plt.subplots(1, 3)
    with pytest.raises(
        ValueError, match=r"draws on 4 x 1 axes \(rows x columns\), got 3. Pass axes=plt.subplots\(4, 1"
    ):
        plot_accuracy_by_alpha(summary, {}, axes)
