"""The trace's schema and its file: what is refused, and that nothing is lost or changed on the way."""

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lacscope.testing import synthetic_trace
from lacscope.traces import _atomic as atomic
from lacscope.traces import _schema as dataset
from lacscope.traces import _sealed as sealed
from lacscope.traces._joining import stack_rules
from lacscope.traces._schema import (
    NORMS,
    SCHEMA_VERSION,
    TOKEN_COORDS,
    SampleTrace,
    TraceError,
    build,
    cost_of,
    find_sinks,
    open_trace,
    rule_of,
    save_trace,
    validate,
)
from lacscope.traces._voids import recorded_voids, voids

pytestmark = pytest.mark.once

ATTRS = {"model": "hand-made", "rule": None, "effect": "observe"}
RULES = ['{"alpha": 0.5, "name": "A"}', '{"alpha": 0.8, "name": "A"}']


def sample(length: int = 4, *, prompt: int = 3, n_layers: int = 3, **more: Any) -> SampleTrace:
    values = np.arange(n_layers * length, dtype=np.float32).reshape(n_layers, length) + 1
    return SampleTrace(
        token_id=np.arange(length) + 5,
        next_token_id=np.where(np.arange(length) < prompt - 1, -1, np.arange(length) + 6),
        decode=np.arange(length) >= prompt,
        layerwise={name: values + k for k, name in enumerate(NORMS)},
        **more,
    )


# --- build ----------------------------------------------------------------------------------------------


def test_build_pads_on_the_right() -> None:
    trace = build([sample(4), sample(2, prompt=2)], ATTRS, sample_ids=[7, 3], token_text={5: " a"}, special_ids=[6])
    assert dict(trace.sizes) == {"sample": 2, "layer": 3, "token": 4}
    assert trace["sample"].values.tolist() == [7, 3]
    assert trace["token_id"].values.tolist() == [[5, 6, 7, 8], [5, 6, -1, -1]]
    assert trace["next_token_id"].values.tolist() == [[-1, -1, 8, 9], [-1, 7, -1, -1]]
    assert trace["phase"].values.tolist() == [["prefill"] * 3 + ["decode"], ["prefill", "prefill", "", ""]]
    assert trace["valid"].values.tolist() == [[True] * 4, [True, True, False, False]]
    assert trace["sink"].values.tolist() == [[True, False, False, False]] * 2
    assert trace["special"].values.tolist() == [[False, True, False, False]] * 2
    assert trace["token_text"].values.tolist() == [[" a", "", "", ""]] * 2
    for name in NORMS:
        np.testing.assert_array_equal(np.isnan(trace[name].values[1]), [[False, False, True, True]] * 3)
        assert trace[name].dtype == np.float32
        assert trace[name].attrs["units"] == "stream units"
    np.testing.assert_array_equal(trace["delta_norm"].values[1, :, :2], sample(2).layerwise["delta_norm"])


def test_every_data_array_carries_the_token_coordinates(trace_fixture: xr.Dataset) -> None:
    assert set(TOKEN_COORDS) <= set(trace_fixture["delta_norm"].coords)
    assert set(TOKEN_COORDS) <= set(voids(trace_fixture, [0.5, 0.8]).coords)


def test_build_optional_variables() -> None:
    last = [np.arange(5.0), np.arange(5.0)]
    every = [np.arange(20.0).reshape(4, 5), np.arange(10.0).reshape(2, 5)]
    one, two = sample(4, logits=last[0], tokenwise={"entropy": np.ones(4)}), sample(2, prompt=2, logits=last[1])
    two.tokenwise = {"entropy": np.ones(2)}
    trace = build([one, two], ATTRS)
    assert trace["logits"].dims == ("sample", "vocab")
    assert trace["entropy"].dims == ("sample", "token")
    assert trace["entropy"].attrs["units"] == "nat"
    np.testing.assert_array_equal(np.isnan(trace["entropy"].values), ~trace["valid"].values)
    one.logits, two.logits = every
    trace = build([one, two], ATTRS)
    assert trace["logits"].dims == ("sample", "token", "vocab")
    np.testing.assert_array_equal(trace["logits"].values[0], every[0])
    np.testing.assert_array_equal(trace["logits"].values[1, :2], every[1])
    assert np.isnan(trace["logits"].values[1, 2:]).all()


def test_build_many_rules() -> None:
    void = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    trace = build([sample(4, void=void), sample(2, prompt=2, void=void[..., :2])], ATTRS, rules=RULES)
    assert trace["void"].dims == ("rule", "sample", "layer", "token")
    assert trace["rule"].values.tolist() == RULES
    np.testing.assert_array_equal(trace["void"].values[:, 0], void)
    assert np.isnan(trace["void"].values[:, 1, :, 2:]).all()


def test_attributes_are_what_netcdf_holds() -> None:
    given = {**ATTRS, "none": None, "flag": True, "many": [1, 2], "map": {"b": 1, "a": None}, "i": np.int64(3)}
    given |= {"f": np.float32(0.5), "b": np.bool_(False), "text": "", "n": 3}
    attrs = build([sample()], given).attrs
    assert {type(value) for value in attrs.values()} <= {str, int, float}
    stored = {"rule": "null", "none": "null", "flag": "true", "many": "[1, 2]", "map": '{"a": null, "b": 1}', "i": 3}
    stored |= {"f": 0.5, "b": "false", "text": "", "n": 3}
    assert {key: attrs[key] for key in given} == ATTRS | stored
    assert attrs["lacscope_schema"] == SCHEMA_VERSION
    assert set(json.loads(attrs["versions"])) == {"lacscope", "torch", "transformers", "transformer-lens"}


def test_build_needs_a_sample() -> None:
    with pytest.raises(TraceError, match="a trace needs at least one sample, got none"):
        build([], ATTRS)


def test_a_nul_is_shown_as_its_symbol() -> None:
    assert build([sample()], ATTRS, token_text={5: "\0a\0"})["token_text"].values[0, 0] == "\u2400a\u2400"


def test_rule_and_cost(trace_fixture: xr.Dataset) -> None:
    rule = rule_of(trace_fixture)
    assert rule == {"alpha": 0.8, "name": "L2AdaptiveComputation", "unit": "block"}
    assert cost_of(trace_fixture)["head"] == 56623104.0  # type: ignore[index]
    bare = build([sample()], ATTRS)
    assert rule_of(bare) is None
    assert cost_of(bare) is None


# --- sinks ----------------------------------------------------------------------------------------------


def test_sinks_are_token_0_and_norms_over_10_medians() -> None:
    norm = np.ones((5, 9), dtype=np.float32)
    norm[2, 4] = 10.5
    norm[2, 5] = 9.5
    assert np.flatnonzero(find_sinks(norm)).tolist() == [0, 4]


def test_sinks_look_at_inner_layers_only() -> None:
    norm = np.ones((5, 9), dtype=np.float32)
    norm[[0, -1], 4] = 100
    assert np.flatnonzero(find_sinks(norm)).tolist() == [0]


def test_few_tokens_have_token_0_alone() -> None:
    norm = np.ones((5, 7), dtype=np.float32)
    norm[2, 4] = 100
    assert np.flatnonzero(find_sinks(norm)).tolist() == [0]
    assert np.flatnonzero(find_sinks(np.concatenate([norm, norm[:, :1]], axis=1))).tolist() == [0, 4]


# --- validate -------------------------------------------------------------------------------------------


def _without(*names: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda trace: trace.drop_vars(list(names))


def _attr(name: str, value: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda trace: trace.assign_attrs({name: value})


def _no_attr(name: str) -> Callable[[xr.Dataset], xr.Dataset]:
    def drop(trace: xr.Dataset) -> xr.Dataset:
        trace.attrs.pop(name)
        return trace

    return drop


def _put(name: str, index: Any, value: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def put(trace: xr.Dataset) -> xr.Dataset:
        trace[name].values[index] = value
        return trace

    return put


BROKEN = {
    "attribute 'lacscope_schema' is missing": _no_attr("lacscope_schema"),
    r"schema version 3; this lacscope reads up to version 2\. Upgrade": _attr("lacscope_schema", 3),
    "'lacscope_schema' is 'one', not a version number": _attr("lacscope_schema", "one"),
    "'lacscope_schema' is 0, not a version number": _attr("lacscope_schema", 0),
    r"dimension 'sample' is missing\. Select one sample in a list, as in trace\.isel\(sample=\[0\]\)": (
        lambda trace: trace.isel(sample=0, drop=True)
    ),
    r"dimension 'layer' is missing\. Select one layer in a list": lambda trace: trace.isel(layer=3),
    "variable 'delta_norm' is missing": _without("delta_norm"),
    "coordinate 'valid' is missing": _without("valid"),
    "coordinate 'sink' is missing; attribute 'effect' is missing": lambda trace: _no_attr("effect")(
        trace.drop_vars("sink")
    ),
    "attribute 'note' is a NoneType: netCDF holds str, int and float": _attr("note", None),
    "attribute 'note' is a bool": _attr("note", True),
    "attribute 'rule' is not JSON": _attr("rule", "LAC(0.8)"),
    "attribute 'versions' is not JSON": _attr("versions", 3),
    r"attribute 'n_layers' is 9, the layers are 0, 1, 2, \.\.\., 11": _attr("n_layers", 9),
    "the layers are 11, 10, 9, ..., 0, not in rising order": lambda trace: trace.isel(layer=slice(None, None, -1)),
    r"'delta_norm' has dimensions \('token', 'layer', 'sample'\), not \('sample', 'layer', 'token'\)": (
        lambda trace: trace.assign(delta_norm=trace["delta_norm"].transpose())
    ),
    r"'valid' has dimensions \('token', 'sample'\), not \('sample', 'token'\)": (
        lambda trace: trace.assign_coords(valid=trace["valid"].transpose())
    ),
    "'valid' has dtype int64, not bool": lambda trace: trace.assign_coords(valid=trace["valid"].astype(np.int64) * 2),
    "'void' must be 1 at voids, 0 where active, and NaN exactly where": _put("void", (0, 0, 0), 0.5),
    "lacscope.join_traces, and keep them with lacscope.save_trace": _put("void", (0, 0, 0), np.nan),
    "'valid' has a gap": _put("valid", (0, 0), False),
    r"'phase' holds \['answer'\], not only": _put("phase", (0, 0), "answer"),
    "'update_norm' must be finite exactly where 'valid' is True": _put("update_norm", (0, 0, 0), np.nan),
    "'resid_pre_norm' must be finite exactly": _put("resid_pre_norm", (1, slice(None), -1), 1.0),
    "'token_text' holds NUL characters": _put("token_text", (0, 0), "a\0"),
}


@pytest.mark.parametrize("message", list(BROKEN))
def test_validate_names_what_is_wrong(trace_fixture: xr.Dataset, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        validate(BROKEN[message](trace_fixture))


def test_validate_gives_the_trace_back(trace_fixture: xr.Dataset) -> None:
    assert validate(trace_fixture) is trace_fixture


@pytest.mark.usefixtures("unchecked")
def test_validate_wants_a_dataset(trace_fixture: xr.Dataset) -> None:
    with pytest.raises(TraceError, match=r"expected an xarray\.Dataset made by lacscope\.trace, got DataArray"):
        validate(trace_fixture["delta_norm"])


# --- file: round trip -----------------------------------------------------------------------------------

TEXTS = [
    "",
    "\n",
    " river",
    "日本語",
    "é",
    "\u200b",
    "🜚",
    "\ufffd",
    '"',
    "a\tb  ",
    "\r",
    "\x7f\x01",
    "\\",
    "'",
    "Ω" * 40,
]


def with_texts(trace: xr.Dataset) -> xr.Dataset:
    flat = trace["token_text"].values.reshape(-1)
    flat[:] = np.resize(np.array(TEXTS, dtype=object), flat.shape)
    return trace


def _two_rules(trace: xr.Dataset) -> xr.Dataset:
    return stack_rules([trace, synthetic_trace(decode_tokens=2)], RULES)


def _with_alphas(trace: xr.Dataset) -> xr.Dataset:
    return trace.assign(void_by_alpha=voids(trace, [0.0, 0.5, 0.8]))


def _with_measures(trace: xr.Dataset) -> xr.Dataset:
    logits = np.random.default_rng(0).normal(size=(trace.sizes["sample"], 7)).astype(np.float32)
    surprisal = np.where(trace["valid"].values, np.float32(0.5), np.float32(np.nan))
    surprisal[0, 0] = np.nan
    return trace.assign(logits=(("sample", "vocab"), logits), surprisal=(("sample", "token"), surprisal))


VARIANTS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "plain": lambda trace: trace,
    "texts": with_texts,
    "no texts": lambda trace: trace.assign_coords(token_text=xr.full_like(trace["token_text"], "")),
    "no rule": lambda trace: trace.drop_vars("void").assign_attrs(rule="null"),
    "rules": _two_rules,
    "alphas": _with_alphas,
    "measures": _with_measures,
    "own sample ids": lambda trace: trace.assign_coords(sample=[41, 7, 2]),
    "one token": lambda trace: trace.isel(token=slice(0, 1)),
    "attributes": lambda trace: trace.assign_attrs(text="", more="日本\n", count=-(2**40), number=1e-300, whole=3.0),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_round_trip_is_exact(trace_fixture: xr.Dataset, tmp_path: Path, variant: str) -> None:
    trace = VARIANTS[variant](trace_fixture)
    before = trace.copy(deep=True)
    found = open_trace(save_trace(trace, tmp_path / "t.nc"))
    xr.testing.assert_identical(trace, before)
    xr.testing.assert_identical(found, trace)
    assert list(found.data_vars) == list(trace.data_vars)
    assert not any(found[name].encoding for name in found.variables), "how it was stored is no part of a trace"
    assert {name: found[name].dtype for name in found.variables} == {
        name: v.dtype for name, v in trace.variables.items()
    }
    assert {key: type(value) for key, value in found.attrs.items()} == {k: type(v) for k, v in trace.attrs.items()}
    for name in trace.data_vars:  # NaN and -0.0 too
        assert found[name].values.tobytes() == trace[name].values.tobytes(), name
    assert os.listdir(tmp_path) == ["t.nc"]


def test_a_saved_trace_can_be_saved_again(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    first = open_trace(save_trace(with_texts(trace_fixture), tmp_path / "a.nc"))
    xr.testing.assert_identical(open_trace(save_trace(first, tmp_path / "a.nc")), first)


def test_other_netcdf_readers_open_the_file(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    path = save_trace(trace_fixture, str(tmp_path / "new" / "folder" / "t.nc"))
    assert path == tmp_path / "new" / "folder" / "t.nc"
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        np.testing.assert_array_equal(opened["delta_norm"], trace_fixture["delta_norm"])


def test_the_file_has_the_usual_permissions(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    mode = save_trace(trace_fixture, tmp_path / "t.nc").stat().st_mode
    assert mode == (tmp_path / "ordinary").stat().st_mode


# --- file: writing that fails ---------------------------------------------------------------------------


def _full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    trace_fixture: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = save_trace(trace_fixture, tmp_path / "t.nc")
    old = path.read_bytes()
    monkeypatch.setattr(atomic.os, call, _full_disk)
    with pytest.raises(
        OSError, match=r"could not write the file .No space left on device.; nothing was changed"
    ) as info:
        save_trace(synthetic_trace(seed=1), path)
    assert info.value.errno == errno.ENOSPC
    assert str(path) in str(info.value)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["t.nc"]


def test_an_interrupt_leaves_the_old_file(
    trace_fixture: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_trace(trace_fixture, tmp_path / "t.nc")
    old = path.read_bytes()
    monkeypatch.setattr(atomic.os, "fsync", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_trace(synthetic_trace(seed=1), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["t.nc"]


def test_a_write_that_really_fails(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    # HDF5 crashed the process (SIGSEGV at exit) where its own writes failed: it must not write to the disk.
    path = tmp_path / "t.nc"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write the file .File too large.; nothing was changed"):
            save_trace(trace_fixture, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "t.nc", tmp_path / "folder"):
        with pytest.raises(OSError, match="could not write the file"):
            save_trace(trace_fixture, path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_an_invalid_trace_is_not_written(trace_fixture: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="variable 'delta_norm' is missing"):
        save_trace(trace_fixture.drop_vars("delta_norm"), tmp_path / "t.nc")
    assert os.listdir(tmp_path) == []


# --- file: reading what is damaged or foreign -----------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> bytes:
    return save_trace(synthetic_trace(2, 6, 10, 3), tmp_path / "whole.nc").read_bytes()


def test_no_flipped_bit_is_read_silently(saved: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.nc"
    # All over the file, and every byte of its seal.
    bits = [*rng.integers(0, len(saved) * 8, 200), *range(8 * (len(saved) - sealed.SEAL_LENGTH), 8 * len(saved), 5)]
    for bit in bits:
        damaged = bytearray(saved)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match=r"is damaged: its content is not|is not a whole file of lacscope.s"):
            open_trace(path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file(saved: bytes, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "short.nc"
    path.write_bytes(saved[: int(len(saved) * kept)])
    with pytest.raises(TraceError, match=r"short\.nc is not a whole file of lacscope.s: its end is missing"):
        open_trace(path)


def test_a_foreign_netcdf_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.nc"
    xr.Dataset({"a": ("x", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(TraceError, match="not a lacscope trace: attribute 'lacscope_schema' is missing"):
        open_trace(path)


def test_a_newer_file_is_refused(trace_fixture: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    path = save_trace(trace_fixture.assign_attrs(lacscope_schema=SCHEMA_VERSION + 1), tmp_path / "t.nc")
    monkeypatch.undo()
    with pytest.raises(TraceError, match=r"schema version 3; this lacscope reads up to version 2.*pip install -U"):
        open_trace(path)


def test_a_sealed_file_that_is_no_netcdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_unsealed", lambda source: b"neither HDF5 nor netCDF")
    (tmp_path / "t.nc").write_text("")
    with pytest.raises(TraceError, match=r"t\.nc cannot be read as netCDF"):
        open_trace(tmp_path / "t.nc")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no trace file at .*none\.nc. `lacscope trace --out FILE` writes one"):
        open_trace(tmp_path / "none.nc")


def test_a_recorded_mask_says_what_to_use_where_padding_matters(tmp_path: Path) -> None:
    made = synthetic_trace()
    path = save_trace(made, tmp_path / "t.nc")
    for trace in (made, open_trace(path)):
        assert "lacscope.recorded_voids(trace)" in trace["void"].attrs["comment"]
        assert "missing (NaN) on padding" in trace["void"].attrs["comment"]
    # What the sentence says of both is so.
    padding = ~made["valid"]
    assert bool(padding.any())
    assert not bool((made["void"].sum("layer").where(padding).isnull() & padding).any())
    mask = recorded_voids(made)
    assert bool(mask.sum("layer").isnull().where(padding, True).all())
    assert float((mask == 0).mean()) == pytest.approx(1 - float(made["void"].mean()))
    assert float((made["void"] == 0).mean()) < float((mask == 0).mean())
