from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots import plot_norms
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._norms import norm_profile

pytestmark = pytest.mark.once

QUANTITIES = ("resid_post_norm", "delta_norm")


def legend_texts(ax: Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def line_of(ax: Axes, start: str) -> np.ndarray:
    (line,) = [line for line in ax.get_lines() if str(line.get_label()).startswith(start)]
    return line.get_ydata()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_quartile_lines_and_bands_are_the_profile(trace: xr.Dataset, phase: str) -> None:
    profile = norm_profile(trace)
    panels = plot_norms(profile)
    assert [ax.get_yscale() for ax in panels] == ["log", "symlog"]
    for ax, quantity in zip(panels, QUANTITIES, strict=True):
        want = profile.sel(quantity=quantity, phase=phase)
        np.testing.assert_array_equal(line_of(ax, phase), want["median"])
        band = ax.collections[["prefill", "decode"].index(phase)].get_paths()[0].vertices
        for layer in range(12):
            drawn = band[band[:, 0] == layer, 1]
            assert drawn.min() == want["q25"].values[layer]
            assert drawn.max() == want["q75"].values[layer]


def test_quartile_legend_counts_tokens_without_sinks(trace: xr.Dataset) -> None:
    for ax in plot_norms(norm_profile(trace)):
        assert legend_texts(ax) == ["prefill (n = 36 tokens)", "decode (n = 14 tokens)"]
        assert "sinks left out" in ax.get_legend().get_title().get_text()
        assert "stream" in ax.get_ylabel()
        assert "units" in ax.get_ylabel()
        assert ax.get_xlabel() == "layer"


def test_paper_style_draws_means_and_the_sinks_share(trace: xr.Dataset) -> None:
    profile = norm_profile(trace)
    for ax, quantity in zip(plot_norms(profile, style="paper"), QUANTITIES, strict=True):
        (strip,) = ax.child_axes
        for index, (phase, word) in enumerate([("prefill", "PP"), ("decode", "RG")]):
            want = profile.sel(quantity=quantity, phase=phase)
            np.testing.assert_array_equal(line_of(ax, word), want["mean"])
            np.testing.assert_array_equal(strip.get_lines()[index].get_ydata(), want["sink_share"])
        assert strip.get_ylim()[0] < 0 < 1 < strip.get_ylim()[1]
        assert strip.get_ylabel() == "sinks'\nshare"
        assert not ax.collections, "no quartile bands in the paper's style"


def test_paper_style_spells_its_words_out_once_and_counts_all_tokens(trace: xr.Dataset) -> None:
    left, right = plot_norms(norm_profile(trace), style="paper")
    assert legend_texts(left.child_axes[0]) == [
        "PP: prompt processing (prefill), n = 39 (3 sinks)",
        "RG: response generation (decode), n = 14 (0 sinks)",
    ]
    assert legend_texts(right.child_axes[0]) == ["PP, n = 39 (3 sinks)", "RG, n = 14 (0 sinks)"]
    assert "sinks included" in left.child_axes[0].get_legend().get_title().get_text()


def test_a_phase_without_tokens_is_said_and_not_drawn(prompt_only: xr.Dataset) -> None:
    profile = norm_profile(prompt_only)
    left, right = plot_norms(profile)
    assert legend_texts(left)[1] == legend_texts(right)[1] == "decode: no tokens"
    assert len(left.get_lines()) == len(left.collections) == 1
    paper, _ = plot_norms(profile, style="paper")
    assert legend_texts(paper.child_axes[0])[1] == "RG: response generation (decode): no tokens"
    assert len(paper.get_lines()) == len(paper.child_axes[0].get_lines()) == 1


def test_a_phase_of_sinks_only_says_so() -> None:
    profile = norm_profile(synthetic_trace(n_samples=1, prompt_tokens=1, decode_tokens=3))
    left, _ = plot_norms(profile)
    assert legend_texts(left)[0] == "prefill: no tokens but sinks (1)"
    left, _ = plot_norms(profile, style="paper")
    assert legend_texts(left.child_axes[0])[0].endswith("n = 1 (1 sink)")


@pytest.mark.parametrize("style", ["quartiles", "paper"])
@pytest.mark.parametrize("n_layers", [4, 30, 80])
def test_everything_drawn_is_inside_the_axes_and_below_the_legend(n_layers: int, style: str) -> None:
    panels = plot_norms(norm_profile(synthetic_trace(n_layers=n_layers)), style=style)
    figure = panels[0].figure
    figure.canvas.draw()
    for ax in panels:
        low, high = ax.get_ylim()
        for line in ax.get_lines():
            assert low < np.min(line.get_ydata())
            assert np.max(line.get_ydata()) < high
        top = ax.child_axes[0] if style == "paper" else ax
        legend = top.get_legend().get_window_extent()
        assert legend.y0 >= top.bbox.y1
        assert legend.y1 <= figure.bbox.y1
        assert legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_linear_range_follows_the_magnitude(trace: xr.Dataset, scale: float) -> None:
    profile = norm_profile(trace)
    scaled = profile.assign({name: profile[name] * scale for name in ("q25", "median", "q75")})
    left, right = plot_norms(scaled)
    left.figure.canvas.draw()
    linear = right.yaxis.get_transform().linthresh
    middle = np.median(np.abs(scaled[["q25", "median", "q75"]].sel(quantity="delta_norm").to_array()))
    assert linear <= middle < 10 * linear
    assert f"±{linear:g}" in right.get_ylabel()
    assert 3 <= len([tick for tick in right.get_yticks() if right.get_ylim()[0] <= tick <= right.get_ylim()[1]]) <= 12


def test_tick_labels_do_not_touch_over_many_decades(trace: xr.Dataset) -> None:
    profile = norm_profile(trace)
    wide = profile.copy(deep=True)
    wide["q25"].loc[{"quantity": "delta_norm", "layer": 3}] = -900.0
    wide["q75"].loc[{"quantity": "delta_norm", "layer": 3}] = 900.0
    _, right = plot_norms(wide)
    right.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in right.get_yticklabels()]
    shown = sorted(
        (box for box in boxes if right.bbox.y0 <= (box.y0 + box.y1) / 2 <= right.bbox.y1), key=lambda b: b.y0
    )
    assert len(shown) >= 5
    assert all(low.y1 <= high.y0 for low, high in pairwise(shown))


def test_long_legends_do_not_squeeze_small_panels(trace: xr.Dataset) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.6), layout="constrained")
    plot_norms(norm_profile(trace), axes, style="paper")
    figure.canvas.draw()
    for ax in axes:
        assert ax.bbox.width > 0.3 * figure.bbox.width
        assert ax.get_tightbbox().y1 <= figure.bbox.y1


def test_given_axes_are_drawn_on_and_returned(trace: xr.Dataset) -> None:
    figure, axes = plt.subplots(2, 1, layout="constrained")
    panels = plot_norms(norm_profile(trace), axes)
    assert list(panels) == list(axes)
    assert plt.get_fignums() == [figure.number]
    assert figure.get_suptitle() == ""


def test_its_own_figure_names_the_model(trace: xr.Dataset) -> None:
    left, _ = plot_norms(norm_profile(trace))
    assert left.figure.get_suptitle() == "synthetic: residual stream norm by layer"


def test_wrong_number_of_axes(trace: xr.Dataset) -> None:
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"draws on 2 axes, got 3. Pass axes=plt.subplots\(1, 2\)\[1\]"):
        plot_norms(norm_profile(trace), axes)


def test_wrong_profiles(trace: xr.Dataset) -> None:
    profile = norm_profile(trace)
    with pytest.raises(ValueError, match=r"without 'median', 'n'\. Give what lacscope\.norm_profile\(trace\)"):
        plot_norms(profile.drop_vars(["median", "n"]))
    with pytest.raises(ValueError, match=r"extra dimension 'rule'.*rule is one of a, b: select one.*isel\(rule=0\)"):
        plot_norms(xr.concat([profile, profile], dim="rule").assign_coords(rule=["a", "b"]))
    with pytest.raises(ValueError, match=r"has dimensions \(layer, quantity\), without 'phase'"):
        plot_norms(profile.sel(phase="decode"))
    with pytest.raises(ValueError, match=r"has quantities delta_norm; both resid_post_norm and delta_norm"):
        plot_norms(profile.sel(quantity=["delta_norm"]))
    with pytest.raises(ValueError, match=r"has phase 'answer'; a phase is one of 'prefill', 'decode'"):
        plot_norms(profile.assign_coords(phase=["prefill", "answer"]))
