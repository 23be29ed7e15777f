import numpy as np
import pytest
import xarray as xr

from lacscope.plots import plot_effects_by_group

pytestmark = pytest.mark.once


def table(**kl: list[float]) -> xr.Dataset:
    found = {f"kl_{name}": ("group", np.array(values)) for name, values in kl.items()}
    ends = {
        f"{name}_{end}": ("group", 0.5 * values[1], {"level": 0.9})
        for name, values in found.items()
        for end in ("low", "high")
    }
    return xr.Dataset(found | ends, {"group": ["number", "other"]})


def test_points_stand_at_their_groups_and_a_zero_is_said() -> None:
    ax = plot_effects_by_group(table(readout=[0.0, 0.2], bypass=[8.0, 9.0]))
    points = {bars.lines[0].get_label(): bars.lines[0].get_xdata().tolist() for bars in ax.containers}
    assert points == {"readout": [0.0, 0.2], "bypass": [8.0, 9.0]}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["number", "other"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first group is on top"
    assert "90 % intervals over samples" in ax.get_legend().get_title().get_text().replace("\n", " ")
    (zero,) = ax.texts
    assert (zero.get_text(), round(zero.get_position()[1])) == ("0", 0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'found' has no variable kl_...: give values= with one"):
        plot_effects_by_group(xr.Dataset(coords={"group": ["number"]}))
    with pytest.raises(ValueError, match=r"'found' has 5 variables kl_...; a figure tells 4 apart: drop some"):
        plot_effects_by_group(table(**{name: [1.0, 1.0] for name in "abcde"}))
