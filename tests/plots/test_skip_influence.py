import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope.model_measures._skip_influence import influence_dataset
from lacscope.plots._skip_influence import plot_skip_influence
from lacscope.traces._provenance import result_attrs

pytestmark = pytest.mark.once


def result(n_layers: int = 6, *, largest: float = 2.0) -> xr.Dataset:
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0, 1, (n_layers, n_layers)).astype(np.float32)
    matrix[0, 1] = largest
    matrix[np.tril_indices(n_layers)] = np.nan
    attrs = result_attrs(
        "current_skip_influence",
        {"model": "made up"},
        preset=None,
        settings={},
        positions="skipped at 1 <= p < t, measured at p >= t",
        aggregation="max over positions, 4 random t and prompts",
        n_samples=1,
        data="nothing",
    )
    more = {"influence_on": "future tokens", "unit": "attn"}
    return influence_dataset([matrix], [rng.uniform(0, 1, n_layers).astype(np.float32)], [20], {**attrs, **more})


def test_the_map_is_the_matrix_and_the_bars_the_output() -> None:
    found = result()
    heat, bars = plot_skip_influence(found)
    (image,) = heat.get_images()
    np.testing.assert_array_equal(image.get_array().filled(np.nan), found["max_influence"].values)
    assert image.get_clim() == (0, 1)
    np.testing.assert_array_equal([bar.get_width() for bar in bars.patches], found["max_output_influence"].values)
    assert bars.get_xlim() == pytest.approx((0, np.sqrt(2)))
    assert (heat.get_xlabel(), heat.get_ylabel()) == ("layer measured", "layer skipped")


def test_map_and_bars_have_the_same_rows() -> None:
    heat, bars = plot_skip_influence(result())
    heat.figure.canvas.draw()
    assert bars.get_ylim() == heat.get_ylim()
    for end in ("y0", "y1"):
        assert getattr(bars.get_position(), end) == pytest.approx(getattr(heat.get_position(), end))
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars.patches] == pytest.approx(range(6))


def test_the_transposed_matrix_is_turned_back() -> None:
    found = result()
    heat, _ = plot_skip_influence(found.transpose("layer", "skipped", "sample"))
    np.testing.assert_array_equal(heat.get_images()[0].get_array().filled(np.nan), found["max_influence"].values)


@pytest.mark.parametrize(("largest", "extend"), [(2.0, "max"), (0.9, "neither")])
def test_the_scale_says_whether_something_was_clipped(largest: float, extend: str) -> None:
    heat, _ = plot_skip_influence(result(largest=largest))
    assert heat.get_images()[0].colorbar.extend == extend


def test_the_figure_says_what_it_rests_on() -> None:
    heat, _ = plot_skip_influence(result())
    assert heat.figure.get_suptitle() == "made up: skipping a block's attention, influence on future tokens"
    said = " ".join(text.get_text().replace("\n", " ") for text in heat.texts)
    assert "nothing; n = 1 prompt; skipped at 1 <= p < t, measured at p >= t; max over positions, 4 random t" in said


def test_given_axes_are_used() -> None:
    figure, axes = plt.subplots(1, 2)
    assert list(plot_skip_influence(result(), axes)) == list(axes)
    assert plt.get_fignums() == [figure.number]
    assert figure.get_suptitle() == ""


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"without 'max_output_influence'. Give what lacscope.model_measures.future"):
        plot_skip_influence(result().drop_vars("max_output_influence"))
    with pytest.raises(ValueError, match=r"'max_influence' has an extra dimension 'sample'"):
        plot_skip_influence(result().assign(max_influence=result()["influence"]))
    with pytest.raises(ValueError, match="this plot draws on 2 axes, got 1"):
        plot_skip_influence(result(), [plt.subplots()[1]])
