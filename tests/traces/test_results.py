"""What is saved is opened as it was, labels and attributes included; a damaged file is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lacscope
from lacscope.testing import synthetic_trace
from lacscope.traces import DamagedFileError

pytestmark = pytest.mark.once

TRACE = synthetic_trace()
VOID = lacscope.voids(TRACE, alpha=[0.2, 0.8])


def without_time(found: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    assert found.attrs["lacscope_saved"].startswith("20")
    assert found.attrs["lacscope_saved"].endswith("+00:00")
    found.attrs = {key: value for key, value in found.attrs.items() if key != "lacscope_saved"}
    return found


@pytest.mark.parametrize(
    "result",
    [
        TRACE,
        VOID,
        lacscope.voids(TRACE, alpha=0.8),
        lacscope.layer_usage(TRACE, VOID),
        lacscope.token_usage(TRACE, VOID.sel(alpha=0.8)),
        lacscope.norm_profile(TRACE),
        lacscope.groups_by_position(TRACE),
        lacscope.mean_exit_depth(TRACE, VOID),
        xr.DataArray([1.5, np.nan], dims="layer"),
    ],
    ids=["trace", "masks", "mask", "usage", "tokens", "norms", "groups", "depth", "unnamed"],
)
def test_a_result_comes_back_as_it_was(result: xr.Dataset | xr.DataArray, tmp_path: Path) -> None:
    found = lacscope.open(lacscope.save(result, tmp_path / "r.nc"))
    assert type(found) is type(result)
    assert without_time(found).identical(result)


def test_arrays_by_name_come_back_though_their_samples_differ(tmp_path: Path) -> None:
    one = xr.DataArray(
        [[1.0, 2.0], [3.0, 4.0]], {"sample": [0, 1], "n_tokens": ("sample", [4, 9])}, ("sample", "layer")
    )
    other = xr.DataArray([0.5, np.nan], {"layer": [0, 1]}, "layer", name="zd", attrs={"orientation": "larger"})
    given = {"usage 0.8": one, "ZD": other, "a/b": one.isel(sample=[1])}
    found = lacscope.open(lacscope.save(given, tmp_path / "scores.nc"))
    assert list(found) == list(given)
    for name, array in given.items():
        assert without_time(found[name]).identical(array)
        assert found[name].name == array.name
    with pytest.raises(ValueError, match="got a dict"):
        lacscope.save({}, tmp_path / "none.nc")


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = pd.DataFrame({"task": ["a", "b"], "right": [True, False], "n": [3, 4], "logp": [-0.5, np.nan]})
    pd.testing.assert_frame_equal(lacscope.open(lacscope.save(table, tmp_path / "t.nc")), table)


def test_categories_and_attributes_of_a_table_come_back(tmp_path: Path) -> None:
    trace = synthetic_trace()
    trace["surprisal"] = trace["valid"].where(trace["valid"]).astype(np.float32)
    cells = lacscope.cell_counts(trace, lacscope.voids(trace, 0.8))
    cells["size"] = pd.Categorical(["large"] * len(cells), categories=["small", "large"], ordered=True)
    cells.attrs["saved"] = "by me"
    before = cells.copy()
    again = lacscope.open(lacscope.save(cells, tmp_path / "t.nc"))
    pd.testing.assert_frame_equal(again, cells)
    assert again.attrs["saved"] == "by me"
    pd.testing.assert_frame_equal(cells, before)


def test_numbers_of_numpy_in_attributes_are_kept_and_the_result_is_not_changed(tmp_path: Path) -> None:
    usage = xr.DataArray([1.5], dims="layer", attrs={"alpha": np.float64(0.8), "n": np.int64(3)})
    again = lacscope.open(lacscope.save(usage, tmp_path / "u.nc"))
    assert (again.attrs["alpha"], again.attrs["n"]) == (0.8, 3)
    assert usage.attrs == {"alpha": 0.8, "n": 3}
    assert isinstance(usage.attrs["n"], np.int64)


def test_a_column_named_row_is_kept(tmp_path: Path) -> None:
    table = pd.DataFrame({"row": [5, 6], "n": [3, 4]})
    pd.testing.assert_frame_equal(lacscope.open(lacscope.save(table, tmp_path / "t.nc")), table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"a": ["x", None]}), r"column 'a' has cells without a value, .*: fill them"),
        (
            pd.DataFrame({"a": [[1], [2]]}),
            r"column 'a' \(object\) holds a list, and a file keeps text and plain numbers",
        ),
        (pd.DataFrame({"a": pd.Categorical([1, 2])}), r"column 'a' \(category\) holds a int"),
        (pd.DataFrame({1: [1, 2]}), r"column 1 cannot be kept under its name: .* Rename it"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"column 'a' cannot be kept under its name"),
        (pd.DataFrame({"lacscope_row": [1]}), r"column 'lacscope_row' cannot be kept under its name"),
        (pd.DataFrame({"a": [1, 2, 3]}).iloc[1:], r"an index of its own: .*reset_index"),
        (pd.DataFrame({"a": [1]}, index=["x"]), r"an index of its own: .*reset_index"),
    ],
    ids=[
        "missing text",
        "lists",
        "numbers as categories",
        "number as name",
        "name twice",
        "own name",
        "rows cut",
        "labels",
    ],
)
def test_a_table_that_would_come_back_as_another_is_refused(table: pd.DataFrame, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        lacscope.save(table, tmp_path / "t.nc")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = lacscope.save(VOID, tmp_path / "r.nc")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedFileError, match=r"r\.nc is damaged"):
        lacscope.open(path)
    path.write_bytes(raw[:-20])
    with pytest.raises(DamagedFileError, match="its end is missing"):
        lacscope.open(path)
    with pytest.raises(FileNotFoundError, match=r"x\.nc"):
        lacscope.open(tmp_path / "x.nc")


@pytest.mark.usefixtures("unchecked")
def test_what_a_file_cannot_keep_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes a Dataset, a DataArray, DataArrays by name or a DataFrame, got a list"):
        lacscope.save([1, 2], tmp_path / "r.nc")
    with pytest.raises(ValueError, match="attribute 'flag' is a bool, and a file keeps text and numbers"):
        lacscope.save(VOID.assign_attrs(flag=True), tmp_path / "r.nc")
    with pytest.raises(ValueError, match=r"has an index of its own: make it a column first, with \.reset_index"):
        lacscope.save(pd.DataFrame({"a": [1]}, index=["x"]), tmp_path / "r.nc")
    assert not list(tmp_path.iterdir())


def test_a_result_says_what_made_it() -> None:
    one = lacscope.voids(TRACE, alpha=0.8)
    for result in (
        lacscope.layer_usage(TRACE, one, by="all"),
        lacscope.token_usage(TRACE, one),
        lacscope.mean_exit_depth(TRACE, one),
        lacscope.skippable_compute(TRACE, one),
    ):
        assert result.attrs["alpha"] == 0.8
        assert result.attrs["rule"] == one.attrs["rule"]
        assert (result.attrs["effect"], result.attrs["model"]) == (TRACE.attrs["effect"], TRACE.attrs["model"])
        assert result.attrs["versions"] == TRACE.attrs["versions"]
    assert lacscope.layer_usage(TRACE, one, by="all").attrs["measure"] == "layer_usage"
    assert '"by": "all"' in lacscope.layer_usage(TRACE, one, by="all").attrs["settings"]
    assert lacscope.norm_profile(TRACE).attrs["measure"] == "norm_profile"
