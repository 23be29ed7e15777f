"""Figures of the depth-efficiency quantities, on results that no model made."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._contributions import plot_relative_contributions, plot_residual_cosines
from lacscope.plots._linear_maps import plot_linear_maps
from lacscope.plots._logit_lens import plot_logit_lens
from lacscope.plots._token_maps import plot_integrated_gradients, plot_residual_erasure
from lacscope.traces._provenance import Preset, result_attrs
from lacscope.traces._spread import POOLED, with_spread, without_spread

pytestmark = pytest.mark.once

N_TOKENS = ("sample", [9, 30, 12, 3, 40])
PAPER = Preset("doe_2025/something", "arXiv 0000.00000", {"samples": 20})


def result(sizes: dict[str, int], names: tuple[str, ...], low: float = 0.1, high: float = 0.9) -> xr.Dataset:
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {n: (tuple(sizes), rng.uniform(low, high, tuple(sizes.values())), {"long_name": f"the {n}"}) for n in names},
        {dim: np.arange(size) for dim, size in sizes.items()},
    )
    ds.attrs = result_attrs(
        "effect",
        {"model": "synthetic"},
        preset=PAPER,
        settings={},
        positions="all tokens",
        aggregation="mean over tokens",
        n_samples=sizes["sample"],
        data="random words",
    )
    return ds


def pooled(found: xr.Dataset) -> xr.Dataset:
    return with_spread(found.assign_coords(n_tokens=N_TOKENS).assign_attrs(settings=f'{{"aggregation": "{POOLED}"}}'))


def contributions() -> xr.Dataset:
    names = ("attn_contribution", "mlp_contribution", "block_contribution")
    return pooled(result({"sample": 5, "layer": 12}, names))


def cosines() -> xr.Dataset:
    names = ("cos_attn_resid", "cos_mlp_resid", "cos_update_resid", "cos_pre_post")
    return pooled(result({"sample": 5, "layer": 12}, names, low=-0.5))


def lens() -> xr.Dataset:
    return with_spread(result({"sample": 5, "state": 13}, ("kl", "overlap")))


def token_map(name: str, low: float = 0.0) -> xr.Dataset:
    ds = result({"sample": 2, "state": 13, "token": 9}, (name,), low=low)
    ends = np.array([[9], [6]])
    valid = np.arange(9) < ends
    ds[name] = ds[name].where(xr.DataArray(valid, dims=("sample", "token")))
    by_token = ("sample", "token")
    return ds.assign_coords(
        token_id=(by_token, np.where(valid, np.arange(9) + 10, -1)),
        token_text=(by_token, np.where(valid, " word", "").astype(object)),
        special=(by_token, valid & (np.arange(9) == 0)),
        valid=(by_token, valid),
        answer=(by_token, valid & (np.arange(9) >= ends - 2)),
    )


def maps() -> xr.Dataset:
    ds = result({"sample": 2, "state_a": 5, "state_b": 9}, ("error", "error_position_0"))
    ds["state_a"].attrs["long_name"] = "state of small"
    ds["state_b"].attrs["long_name"] = "state of large"
    return ds


DRAWN: dict[str, tuple[Callable[..., Any], xr.Dataset]] = {
    "contributions": (plot_relative_contributions, contributions()),
    "cosines": (plot_residual_cosines, cosines()),
    "lens": (plot_logit_lens, lens()),
    "erasure": (plot_residual_erasure, token_map("effect")),
    "gradients": (plot_integrated_gradients, token_map("attribution", low=-0.9)),
    "maps": (plot_linear_maps, maps()),
}


def first_axes(drawn: Any) -> Axes:
    return drawn if isinstance(drawn, Axes) else drawn[0]


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_says_what_it_rests_on_and_fits_on_the_page(name: str) -> None:
    plot, ds = DRAWN[name]
    before = ds.copy(deep=True)
    ax = first_axes(plot(ds))
    texts = " ".join(text.get_text().replace("\n", " ") for text in ax.texts)
    words = f"synthetic; random words; n = {ds.attrs['n_samples']} prompts; all tokens; mean over tokens."
    assert words in texts
    assert f"Departs from doe_2025/something: samples = {ds.attrs['n_samples']} (paper: 20)" in texts
    figure = ax.figure
    figure.canvas.draw()
    below = ax.texts[-1] if name in ("contributions", "cosines", "lens", "maps") else ax.texts[1]
    assert below.get_window_extent().y1 < ax.xaxis.label.get_window_extent().y0
    assert figure.get_tightbbox().y0 >= -0.05
    xr.testing.assert_identical(ds, before)


@pytest.mark.parametrize("name", DRAWN)
def test_another_dataset_is_refused(name: str) -> None:
    plot, ds = DRAWN[name]
    with pytest.raises(ValueError, match=r"without '.*'\. Give what lacscope\.model_measures\."):
        plot(xr.Dataset(attrs=ds.attrs))
    with pytest.raises(ValueError, match=r"extra dimension 'alpha'; a plot shows one at a time"):
        plot(ds.map(lambda one: one.expand_dims(alpha=[0.1, 0.2])))


@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"lens"}))
def test_the_given_axes_are_used(name: str) -> None:
    plot, ds = DRAWN[name]
    figure, ax = plt.subplots(layout="constrained")
    assert plot(ds, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize(
    ("plot", "ds"), [(plot_relative_contributions, contributions()), (plot_residual_cosines, cosines())]
)
def test_lines_are_means_and_bands_the_middle_of_the_samples(plot: Callable[..., Axes], ds: xr.Dataset) -> None:
    ax = plot(ds)
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 12]
    names = list(without_spread(ds).data_vars)
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(names)
    for line, band, name in zip(lines, ax.collections, names, strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.average(ds[name], axis=0, weights=N_TOKENS[1]))
        assert line.get_label() == f"the {name}"
        low, high = np.quantile(ds[name], [0.1, 0.9], axis=0)
        corners = band.get_paths()[0].vertices
        for layer in range(12):
            heights = corners[corners[:, 0] == layer, 1]
            assert heights.min() == pytest.approx(low[layer])
            assert heights.max() == pytest.approx(high[layer])
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "line: mean of all tokens; band: 10th to 90th percentile of samples"
    assert [text.get_text() for text in legend.get_texts()] == [f"the {name}" for name in names]


def test_block_level_results_have_fewer_lines_and_one_sample_no_band() -> None:
    whole = contributions()
    ax = plot_relative_contributions(with_spread(whole[["block_contribution"]].isel(sample=[0])))
    (line,) = ax.get_lines()
    assert not ax.collections
    same = plot_relative_contributions(whole).get_lines()[2]
    assert (line.get_color(), line.get_marker()) == (same.get_color(), same.get_marker())


def test_a_sample_without_tokens_is_left_out() -> None:
    ds = contributions()
    with_none = ds.copy(deep=True)
    with_none["block_contribution"][0] = np.nan
    line = plot_relative_contributions(with_spread(with_none[["block_contribution"]])).get_lines()[0]
    np.testing.assert_allclose(
        line.get_ydata(), np.average(ds["block_contribution"][1:], axis=0, weights=N_TOKENS[1][1:])
    )


@pytest.mark.parametrize(("first", "scale"), [(0.5, "linear"), (100.0, "log")])
def test_a_wide_span_of_contributions_is_logarithmic_and_says_so(first: float, scale: str) -> None:
    ds = contributions()
    ds["block_contribution"][:, 0] = first
    ax = plot_relative_contributions(with_spread(ds))
    assert ax.get_yscale() == scale
    assert ("(log scale)" in ax.get_ylabel()) == (scale == "log")
    ds["attn_contribution"][:, 3] = 0.0
    ax = plot_relative_contributions(with_spread(ds))
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] == 0


def test_lens_has_a_panel_for_each_of_its_scales() -> None:
    ds = lens()
    kl, overlap = plot_logit_lens(ds)
    np.testing.assert_allclose(kl.get_lines()[0].get_ydata(), ds["kl"].mean("sample"))
    np.testing.assert_allclose(overlap.get_lines()[0].get_ydata(), ds["overlap"].mean("sample"))
    assert kl.get_ylabel() == "the kl (nats)"
    assert overlap.get_ylim() == (0, 1.04)
    given = plt.subplots(1, 2)[1]
    assert list(plot_logit_lens(ds, given)) == list(given)
    with pytest.raises(ValueError, match="this plot draws on 2 axes, got 1"):
        plot_logit_lens(ds, given[:1])


@pytest.mark.parametrize(("sample", "n_tokens"), [(0, 9), (1, 6)])
def test_token_maps_show_the_samples_own_tokens(sample: int, n_tokens: int) -> None:
    for plot, name, what in (
        (plot_residual_erasure, "effect", "token erased"),
        (plot_integrated_gradients, "attribution", "token read"),
    ):
        ds = token_map(name)
        ax = plot(ds, sample)
        (image,) = ax.get_images()
        np.testing.assert_array_equal(image.get_array(), ds[name][sample, :, :n_tokens])
        assert image.origin == "lower"
        labels = ax.get_xticklabels()
        assert [label.get_text() for label in labels] == ["·word"] * n_tokens
        assert [label.get_fontweight() == "bold" for label in labels] == [True] + [False] * (n_tokens - 1)
        assert ax.get_xlabel().startswith(what)
        (boundary,) = ax.get_lines()
        assert boundary.get_xdata()[0] == n_tokens - 2.5
        with pytest.raises(ValueError, match="has no sample 2; choose one of 0, 1"):
            plot(ds, 2)


def test_erasure_is_on_a_scale_from_zero() -> None:
    ds = token_map("effect")
    image = plot_residual_erasure(ds).get_images()[0]
    assert image.get_clim() == (0.0, pytest.approx(float(ds.effect[0].max())))
    nothing = plot_residual_erasure(ds.assign(effect=ds.effect * 0)).get_images()[0]
    assert nothing.get_clim() == (0.0, 1.0)


def test_gradients_are_on_a_symmetric_scale_without_position_0() -> None:
    ds = token_map("attribution", low=-0.9)
    ds["attribution"][0, 3, 0] = -50.0
    ax = plot_integrated_gradients(ds)
    image = ax.get_images()[0]
    end = float(abs(ds.attribution[0, :, 1:]).max())
    assert image.get_clim() == (pytest.approx(-end), pytest.approx(end))
    assert image.colorbar.extend == "min"
    assert plot_integrated_gradients(token_map("attribution")).get_images()[0].colorbar.extend in ("neither", "max")


def test_maps_show_the_mean_error_and_the_best_state_of_a() -> None:
    ds = maps()
    ax = plot_linear_maps(ds)
    image = ax.get_images()[0]
    np.testing.assert_allclose(image.get_array(), ds.error.mean("sample"))
    assert image.get_clim() == (0.0, 1.0)
    assert image.colorbar.extend == "neither"
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), ds.error.mean("sample").argmin("state_a"))
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("state of small", "state of large")
    assert plot_linear_maps(ds.assign(error=ds.error * 3)).get_images()[0].colorbar.extend == "max"
    some = plot_linear_maps(ds.isel(state_a=[0, 2]))
    assert [label.get_text() for label in some.get_yticklabels()] == ["0", "2"]
