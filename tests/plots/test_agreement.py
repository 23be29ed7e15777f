import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._agreement import plot_agreement
from lacscope.trace_analyses._agreement import agreement
from lacscope.traces._provenance import Preset, result_attrs

pytestmark = pytest.mark.once


@pytest.fixture
def found() -> xr.Dataset:
    rng = np.random.default_rng(0)
    true = np.arange(12.0)
    coords = {"sample": range(4), "layer": range(12)}
    scores = {
        name: xr.DataArray(sign * true + rng.normal(size=(4, 12)), coords, ("sample", "layer"))
        for name, sign in (("usage 0.8", 1), ("Block Influence", 1), ("ablation KL", -1))
    }
    scores["ZD"] = xr.DataArray(rng.normal(size=12), {"layer": range(12)}, ("layer",))
    scores["flat"] = scores["ZD"] * 0
    paper = Preset("doe_2025/zd", "arXiv 0000.00000", {"data": "PG19", "protect": (0, -1)})
    told = {
        "settings": {"protect": ()},
        "positions": "weights",
        "aggregation": "none",
        "n_samples": 0,
        "data": "numbers",
    }
    scores["ZD"].attrs = result_attrs("effect", {}, preset=paper, **told)
    return agreement(scores, seed=0, n_boot=100, n_permutations=999, model="tiny", data="numbers")


def words_of(ax: Axes) -> dict[tuple[float, float], str]:
    return {tuple(text.get_position()): text.get_text() for text in ax.texts}


def test_the_triangle_shows_rho_and_interval_of_every_pair(found: xr.Dataset) -> None:
    panels = plot_agreement(found)
    assert len(panels) == 2
    for ax, subset in zip(panels, found["subset"].values, strict=True):
        panel = found.sel(subset=subset)
        image = np.ma.filled(ax.get_images()[0].get_array(), np.nan)
        for i in range(4):
            for j in range(4):
                rho = panel["rho"].values[i + 1, j] if j <= i else np.nan
                np.testing.assert_equal(image[i, j], rho)
        shown = " ".join(words_of(ax).values())
        pair = panel.sel(metric="Block Influence", other="usage 0.8")
        assert f"{float(pair['rho']):.2f}" in shown
        assert f"[{float(pair['low']):.2f}, {float(pair['high']):.2f}]" in shown
        assert ax.get_images()[0].get_clim() == (-1, 1)


def test_only_what_stands_the_adjusted_test_has_a_star(found: xr.Dataset) -> None:
    panels = plot_agreement(found)
    for ax, subset in zip(panels, found["subset"].values, strict=True):
        sure = int((found["p_holm"].sel(subset=subset).values < 0.05).sum()) // 2
        starred = [text for text in ax.texts if text.get_text().endswith("*")]
        assert len(starred) == sure
        assert all(text.get_fontweight() == "bold" for text in starred)
    assert (found["p_holm"].sel(subset="all") < 0.05).any()


def test_a_score_that_is_the_same_everywhere_has_a_dash(found: xr.Dataset) -> None:
    ax = plot_agreement(found)[0]
    assert list(words_of(ax).values()).count("\N{EN DASH}") == 4
    assert len(ax.patches) == 4


def test_titles_caption_and_labels(found: xr.Dataset) -> None:
    panels = plot_agreement(found)
    assert [ax.get_title(loc="left") for ax in panels] == [
        "all layers (12 layers)",
        "without layers 0, 1, 11 (9 layers)",
    ]
    caption = " ".join(panels[0].texts[-1].get_text().split())
    assert (
        "95% interval of a bootstrap over prompts, both scores drawn. None with ZD, flat, without samples to draw. "
        "*: p < 0.05" in caption
    )
    assert "tiny; numbers; n = 4 prompts; positions are each metric's own;" in caption
    # Data and n are the same for all metrics, and said once.
    assert "Not as in their papers: ZD: protect = [] (paper: [0, -1]). tiny;" in caption
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "Block Influence",
        "ablation KL",
        "ZD",
        "flat",
    ]


def test_no_interval_where_one_score_has_no_samples(found: xr.Dataset) -> None:
    ax = plot_agreement(found)[0]
    # Of the ten pairs only the three of sampled scores.
    assert sum(text.get_text().startswith("[") for text in ax.texts) == 3


def test_without_departures_none_are_said(found: xr.Dataset) -> None:
    rest = found.assign_attrs(metrics="{}")
    assert "Not as in" not in " ".join(plot_agreement(rest)[0].texts[-1].get_text().split())


def test_everything_stays_inside_the_figure(found: xr.Dataset) -> None:
    panels = plot_agreement(found)
    figure = panels[0].figure
    figure.canvas.draw()
    caption = panels[0].texts[-1].get_window_extent()
    for label in panels[0].get_xticklabels():
        assert caption.y1 <= label.get_window_extent().y0 + 1
    for ax in panels:
        whole = ax.get_tightbbox()
        assert whole.x0 >= 0
        assert whole.x1 <= figure.bbox.x1 + 1


def test_the_given_axes_are_used(found: xr.Dataset) -> None:
    figure, axes = plt.subplots(1, 2)
    assert plot_agreement(found, axes).tolist() == axes.tolist()
    assert plt.get_fignums() == [figure.number]
    assert figure.get_suptitle() == ""


def test_wrong_input(found: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"without 'p_holm'. Give what lacscope.trace_analyses.agreement"):
        plot_agreement(found.drop_vars("p_holm"))
    with pytest.raises(ValueError, match=r"'rho' has dimensions .*, without 'subset'"):
        plot_agreement(found.isel(subset=0))
    with pytest.raises(ValueError, match="this plot draws on 2 axes, got 1"):
        plot_agreement(found, [plt.subplots()[1]])
