import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots._ablation import plot_ablation, plot_ablation_accuracy
from lacscope.traces._provenance import result_attrs
from lacscope.traces._spread import with_spread

pytestmark = pytest.mark.once


def attrs(n: int) -> dict[str, str | int]:
    return result_attrs(
        "causal_ablation",
        {"model": "tiny"},
        preset=None,
        settings={},
        positions="bypassed at all tokens",
        aggregation="mean over tokens",
        n_samples=n,
        data="numbers",
    )


@pytest.fixture
def ablation() -> xr.Dataset:
    rng = np.random.default_rng(0)
    over = ("sample", "layer")
    loss = rng.normal(0.2, 1.0, (5, 6))
    return with_spread(xr.Dataset({"kl": (over, np.abs(loss)), "loss": (over, loss)}, {"layer": range(6)}, attrs(5)))


@pytest.fixture
def accuracy() -> xr.Dataset:
    right = np.random.default_rng(0).random((8, 6)) < 0.5
    full = np.arange(8) < 6
    return xr.Dataset(
        {"correct": (("sample", "layer"), right), "full_correct": ("sample", full)}, {"layer": range(6)}, attrs(8)
    )


@pytest.mark.parametrize("measure", ["kl", "loss"])
def test_the_line_is_the_mean_over_samples(ablation: xr.Dataset, measure: str) -> None:
    ax = plot_ablation(ablation, measure=measure)
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), ablation[measure].values.mean(0))
    np.testing.assert_array_equal(line.get_xdata(), range(6))
    low = ax.collections[0].get_paths()[0].vertices[:, 1].min()
    assert low == pytest.approx(np.quantile(ablation[measure].values, 0.1, axis=0).min())
    assert "nats" in ax.get_ylabel()
    assert ax.get_yscale() == "symlog"


def test_kl_starts_at_zero_and_a_fall_of_loss_is_shown(ablation: xr.Dataset) -> None:
    assert plot_ablation(ablation).get_ylim()[0] == 0
    assert plot_ablation(ablation, measure="loss").get_ylim()[0] < float(ablation["loss"].mean("sample").min())


def test_the_caption_says_what_was_averaged(ablation: xr.Dataset) -> None:
    text = " ".join(plot_ablation(ablation).texts[-1].get_text().split())
    assert text == "tiny; numbers; n = 5 prompts; bypassed at all tokens; mean over tokens"


def test_accuracy_beside_the_full_models(accuracy: xr.Dataset) -> None:
    ax = plot_ablation_accuracy(accuracy)
    without, full = ax.get_lines()
    np.testing.assert_allclose(without.get_ydata(), accuracy["correct"].values.mean(0))
    assert set(full.get_ydata()) == {0.75}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "without the layer (n = 8 questions)",
        "full model",
    ]
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] >= 1


def test_the_given_axes_are_used(ablation: xr.Dataset, accuracy: xr.Dataset) -> None:
    figure, (first, second) = plt.subplots(1, 2)
    assert plot_ablation(ablation, first) is first
    assert plot_ablation_accuracy(accuracy, second) is second
    assert plt.get_fignums() == [figure.number]


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_measure(ablation: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="measure must be 'kl' or 'loss', got 'accuracy'"):
        plot_ablation(ablation, measure="accuracy")


def test_wrong_input(ablation: xr.Dataset, accuracy: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"without 'kl'. Give what lacscope.model_measures.causal_ablation"):
        plot_ablation(ablation.drop_vars("kl"))
    with pytest.raises(ValueError, match="without 'sample'"):
        plot_ablation(ablation.mean("sample", keep_attrs=True))
    with pytest.raises(
        ValueError, match=r"without 'full_correct'. Give what lacscope.model_measures.ablation_accuracy"
    ):
        plot_ablation_accuracy(accuracy.drop_vars("full_correct"))
