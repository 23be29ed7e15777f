"""Results on disk: found again when they are the same, never when anything differs or the file is damaged."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lacscope.analyze._joining import join_samples
from lacscope.analyze._store import ResultStore, result_id
from lacscope.traces._provenance import Preset, result_attrs, with_samples

pytestmark = pytest.mark.once

ATTRS = result_attrs(
    "lim",
    {"model": "m"},
    preset=Preset("p", "s", {"samples": 5}),
    settings={},
    positions="all",
    aggregation="a",
    n_samples=2,
)
RESULT = xr.Dataset({"a": ("sample", [1.0, 2.0])}, {"sample": [0, 1]}, ATTRS)


def test_a_result_is_found_under_its_own_id_alone(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "m")
    assert store.finished("lim", "x") is None
    store.write("lim", "x", RESULT)
    xr.testing.assert_equal(store.finished("lim", "x"), RESULT)
    assert store.finished("lim", "y") is None
    assert store.finished("other", "x") is None


@pytest.mark.parametrize("part", [False, True])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, part: bool) -> None:
    store = ResultStore(tmp_path)
    store.write_part("lim", "x", 3, RESULT) if part else store.write("lim", "x", RESULT)
    (path,) = tmp_path.rglob("*.nc")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert (store.part("lim", "x", 3) if part else store.finished("lim", "x")) is None


def test_parts_go_when_the_result_is_there(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for index in range(2):
        store.write_part("lim", "x", index, RESULT)
    store.write_part("lim", "other", 0, RESULT)
    assert store.part("lim", "x", 1) is not None
    store.write("lim", "x", RESULT)
    assert store.part("lim", "x", 1) is None
    assert store.part("lim", "other", 0) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lim.nc", "parts"]


@pytest.mark.parametrize("changed", range(5))
def test_an_id_depends_on_all_that_changes_the_result(changed: int) -> None:
    given = ["lim", "weights", {"k": 1}, [[1, 2]], {"torch": "2"}]
    other = ["bi", "other", {"k": 2}, [[1, 3]], {"torch": "3"}]
    mixed = [*given[:changed], other[changed], *given[changed + 1 :]]
    assert result_id(*given) == result_id(*given)  # type: ignore[arg-type]
    assert result_id(*given) != result_id(*mixed)  # type: ignore[arg-type]


def test_parts_join_as_one_call_on_all_prompts() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((5, 3))

    def made(rows: np.ndarray) -> xr.Dataset:
        ds = xr.Dataset({"v": (("sample", "layer"), rows)}, {"sample": np.arange(len(rows)), "layer": np.arange(3)})
        ds["top"] = ds["v"].max("sample").assign_attrs(aggregation="max over samples")
        ds["mean"] = ds["v"].mean("sample").assign_attrs(aggregation="mean over samples")
        return ds.assign_attrs(with_samples(ATTRS, len(rows)))

    xr.testing.assert_allclose(join_samples([made(values[:2]), made(values[2:4]), made(values[4:])]), made(values))
    joined = join_samples([made(values[:2]), made(values[2:])])
    assert joined.attrs == made(values).attrs
    assert (joined.attrs["departures"], made(values[:2]).attrs["departures"]) == ("", "samples = 2 (paper: 5)")


def test_what_cannot_be_joined_is_refused() -> None:
    odd = RESULT.assign(total=3.0)
    with pytest.raises(ValueError, match="'total' has no dimension sample and no aggregation to join it by"):
        join_samples([odd, odd])
