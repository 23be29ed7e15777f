"""A trace that xarray itself opened, saved, concatenated or cut is a trace, or is refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lacscope import plots
from lacscope.plans import freeze
from lacscope.reproduction.controls import permuted_exits, random_layers
from lacscope.rules import GivenVoids
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._depth import mean_exit_depth, skippable_compute
from lacscope.trace_analyses._group_usage import usage_by_group
from lacscope.trace_analyses._groups import groups_by_class, groups_by_correct, groups_by_position, groups_by_surprisal
from lacscope.trace_analyses._norms import norm_profile
from lacscope.trace_analyses._phases import cell_counts
from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds
from lacscope.trace_analyses._usage import layer_usage, token_usage, usage_by_alpha
from lacscope.traces._joining import join_traces
from lacscope.traces._schema import TraceError, open_trace, save_trace, validate
from lacscope.traces._voids import recorded_voids, voids

pytestmark = pytest.mark.once


def made() -> xr.Dataset:
    trace = synthetic_trace()
    surprisal = np.where(trace["valid"].values, np.float32(0.5), np.float32(np.nan))
    return trace.assign(surprisal=(("sample", "token"), surprisal))


def _opened(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return xr.open_dataset(save_trace(trace, folder / "t.nc"), engine="h5netcdf")


def _loaded(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return xr.load_dataset(save_trace(trace, folder / "t.nc"))


def _by_hand(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    trace.to_netcdf(folder / "t.nc")
    return xr.load_dataset(folder / "t.nc")


def _by_hand_and_open_trace(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    trace.to_netcdf(folder / "t.nc", engine="h5netcdf")
    return open_trace(folder / "t.nc")


def _padded(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.reindex(token=range(40))


def _of_schema_1(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.assign(void=trace["void"] == 1).assign_attrs(lacscope_schema=1)


def _labels_as_variables(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.reset_coords(["valid", "phase", "token_id"])


def _float64(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.map(lambda array: array.astype(np.float64) if array.dtype.kind == "f" else array)


def _numpy_attributes(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.assign_attrs(n_layers=np.int64(12), lacscope_schema=np.array([2]), model=np.str_("synthetic"))


def _bytes(trace: xr.Dataset, folder: Path) -> xr.Dataset:
    return trace.assign_coords(phase=trace["phase"].astype("S"))


WAYS = {way.__name__.strip("_"): way for way in (
    _opened, _loaded, _by_hand, _by_hand_and_open_trace, _padded, _of_schema_1, _labels_as_variables, _float64,
    _numpy_attributes, _bytes,
)}  # fmt: skip


@pytest.mark.parametrize("way", list(WAYS))
def test_it_is_the_trace_that_it_was(tmp_path: Path, way: str) -> None:
    trace = made()
    changed = WAYS[way](trace, tmp_path)
    found = validate(changed).isel(token=slice(0, trace.sizes["token"])).load()
    xr.testing.assert_identical(found.drop_encoding(), trace)
    assert {name: found[name].dtype for name in trace.variables} == {n: v.dtype for n, v in trace.variables.items()}
    assert {key: type(value) for key, value in found.attrs.items()} == {k: type(v) for k, v in trace.attrs.items()}
    np.testing.assert_allclose(layer_usage(changed, voids(changed, 0.5)), layer_usage(trace, voids(trace, 0.5)))
    xr.testing.assert_identical(open_trace(save_trace(changed, tmp_path / "again.nc")), validate(changed))


def test_traces_that_xarray_concatenates_are_the_joined_trace() -> None:
    one, other = made(), synthetic_trace(prompt_tokens=9, seed=2).assign_coords(sample=[5, 6, 7])
    one = one.drop_vars("surprisal")
    found = xr.concat([one, other], dim="sample", join="outer")
    assert found["valid"].dtype != bool
    joined = join_traces([one, other])
    xr.testing.assert_identical(validate(found), joined)
    xr.testing.assert_identical(voids(found, 0.5), voids(joined, 0.5))
    xr.testing.assert_identical(token_usage(found), token_usage(joined))


def test_samples_of_one_number_count_apart_and_are_refused_where_they_are_looked_up() -> None:
    one, other = synthetic_trace(n_samples=1), synthetic_trace(n_samples=1, seed=2)
    twice = xr.concat([one, other], dim="sample", join="outer")
    usage = layer_usage(twice, voids(twice, 0.5), by="all")
    joined = join_traces([one, other.assign_coords(sample=[1])])
    np.testing.assert_array_equal(usage, layer_usage(joined, voids(joined, 0.5), by="all"))
    for look_up in (plots.plot_void_map, lambda trace: GivenVoids.of(voids(trace, 0.5))):
        with pytest.raises(TraceError, match=r"two samples have the number 0.*assign_coords\(sample=range\(n\)\)"):
            look_up(twice)


# Every function of a trace: what it makes of one sample is what it makes of a list of that one.
FUNCTIONS: dict[str, Callable[[xr.Dataset], Any]] = {
    "layer_usage": layer_usage,
    "layer_usage at alphas": lambda t: layer_usage(t, voids(t, [0.1, 0.8]), by="sample"),
    "token_usage": token_usage,
    "usage_by_alpha": lambda t: usage_by_alpha(t, [0.1, 0.8]),
    "mean_exit_depth": mean_exit_depth,
    "skippable_compute": lambda t: skippable_compute(t, voids(t, 0.5)),
    "norm_profile": norm_profile,
    "norm_signals": lambda t: norm_signals(t, norm_thresholds(t)),
    "cell_counts": lambda t: cell_counts(t).to_xarray(),
    "groups_by_class": groups_by_class,
    "groups_by_position": groups_by_position,
    "groups_by_surprisal": groups_by_surprisal,
    "groups_by_correct": lambda t: groups_by_correct(t, [True]),
    "usage_by_group": lambda t: usage_by_group(t, groups_by_class(t), voids(t, 0.5), seed=0, n_bootstrap=5),
    "permuted_exits": lambda t: permuted_exits(t, voids(t, 0.5), seed=0),
    "random_layers": lambda t: random_layers(t, recorded_voids(t), seed=0),
    "join_traces": lambda t: join_traces([t]),
    "validate": validate,
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_one_sample_works_in_every_function(name: str) -> None:
    trace = made()
    function = FUNCTIONS[name]
    xr.testing.assert_identical(function(trace.isel(sample=1)), function(trace.isel(sample=[1])))


def test_one_sample_in_what_gives_no_array(tmp_path: Path) -> None:
    one, listed = made().isel(sample=1), made().isel(sample=[1])
    assert freeze(one, alpha=0.5, skip=3) == freeze(listed, alpha=0.5, skip=3)
    assert GivenVoids.of(voids(one, 0.5)) == GivenVoids.of(voids(listed, 0.5))
    xr.testing.assert_identical(open_trace(save_trace(one, tmp_path / "t.nc")), listed)
    for mask in (None, voids(one, 0.5)):
        drawn = plots.plot_void_map(one, mask).get_images()[0].get_array()
        np.testing.assert_array_equal(
            drawn, plots.plot_void_map(listed, None if mask is None else voids(listed, 0.5)).get_images()[0].get_array()
        )
    plt.close("all")


def test_the_mask_of_one_sample_has_the_dimensions_of_the_trace() -> None:
    trace = made()
    xr.testing.assert_identical(voids(trace.isel(sample=1), 0.5), voids(trace, 0.5).isel(sample=1))
    assert recorded_voids(trace.isel(sample=0)).dims == ("layer", "token")


def test_the_layers_of_a_void_map_are_the_traces() -> None:
    ax = plots.plot_void_map(made().isel(layer=slice(5, 10)))
    assert ax.get_images()[0].get_extent()[2:] == [4.5, 9.5]
    with pytest.raises(ValueError, match=r"holds layers 1, 5: a map shows neighbouring ones"):
        plots.plot_void_map(made().isel(layer=[1, 5]))
    plt.close("all")


def test_a_slice_of_layers_has_norms_and_is_refused_where_all_are_needed() -> None:
    trace = made()
    part = trace.isel(layer=slice(5, 10))
    xr.testing.assert_identical(norm_profile(part), norm_profile(trace).isel(layer=slice(5, 10)))
    np.testing.assert_array_equal(layer_usage(part), layer_usage(trace).isel(layer=slice(5, 10)))
    for function in (token_usage, skippable_compute, cell_counts, lambda t: freeze(t, alpha=0.5, skip=1)):
        with pytest.raises(TraceError, match=r"holds 5 of 12 layers \(5, 6, 7, 8, \.\.\.\).*Give the whole trace"):
            function(part)


def test_positions_are_those_of_the_sample_in_a_slice_of_tokens() -> None:
    trace = made()
    part = slice(5, 12)
    for grouping in (groups_by_position, groups_by_class):
        whole = grouping(trace).isel(token=part)
        assert (grouping(trace.isel(token=part)).isel(token=slice(2, None)) == whole.isel(token=slice(2, None))).all()
    assert "position 0" not in groups_by_class(trace.isel(token=part)).values


def test_an_array_is_no_trace_to_save(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(TraceError, match=r"got the array 'void': save it with \.to_netcdf\(path\).*VoidMask\(opened\)"):
        save_trace(voids(made(), 0.5), tmp_path / "v.nc")  # type: ignore[arg-type]


def test_what_is_left_of_a_checksummed_file_is_not_read_without_its_checksum(tmp_path: Path) -> None:
    whole = save_trace(made(), tmp_path / "t.nc").read_bytes()
    for kept in (len(whole) - 1, len(whole) - 50, len(whole) - 90, len(whole) // 2):
        (tmp_path / "t.nc").write_bytes(whole[:kept])
        with pytest.raises(TraceError, match="is not a whole file"):
            open_trace(tmp_path / "t.nc")
