"""Any result in a file, and back: with its labels and what made it, checksummed, whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from lacscope.traces._masks import VoidMask
from lacscope.traces._provenance import now
from lacscope.traces._schema import validate
from lacscope.traces._sealed import read_result, write_sealed
from lacscope.traces._spread import spread_of_old

_KIND, _NAME, _SAVED, _DTYPES = "lacscope_kind", "lacscope_name", "lacscope_saved", "lacscope_dtypes"
_ARRAY = "lacscope_array"
_ROW = "lacscope_row"
_SCHEMA = "lacscope_schema"
_NAMES = "lacscope_names"

Result: TypeAlias = xr.Dataset | xr.DataArray | pd.DataFrame


def save(result: Result | Mapping[str, xr.DataArray], path: str | os.PathLike[str]) -> Path:
    """Write a trace, a mask, an analysis' result or a table to a file that :func:`lacscope.open` reads.

    The file is netCDF with a sha256 at its end. It is written under a temporary name and renamed, so that a full disk
    or a kill leaves the old file as it was; any netCDF reader opens it. The attribute
    ``lacscope_saved`` is the time, in UTC.

    Args:
        result: a Dataset (such as a trace), a DataArray (such as a mask or a usage), DataArrays by name (as
            :func:`lacscope.layer_scores` returns them), or a DataFrame whose rows are numbered from 0 and whose
            columns, of numbers, text or categories, have a name each and no missing text.
        path: the file, ``.nc`` by custom.

    Returns:
        The path.

    Raises:
        ValueError: a result that a file cannot keep; the message names what stands in the way.
        OSError: the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> from lacscope.testing import synthetic_trace
    >>> from lacscope.traces import voids
    >>> with TemporaryDirectory() as folder:
    ...     again = open(save(voids(synthetic_trace(), alpha=0.8), Path(folder) / "void.nc"))
    >>> type(again).__name__, again.attrs["alpha"]
    ('VoidMask', 0.8)
    """
    kept = _as_dataset(result)
    _check_attributes(kept)
    kept.attrs[_SAVED] = now()
    try:
        return write_sealed(kept, path)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"the result cannot be kept in a netCDF file: {error}") from error


def open(path: str | os.PathLike[str]) -> Result | dict[str, xr.DataArray]:
    """Read what :func:`lacscope.save` wrote, as the kind that it was. Needs no torch.

    A file of :func:`lacscope.save_trace`, of ``lacscope analyze``, or one that xarray's ``to_netcdf`` wrote is read
    too; the last has no checksum.

    Raises:
        FileNotFoundError: there is no such file.
        lacscope.traces.DamagedFileError: a foreign, damaged or truncated one.
        TraceError: a trace of a newer or wrong schema.
    """
    found = read_result(path)
    kind = found.attrs.pop(_KIND, "Dataset")
    if kind == "DataFrame":
        return _as_table(found)
    if kind == "dict":
        return _as_arrays(found)
    if kind in ("DataArray", "VoidMask"):
        array = found[_ARRAY].rename(found.attrs.pop(_NAME, "") or None)
        array.attrs[_SAVED] = found.attrs[_SAVED]
        return VoidMask(array) if kind == "VoidMask" else array
    return validate(found) if _SCHEMA in found.attrs else spread_of_old(found)


def _as_dataset(result: Any) -> xr.Dataset:
    if isinstance(result, xr.Dataset):
        return (validate(result) if _SCHEMA in result.attrs else result).assign_attrs({_KIND: "Dataset"})
    if isinstance(result, xr.DataArray):
        plain = xr.DataArray(result).rename(_ARRAY)
        kind = "VoidMask" if isinstance(result, VoidMask) else "DataArray"
        return plain.to_dataset().assign_attrs({_KIND: kind, _NAME: "" if result.name is None else str(result.name)})
    if isinstance(result, pd.DataFrame):
        _check_table(result)
        columns = {name: (_ROW, result[name].to_numpy()) for name in result}
        kinds = {str(name): _said(kind) for name, kind in result.dtypes.items()}
        return xr.Dataset(columns, attrs={**result.attrs, _KIND: "DataFrame", _DTYPES: json.dumps(kinds)})
    if isinstance(result, Mapping) and result and all(isinstance(one, xr.DataArray) for one in result.values()):
        return _of_arrays(result)
    raise ValueError(
        f"save takes a Dataset, a DataArray, DataArrays by name or a DataFrame, got a {type(result).__name__}: give "
        "what trace, voids or an analysis returned."
    )


def _of_arrays(arrays: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Arrays in one Dataset, each with dimensions and coordinates of its own: those of two may differ."""
    kept: dict[str, xr.Variable] = {}
    for place, array in enumerate(arrays.values()):
        parts = {_ARRAY: array.variable, **{f"{name}#": coord.variable for name, coord in array.coords.items()}}
        for name, part in parts.items():
            kept[f"{name}#{place}"] = xr.Variable([f"{dim}#{place}" for dim in part.dims], part.values, part.attrs)
    names = [[name, "" if array.name is None else str(array.name)] for name, array in arrays.items()]
    return xr.Dataset(kept, attrs={_KIND: "dict", _NAMES: json.dumps(names)})


def _as_arrays(found: xr.Dataset) -> dict[str, xr.DataArray]:
    arrays = {}
    for place, (name, own_name) in enumerate(json.loads(found.attrs[_NAMES])):
        parts = {
            str(part).removesuffix(f"#{place}"): xr.Variable(
                [str(dim).removesuffix(f"#{place}") for dim in values.dims], values.values, values.attrs
            )
            for part, values in found.data_vars.items()
            if str(part).endswith(f"#{place}")
        }
        coords = {part.removesuffix("#"): values for part, values in parts.items() if part != _ARRAY}
        array = xr.DataArray(parts[_ARRAY], coords, name=own_name or None)
        arrays[str(name)] = array.assign_attrs({_SAVED: found.attrs[_SAVED]})
    return arrays


def _as_table(found: xr.Dataset) -> pd.DataFrame:
    kinds = json.loads(found.attrs.pop(_DTYPES))
    table = pd.DataFrame({name: pd.Series(found[name].values, dtype=_dtype(kind)) for name, kind in kinds.items()})
    table.attrs = {str(key): value for key, value in found.attrs.items()}
    return table


def _said(kind: Any) -> str | dict[str, Any]:
    """A column's dtype as JSON has it."""
    if not isinstance(kind, pd.CategoricalDtype):
        return str(kind)
    return {"categories": kind.categories.tolist(), "ordered": bool(kind.ordered)}


def _dtype(said: str | dict[str, Any]) -> Any:
    return said if isinstance(said, str) else pd.CategoricalDtype(**said)


def _check_table(table: pd.DataFrame) -> None:
    """Refuse what a file would give back as something else, or not at all."""
    if not table.index.equals(pd.RangeIndex(len(table))):
        raise ValueError("the table has an index of its own: make it a column first, with .reset_index().")
    names = list(table.columns)
    unfit = [name for name in names if not isinstance(name, str) or names.count(name) > 1 or name == _ROW]
    if unfit:
        raise ValueError(
            f"column {unfit[0]!r} cannot be kept under its name: a file's columns are text, each once, and none is "
            f"{_ROW!r}. Rename it, with .rename(columns=...)."
        )
    for name in names:
        if _has_numbers(table[name]):
            continue
        kind = table[name].dtype
        texts = pd.Series(kind.categories if isinstance(kind, pd.CategoricalDtype) else table[name])
        unfit = [cell for cell in texts.dropna() if not isinstance(cell, str)]
        if unfit:
            raise ValueError(
                f"column {name!r} ({kind}) holds a {type(unfit[0]).__name__}, and a file keeps text and plain numbers: "
                "write it as one of these, or drop it."
            )
        if table[name].isna().any():
            raise ValueError(
                f"column {name!r} has cells without a value, and a file keeps those of numbers alone: fill them, for "
                "instance with .fillna('')."
            )


def _has_numbers(column: pd.Series) -> bool:
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"


def _check_attributes(kept: xr.Dataset) -> None:
    """Numbers of numpy's as Python's; what is neither text nor number is refused."""
    labelled: list[xr.Dataset | xr.Variable] = [kept, *kept.variables.values()]
    for where in labelled:
        where.attrs = {
            name: value.item() if isinstance(value, np.generic) else value for name, value in where.attrs.items()
        }
        for name, value in where.attrs.items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError(
                    f"attribute {name!r} is a {type(value).__name__}, and a file keeps text and numbers: write it as "
                    "JSON, or drop it."
                )
