"""The lines: the Curse of Depth, geometry of layer updates."""

import importance_results as results
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lacscope.plots._depth_curse import plot_depth_curse
from lacscope.plots._updates import plot_update_geometry

pytestmark = pytest.mark.once


def test_variance_is_logarithmic_and_identity_distance_starts_at_zero() -> None:
    variance, identity = results.variance(), results.identity()
    left, right = plot_depth_curse(variance, identity)
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), variance.variance.mean("sample"))
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), identity.identity_distance.mean("sample"))
    assert left.get_yscale() == "log"
    assert (right.get_yscale(), right.get_ylim()[0]) == ("linear", 0)
    assert "squared stream units" in left.get_ylabel()
    assert left.get_xlabel() == "state (l: what enters layer l)"
    for ax in (left, right):
        assert any("n = 12 prompts" in text.get_text().replace("\n", " ") for text in ax.texts)


def test_every_panel_of_updates_draws_its_variables() -> None:
    ds = results.updates()
    panels = plot_update_geometry(ds)
    names = (("r2", "r2_update"), ("cos_update", "cos_residual"), ("projection_update", "projection_residual"))
    for ax, pair in zip(panels, names, strict=False):
        for line, name in zip(ax.get_lines(), pair, strict=False):
            np.testing.assert_allclose(line.get_ydata(), ds[name].mean("sample"))
    np.testing.assert_array_equal(panels[3].get_lines()[0].get_ydata(), ds.spearman)
    assert any("T = 1 + B, B of rank 8" in text.get_text().replace("\n", " ") for text in panels[0].texts)


@pytest.mark.parametrize(("lowest", "cut"), [(0.1, False), (-40.0, True)])
def test_a_very_low_r2_is_cut_off_and_said(lowest: float, cut: bool) -> None:
    ax = plot_update_geometry(results.updates(lowest))[0]
    assert ax.get_ylim()[0] > -1.1
    assert ("cut off" in ax.get_ylabel()) == cut
    assert not cut or "lowest: -40" in ax.get_ylabel()


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"'variance' has .*without 'variance', 'state'. Give what .*depth_variance"):
        plot_depth_curse(results.identity(), results.identity())
    with pytest.raises(ValueError, match=r"'identity' has .*without 'identity_distance'"):
        plot_depth_curse(results.variance(), results.variance())
    with pytest.raises(ValueError, match=r"without 'spearman'. Give what lacscope\.model_measures\.update_geometry"):
        plot_update_geometry(results.updates().drop_vars("spearman"))
    with pytest.raises(ValueError, match=r"extra dimension 'token'"):
        plot_update_geometry(results.updates().expand_dims("token"))
    with pytest.raises(ValueError, match="draws on 4 axes, got 2"):
        plot_update_geometry(results.updates(), plt.subplots(1, 2)[1])
