from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from lacscope.plots import _voidmap as voidmap
from lacscope.plots import plot_void_map
from lacscope.testing import synthetic_trace
from lacscope.traces._schema import TraceError
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once


def image_of(ax: Axes) -> np.ndarray:
    (image,) = ax.get_images()
    return np.asarray(image.get_array())


def labels_of(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def texts_of(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def title_of(ax: Axes) -> str:
    return ax.get_legend().get_title().get_text()


def boundaries_of(ax: Axes) -> list[float]:
    return [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "None"]


def with_texts(trace: xr.Dataset, texts: list[str]) -> xr.Dataset:
    changed = trace.copy(deep=True)
    changed["token_text"].values[0, : len(texts)] = texts
    changed["special"].values[0] = False
    return changed


def test_the_image_is_the_mask_of_the_valid_tokens(trace: xr.Dataset) -> None:
    for sample, n_tokens in [(0, 19), (1, 17), (2, 17)]:
        ax = plot_void_map(trace, sample=sample)
        np.testing.assert_array_equal(image_of(ax), trace["void"].values[sample, :, :n_tokens])
        assert ax.get_images()[0].get_extent() == [-0.5, n_tokens - 0.5, -0.5, 11.5]
        assert ax.get_images()[0].origin == "lower"
        assert ax.get_ylim() == (-0.5, 11.5)


def test_active_and_void_differ_in_greyscale_and_are_named(trace: xr.Dataset) -> None:
    ax = plot_void_map(trace)
    image = ax.get_images()[0]
    active, void = (image.cmap(image.norm(value))[:3] for value in (0, 1))
    legend = {text.get_text(): handle for text, handle in zip(*_legend_pairs(ax), strict=True)}
    assert to_rgb(legend["active"].get_facecolor()) == active
    assert to_rgb(legend["void"].get_facecolor()) == void
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert abs(weights @ active - weights @ void) > 0.5


def _legend_pairs(ax: Axes) -> tuple[list, list]:
    legend = ax.get_legend()
    return legend.get_texts(), legend.legend_handles


def test_a_given_mask_is_drawn_instead(trace: xr.Dataset) -> None:
    mask = voids(trace, 0.0)
    assert not mask.equals(trace["void"])
    ax = plot_void_map(trace, mask.transpose("token", "sample", "layer"), sample=2)
    np.testing.assert_array_equal(image_of(ax), mask.values[2, :, :17])
    assert title_of(ax) == "synthetic, sample 2\nvoids at alpha = 0"
    several = voids(trace, [0.0, 0.4])
    assert "alpha = 0.4" in title_of(plot_void_map(trace, several.isel(alpha=1)))
    assert "voids as given" in title_of(plot_void_map(trace, 1 - trace["void"]))


def test_the_title_says_the_rule_of_the_traces_own_voids(trace: xr.Dataset) -> None:
    want = "synthetic, sample 0\nvoids of L2AdaptiveComputation(alpha=0.8), effect observe"
    assert title_of(plot_void_map(trace)) == want
    assert title_of(plot_void_map(trace, trace["void"])) == want


def test_sample_is_the_coordinates_value(trace: xr.Dataset) -> None:
    ax = plot_void_map(trace.assign_coords(sample=[5, 9, 7]), sample=9)
    np.testing.assert_array_equal(image_of(ax), trace["void"].values[1, :, :17])


@pytest.mark.parametrize(
    ("tokens", "first", "last"), [(slice(4, 9), 4, 8), (slice(-3, None), 16, 18), (slice(10, 99), 10, 18)]
)
def test_zoom(trace: xr.Dataset, tokens: slice, first: int, last: int) -> None:
    ax = plot_void_map(trace, tokens=tokens)
    np.testing.assert_array_equal(image_of(ax), trace["void"].values[0, :, first : last + 1])
    assert ax.get_xlim() == (first - 0.5, last + 0.5)
    assert list(ax.get_xticks()) == list(range(first, last + 1))
    assert f"tokens {first} to {last}\n" in title_of(ax)


def test_the_boundary_stands_between_prompt_and_answer(trace: xr.Dataset) -> None:
    ax = plot_void_map(trace)
    assert boundaries_of(ax) == [13.5]
    assert texts_of(ax) == ["prefill (n = 14 tokens)", "decode (n = 5 tokens)"]
    assert [text.get_ha() for text in ax.texts] == ["right", "left"]
    assert [text.xy[0] for text in ax.texts] == [13.5, 13.5]
    assert boundaries_of(plot_void_map(trace, tokens=slice(12, 16))) == [13.5]


def test_one_phase_in_view_has_no_boundary(trace: xr.Dataset, prompt_only: xr.Dataset) -> None:
    ax = plot_void_map(trace, tokens=slice(15, 18))
    assert boundaries_of(ax) == []
    assert texts_of(ax) == ["decode (n = 3 tokens)"]
    assert texts_of(plot_void_map(prompt_only)) == ["prefill (n = 20 tokens)"]
    assert texts_of(plot_void_map(trace, tokens=slice(14, 15))) == ["decode (n = 1 token)"]


def test_sinks_are_marked_above_the_cells(trace: xr.Dataset) -> None:
    marked = trace.copy(deep=True)
    marked["sink"].values[0, [0, 6]] = True

    def sinks(ax: Axes) -> list[float]:
        return [x for line in ax.get_lines() if line.get_marker() == "v" for x in line.get_xdata()]

    assert sinks(plot_void_map(marked)) == [0, 6]
    ax = plot_void_map(marked, tokens=slice(4, 9))
    assert sinks(ax) == [6]
    ax.figure.canvas.draw()
    (line,) = [line for line in ax.get_lines() if line.get_marker() == "v"]
    assert line.get_transform().transform((6, 1))[1] > ax.bbox.y1
    assert sinks(plot_void_map(marked, tokens=slice(1, 5))) == []


def test_tokens_show_what_cannot_be_seen(trace: xr.Dataset) -> None:
    texts = [
        " the",
        "\n",
        "\t\r",
        "a\\n",
        "中",
        "$x",
        "y$",
        "_{^",
        "é",
        "\x07",
        "extraordinarily long",
        "",
        "<\uff5c▁|>",
    ]
    ax = plot_void_map(with_texts(trace, texts))
    assert labels_of(ax)[: len(texts)] == [
        "·the",
        "\\n",
        "\\t\\r",
        "a\\\\n",
        "\\u4e2d",
        "$x",
        "y$",
        "_{^",
        "é",
        "\\x07",
        "extraordinarily…",
        f"#{int(trace['token_id'][0, 11])}",
        "<\\uff5c▁|>",
    ]
    ax.figure.canvas.draw()  # a formula or a missing glyph would warn, which is an error here


def test_formulas_in_tokens_stay_text(trace: xr.Dataset) -> None:
    ax = plot_void_map(with_texts(trace, ["$\\frac$", "$$", "$a_b$"]))
    ax.figure.canvas.draw()
    assert labels_of(ax)[:3] == ["$\\\\frac$", "$$", "$a_b$"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())


def test_a_character_of_a_fallback_font_is_shown_as_it_is(trace: xr.Dataset) -> None:
    only_in_dejavu = with_texts(trace, ["\u2207\u2a00"])
    with plt.rc_context({"font.family": ["STIXSizeOneSym", "no such font", "DejaVu Sans"]}):
        ax = plot_void_map(only_in_dejavu)
    assert labels_of(ax)[0] == "\u2207\u2a00"
    with plt.rc_context({"font.family": ["STIXSizeOneSym", "no such font"]}):
        ax = plot_void_map(with_texts(trace, ["é"]))
    assert labels_of(ax)[0] == "\\xe9", "matplotlib adds no default font to a list that holds one it found"


def test_special_tokens_are_bold(trace: xr.Dataset) -> None:
    marked = trace.copy(deep=True)
    marked["special"].values[0] = np.arange(trace.sizes["token"]) == 3
    labels = plot_void_map(marked).get_xticklabels()
    assert [label.get_fontweight() == "bold" for label in labels] == [index == 3 for index in range(19)]
    assert labels[3].get_color() != labels[2].get_color()


def test_a_special_token_is_checked_against_the_bold_font(trace: xr.Dataset) -> None:
    marked = with_texts(trace, ["\U0001d5a0", "\U0001d5a0"])
    marked["special"].values[0, 1] = True
    ax = plot_void_map(marked)
    assert labels_of(ax)[:2] == ["\U0001d5a0", "\\U0001d5a0"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("n_tokens", "n_layers"), [(10, 4), (10, 80), (120, 30), (400, 30), (400, 80)])
def test_labels_never_touch_and_nothing_is_clipped(n_tokens: int, n_layers: int) -> None:
    trace = synthetic_trace(1, n_layers, n_tokens - 3, 3)
    ax = plot_void_map(trace)
    figure = ax.figure
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))
    stride = int(ax.get_xticks()[1] - ax.get_xticks()[0])
    assert (stride > 1) == (n_tokens == 400)
    assert (f"one label in {stride}" in ax.get_xlabel()) == (stride > 1)
    texts = [str(text).replace(" ", "·").replace("\n", "\\n") for text in trace["token_text"].values[0]]
    assert labels_of(ax) == texts[::stride]
    bold = [label.get_fontweight() == "bold" for label in ax.get_xticklabels()]
    assert bold == list(trace["special"].values[0, ::stride])
    assert all(label.get_fontsize() >= 5 for label in ax.get_xticklabels())
    legend = ax.get_legend().get_window_extent()
    assert all(legend.y0 >= text.get_window_extent().y1 for text in ax.texts)
    whole = ax.get_tightbbox()
    assert whole.x0 >= -1
    assert whole.y0 >= -1
    assert whole.x1 <= figure.bbox.x1 + 1
    assert whole.y1 <= figure.bbox.y1 + 1


def test_a_small_given_axes_thins_its_labels(trace: xr.Dataset) -> None:
    figure, ax = plt.subplots(figsize=(1.8, 3))
    assert plot_void_map(trace, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    assert len(labels_of(ax)) < 19
    assert "one label in" in ax.get_xlabel()


def test_the_trace_is_left_as_it_was(trace: xr.Dataset) -> None:
    before = trace.copy(deep=True)
    plot_void_map(trace)
    xr.testing.assert_identical(trace, before)


def test_wrong_masks(trace: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"made without a rule.*pass voids=lacscope.voids\(trace, alpha=0.8\)"):
        plot_void_map(trace.drop_vars("void"))
    with pytest.raises(
        ValueError, match=r"'voids' has an extra dimension 'alpha'.*one of 0.0, 0.8: select one.*voids.isel"
    ):
        plot_void_map(trace, voids(trace, [0.0, 0.8]))
    with pytest.raises(TraceError, match=r"another trace: their 'sample' has 1 entries or other labels"):
        plot_void_map(trace, trace["void"].isel(sample=0))
    with pytest.raises(TraceError, match=r"another trace: their 'layer' has 5 entries or other labels.* has 12"):
        plot_void_map(trace, trace["void"].isel(layer=slice(5)))
    with pytest.raises(TraceError, match=r"voids must be a mask, 1 or True at voids"):
        plot_void_map(trace, trace["void"] * 2)


def test_wrong_samples_tokens_and_traces(trace: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"no sample 3; choose one of 0, 1, 2"):
        plot_void_map(trace, sample=3)
    with pytest.raises(ValueError, match=r"none of the sample's 17 tokens; choose within slice\(0, 17\)"):
        plot_void_map(trace, sample=1, tokens=slice(17, 30))
    with pytest.raises(ValueError, match=r"without a step, got slice\(0, 9, 2\)"):
        plot_void_map(trace, tokens=slice(0, 9, 2))
    with pytest.raises(TraceError, match="not a lacscope trace"):
        plot_void_map(xr.Dataset())


def test_several_rules_are_refused_and_one_is_drawn(trace: xr.Dataset) -> None:
    several = trace.assign(void=trace["void"].expand_dims(rule=["a", "b"]))
    with pytest.raises(ValueError, match=r"holds 2 rules and a map shows one: give for instance trace.isel\(rule=0\)"):
        plot_void_map(several)
    np.testing.assert_array_equal(image_of(plot_void_map(several.isel(rule=0))), trace["void"].values[0])


def test_colours_of_the_module_are_the_ones_drawn(trace: xr.Dataset) -> None:
    colors = plot_void_map(trace).get_images()[0].cmap.colors
    assert list(colors) == [voidmap.ACTIVE, voidmap.VOID]
