import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots._tell_tale import plot_norm_signals
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds, rank_candidates

pytestmark = pytest.mark.once


@pytest.fixture
def signals() -> xr.Dataset:
    trace = synthetic_trace(n_samples=4, n_layers=12, decode_tokens=9)
    return norm_signals(trace, norm_thresholds(trace) * 0.9, data="GSM8K")


def test_a_line_a_candidate_with_the_first_and_the_last_named(signals: xr.Dataset) -> None:
    ranking = rank_candidates(signals, "norm_sum")
    ax = plot_norm_signals(signals, ranking, signal="norm_sum")
    lines = ax.get_lines()
    order = np.argsort(ranking["rank"].values)
    for line, sample in zip(lines, order, strict=True):
        np.testing.assert_allclose(line.get_ydata(), signals["norm_sum"].values[sample])
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    tokens = signals["n_decode"].values
    assert named == [
        f"first: sample {order[0]}, {tokens[order[0]]} tokens",
        f"last: sample {order[-1]}, {tokens[order[-1]]} tokens",
    ]
    assert lines[0].get_linestyle() != lines[-1].get_linestyle()
    assert lines[0].get_color() != lines[1].get_color() == lines[2].get_color()


def test_the_layers_that_rank_are_shaded_and_all_is_said(signals: xr.Dataset) -> None:
    ax = plot_norm_signals(signals, rank_candidates(signals))
    (band,) = ax.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (8.5, 10.5)
    title = " ".join(ax.get_legend().get_title().get_text().split())
    assert title == "4 candidates ranked by excess over the shaded layers"
    assert ax.get_ylabel() == "B: sum of the norms' excess over the threshold\n(stream units)"
    assert "synthetic; GSM8K; n = 4 prompts; decode tokens" in " ".join(ax.texts[-1].get_text().split())


def test_layers_apart_are_shaded_apart(signals: xr.Dataset) -> None:
    ax = plot_norm_signals(signals, rank_candidates(signals, layers=[2, 3, 7]))
    assert [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches] == [(1.5, 3.5), (6.5, 7.5)]


def test_one_candidate_is_first_and_not_last(signals: xr.Dataset) -> None:
    alone = signals.isel(sample=[2])
    ax = plot_norm_signals(alone, rank_candidates(alone))
    assert [text.get_text()[:5] for text in ax.get_legend().get_texts()] == ["first"]


def test_the_given_axes_are_used(signals: xr.Dataset) -> None:
    figure, ax = plt.subplots()
    assert plot_norm_signals(signals, rank_candidates(signals), ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_wrong_input(signals: xr.Dataset) -> None:
    ranking = rank_candidates(signals)
    with pytest.raises(
        ValueError, match=r"without 'excess', 'n_decode'. Give what lacscope.trace_analyses.norm_signals"
    ):
        plot_norm_signals(ranking, ranking)
    with pytest.raises(ValueError, match=r"'ranking' has samples \[0, 1, 2\], 'signals' \[0, 1, 2, 3\]"):
        plot_norm_signals(signals, ranking.isel(sample=slice(0, 3)))
