import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lacscope.plots import plot_phase_control
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._phase_matching import matched_difference
from lacscope.trace_analyses._phases import cell_counts

pytestmark = pytest.mark.once


@pytest.fixture
def matched() -> pd.DataFrame:
    rows = [
        ("raw", 0.12, 0.10, 0.15, 1.0, ""),
        ("position", 0.03, -0.01, 0.06, 0.74, ""),
        ("class", np.nan, np.nan, np.nan, 0.0, "no cell has tokens of both phases"),
        ("surprisal", -0.02, np.nan, np.nan, 0.5, ""),
    ]
    table = pd.DataFrame(rows, columns=["matched_on", "difference", "low", "high", "coverage", "note"])
    return table.assign(alpha=0.8, n_samples=20, n_prefill=900, n_decode=100)


def test_points_and_intervals_in_the_tables_order(matched: pd.DataFrame) -> None:
    ax = plot_phase_control(matched)
    points = {float(bars[0].get_ydata()[0]): float(bars[0].get_xdata()[0]) for bars in ax.containers}
    assert points == {0.0: 0.12, 1.0: 0.03, 3.0: -0.02}
    spans = [np.sort(bars[2][0].get_segments()[0][:, 0]) for bars in ax.containers]
    np.testing.assert_allclose(spans, [[0.10, 0.15], [-0.01, 0.06], [-0.02, -0.02]])
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is on top"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "all tokens (raw)",
        "matched on position",
        "matched on class",
        "matched on surprisal",
    ]


def test_the_axis_says_which_way_and_the_title_how_many(matched: pd.DataFrame) -> None:
    ax = plot_phase_control(matched)
    assert ax.get_xlabel().replace("\n", " ").startswith("usage in decode (RG) minus usage in prefill (PP)")
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title.startswith("alpha = 0.8, n = 20 samples, n = 900 prefill tokens, n = 100 decode tokens")


def test_coverage_and_what_is_missing_stand_beside(matched: pd.DataFrame) -> None:
    words = {text.get_position()[1]: text.get_text().replace("\n", " ") for text in plot_phase_control(matched).texts}
    assert words == {0: "all", 1: "74% matched", 2: "no cell has tokens of both phases", 3: "50% matched"}


def test_another_number_than_usage_is_named(matched: pd.DataFrame) -> None:
    label = plot_phase_control(matched.assign(of="kl_readout", level=0.9)).get_xlabel().replace("\n", " ")
    assert label == "kl_readout in decode (RG) minus kl_readout in prefill (PP): 90 % intervals over samples"
    assert "(PP): shares, intervals over samples" in plot_phase_control(matched).get_xlabel().replace("\n", " ")


def test_raw_is_hollow_and_matched_filled(matched: pd.DataFrame) -> None:
    first, second, _ = (bars[0].get_markerfacecolor() for bars in plot_phase_control(matched).containers)
    assert first == "white"
    assert second != "white"


def test_the_analysis_result_is_drawn_as_it_is() -> None:
    trace: xr.Dataset = synthetic_trace(n_samples=4)
    trace["surprisal"] = trace["delta_norm"].isel(layer=0, drop=True)
    found = matched_difference(cell_counts(trace), 12, seed=0, n_bootstrap=20)
    ax = plot_phase_control(found)
    assert len(ax.containers) == found["difference"].notna().sum()


def test_words_stay_inside_the_figure_and_given_axes_are_used(matched: pd.DataFrame) -> None:
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    assert plot_phase_control(matched, ax) is ax
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    whole = ax.get_tightbbox()
    assert whole.x0 >= 0
    assert whole.x1 <= figure.bbox.x1 + 1


def test_wrong_input(matched: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"without 'coverage'. Give what lacscope.trace_analyses.match"):
        plot_phase_control(matched.drop(columns="coverage"))
    with pytest.raises(ValueError, match=r"'matched' has no rows"):
        plot_phase_control(matched.iloc[:0])
    with pytest.raises(ValueError, match=r"'matched' has several values of 'alpha' \(0.8, 0.1\)"):
        plot_phase_control(pd.concat([matched, matched.assign(alpha=0.1)]))
    with pytest.raises(ValueError, match=r"'matched' has several values of 'of' \(usage, kl\)"):
        plot_phase_control(pd.concat([matched.assign(of=of) for of in ("usage", "kl")]))
