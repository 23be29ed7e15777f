import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.plots._pruning import plot_greedy, plot_sleb
from lacscope.traces._provenance import result_attrs

pytestmark = pytest.mark.once

ATTRS = result_attrs(
    "sleb",
    {"model": "tiny"},
    preset=None,
    settings={},
    positions="all tokens",
    aggregation="pooled",
    n_samples=5,
    data="numbers",
) | {"preset": "song_2024/sleb", "departures": "samples = 5 (paper: 128)"}


@pytest.fixture
def sleb() -> xr.Dataset:
    ds = xr.Dataset({"removed": ("step", [-1, 4, 2]), "perplexity": ("step", [10.0, 11.0, 300.0])}, attrs=ATTRS)
    return ds.assign_coords(step=range(3))


@pytest.fixture
def greedy() -> xr.Dataset:
    accuracy = np.array([[0.4, 0.8], [0.44, 0.4], [0.1, 0.2]])
    return xr.Dataset(
        {
            "removed": ("step", [-1, 4, 2]),
            "kept": ("step", (accuracy / accuracy[0]).mean(1)),
            "accuracy": (("step", "task"), accuracy),
        },
        {"step": range(3), "task": ["gsm8k", "lambada"]},
        ATTRS,
    )


def test_perplexity_and_the_layer_that_went(sleb: xr.Dataset) -> None:
    ax = plot_sleb(sleb)
    (line,) = ax.get_lines()
    assert line.get_ydata().tolist() == [10.0, 11.0, 300.0]
    named = {text.get_text(): text.xy for text in ax.texts[:-1]}
    assert named == {"4": (1, 11.0), "2": (2, 300.0)}
    assert ax.get_yscale() == "log"
    assert "Departs from song_2024/sleb: samples = 5" in " ".join(ax.texts[-1].get_text().split())


def test_the_share_kept_of_each_task_and_their_mean(greedy: xr.Dataset) -> None:
    ax = plot_greedy(greedy)
    mean, first, second = ax.get_lines()
    np.testing.assert_allclose(mean.get_ydata(), [1, 0.8, 0.25])
    np.testing.assert_allclose(first.get_ydata(), [1, 1.1, 0.25])
    np.testing.assert_allclose(second.get_ydata(), [1, 0.5, 0.25])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "mean of the tasks",
        "gsm8k (full model: 0.40)",
        "lambada (full model: 0.80)",
    ]
    # Over the highest of the lines, so that none is covered.
    assert {text.get_text(): round(float(text.xy[1]), 2) for text in ax.texts[:-1]} == {"4": 1.1, "2": 0.25}
    assert ax.get_ylim()[0] == 0


def test_labels_stay_inside_the_axes(greedy: xr.Dataset) -> None:
    ax = plot_greedy(greedy)
    ax.figure.canvas.draw()
    for text in ax.texts[:-1]:
        assert text.get_window_extent().y1 <= ax.bbox.y1


def test_the_given_axes_are_used(sleb: xr.Dataset, greedy: xr.Dataset) -> None:
    figure, (first, second) = plt.subplots(1, 2)
    assert plot_sleb(sleb, first) is first
    assert plot_greedy(greedy, second) is second
    assert plt.get_fignums() == [figure.number]


def test_wrong_input(sleb: xr.Dataset, greedy: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"without 'perplexity'. Give what lacscope.model_measures.sleb"):
        plot_sleb(greedy)
    with pytest.raises(
        ValueError, match=r"without 'kept', 'accuracy'. Give what lacscope.model_measures.greedy_by_task"
    ):
        plot_greedy(sleb)
