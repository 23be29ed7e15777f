import importance_results as results
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lacscope.plots._importance import plot_importance
from lacscope.traces._spread import with_spread, without_spread

pytestmark = pytest.mark.once


def legend_texts(ax: plt.Axes) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]


def test_bars_are_means_and_lines_the_spread_over_samples() -> None:
    ds = results.block_influences()
    ax = plot_importance(ds)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], ds.score.mean("sample"))
    (spread,) = [found for found in ax.collections if len(found.get_segments()) == results.N_LAYERS]
    ends = np.array(spread.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends.T, np.quantile(ds.score, [0.1, 0.9], axis=0))
    assert legend_texts(ax) == ["mean of samples (n = 12 samples)", "10th to 90th percentile of samples"]
    assert ax.get_legend().get_title().get_text() == "larger = more important"


def test_samples_without_tokens_do_not_count() -> None:
    ds = results.block_influences()
    ds["score"][3] = np.nan
    ax = plot_importance(with_spread(ds))
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], ds.score.mean("sample"))
    assert legend_texts(ax)[0] == "mean of samples (n = 11 samples)"


@pytest.mark.parametrize("values", [results.DEPTH[None], results.DEPTH], ids=["one sample", "no data"])
def test_without_several_samples_there_is_no_spread(values: np.ndarray) -> None:
    ax = plot_importance(results.ranking(values))
    assert not ax.collections
    assert legend_texts(ax) == ["1 - mean cos(h_l, h_l+1)"]


def test_a_result_without_a_spread_has_its_mean_alone_and_says_how_to_make_one() -> None:
    ds = results.block_influences()
    ax = plot_importance(without_spread(ds))
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], ds.score.mean("sample"))
    assert not ax.collections
    assert "lacscope.traces.with_spread(result) makes it" in legend_texts(ax)[1]


def test_a_spread_of_other_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'score' has 5 samples and a spread of 12: .*Make it anew, with lacscope"):
        plot_importance(results.block_influences().isel(sample=slice(5)))


def test_values_far_from_zero_and_close_together_are_points() -> None:
    ax = plot_importance(results.ranking(-0.97 + 0.01 * results.DEPTH))
    assert not ax.patches
    low, high = ax.get_ylim()
    assert -0.98 < low < -0.97 < -0.96 < high < -0.95
    assert plot_importance(results.ranking(0.1 + results.DEPTH)).get_ylim()[0] == 0


def test_units_and_the_caption_are_on_the_figure() -> None:
    ax = plot_importance(results.ranking(results.DEPTH, units="nats"))
    assert ax.get_ylabel() == "1 - mean cos(h_l, h_l+1)\n(nats)"
    small_print = " ".join(text.get_text().replace("\n", " ") for text in ax.texts)
    assert "GSM8K test; n = 12 prompts; all tokens but sinks" in small_print
    assert "data = GSM8K test (paper: PG19)" in small_print


def test_it_draws_on_the_axes_that_are_given() -> None:
    _, ax = plt.subplots()
    assert plot_importance(results.block_influences(), ax) is ax


def test_wrong_input_is_refused_in_words() -> None:
    ds = results.block_influences()
    with pytest.raises(ValueError, match=r"no attribute 'importance'.*Give what a measure of lacscope\.model_measures"):
        plot_importance(ds.assign_attrs(importance="score").drop_attrs())
    with pytest.raises(ValueError, match=r"without 'other'"):
        plot_importance(ds.assign_attrs(importance="other"))
    with pytest.raises(ValueError, match=r"'score' has an extra dimension 'token'"):
        plot_importance(ds.expand_dims("token"))
