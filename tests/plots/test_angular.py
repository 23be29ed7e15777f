"""The maps: angular distance, similarity of states."""

import importance_results as results
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lacscope.plots._angular import plot_angular_distance, plot_state_similarity

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("scaled", "name"), [(False, "mean_distance"), (True, "scaled_distance")])
def test_the_angular_map_is_the_table_with_a_ring_on_each_rows_least(scaled: bool, name: str) -> None:
    ds = results.angular()
    ax = plot_angular_distance(ds, scaled=scaled)
    (image,) = ax.get_images()
    drawn = np.ma.filled(image.get_array().astype(float), np.nan)
    np.testing.assert_array_equal(drawn, ds[name])
    # Row n - 1 of the image stands at y = n.
    assert image.get_extent() == [-0.5, 29.5, 0.5, 30.5]
    (rings,) = [line for line in ax.get_lines() if len(line.get_xdata()) == 30]
    np.testing.assert_array_equal(rings.get_xdata(), ds.first_to_drop)
    np.testing.assert_array_equal(rings.get_ydata(), ds.n)
    colorbar = ax.figure.axes[1].get_ylabel()
    assert ("1-99 %" in colorbar) == scaled
    assert ("share of pi" in colorbar) != scaled


def test_the_similarity_map_is_the_table_on_a_fixed_scale() -> None:
    ds = results.similarity()
    ax = plot_state_similarity(ds)
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), ds.mean_similarity)
    assert image.get_clim() == (0, 1)
    (below,) = plot_state_similarity(-results.similarity().assign_attrs(results.ATTRS)).get_images()
    assert below.get_clim() == (-1, 1)


def test_they_draw_on_given_axes_with_their_small_print() -> None:
    for plot, ds in ((plot_angular_distance, results.angular()), (plot_state_similarity, results.similarity())):
        _, ax = plt.subplots()
        assert plot(ds, ax) is ax
        assert any("n = 12 prompts" in text.get_text().replace("\n", " ") for text in ax.texts)


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(
        ValueError, match=r"without 'first_to_drop'. Give what lacscope\.model_measures\.angular_distance"
    ):
        plot_angular_distance(results.angular().drop_vars("first_to_drop"))
    with pytest.raises(
        ValueError, match=r"without 'mean_similarity'. Give what lacscope\.model_measures\.state_similarity"
    ):
        plot_state_similarity(results.angular())
    with pytest.raises(ValueError, match=r"extra dimension 'sample'"):
        plot_state_similarity(results.similarity().expand_dims("sample"))
