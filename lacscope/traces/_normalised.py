"""A trace that xarray has opened, cut or put together, as lacscope makes it: where that is unambiguous."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

TOKEN_LABELS: dict[str, Any] = {
    "token_id": -1,
    "token_text": "",
    "next_token_id": -1,
    "phase": "",
    "valid": False,
    "sink": False,
    "special": False,
}
"""The labels of tokens, each with what it is on padding."""

_OF_A_SAMPLE = {"layer", "token", "vocab"}
_MEASURED = ("cos_pre_post", "threshold", "surprisal", "rank", "entropy", "logits")  # and all norms: float32


def normalised(trace: xr.Dataset) -> xr.Dataset:
    """The trace itself where it is as lacscope makes it, else one with the same content in that form.

    Put right are: numpy's numbers and strings as attributes; labels of tokens that are floats, objects or bytes with
    holes where padding is, or that are variables; a bool ``void``, as traces of schema 1 have it; float64 norms that
    float32 holds exactly; one sample, selected as ``isel(sample=0)``. What is not unambiguous is left as it is.
    """
    trace = with_plain_attributes(trace)
    if "sample" in trace.coords and "sample" not in trace.dims and trace["sample"].ndim == 0:
        trace = _with_samples(trace)
    labels = [name for name in TOKEN_LABELS if name in trace.data_vars]
    if labels:
        trace = trace.set_coords(labels)
    changed = dict(_changed_labels(trace))
    if changed:
        trace = trace.assign_coords(changed)
    changed = dict(_changed_variables(trace))
    if changed:
        trace = trace.assign(changed)
    if trace.attrs.get("lacscope_schema") == 1:
        trace = trace.assign_attrs(lacscope_schema=2)
    return trace


def with_plain_attributes(trace: xr.Dataset) -> xr.Dataset:
    """The trace with attributes of Python's own types where they are numpy's."""
    attrs = {name: _plain(value) for name, value in trace.attrs.items()}
    same = all(type(value) is type(trace.attrs[name]) for name, value in attrs.items())
    return trace if same else trace.assign_attrs(attrs)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _with_samples(trace: xr.Dataset) -> xr.Dataset:
    """The one sample along a dimension of its own, second to ``rule``."""
    flat = trace.reset_coords([name for name in TOKEN_LABELS if name in trace.coords])
    rows = [name for name, array in flat.data_vars.items() if not array.dims or set(array.dims) & _OF_A_SAMPLE]
    label = flat["sample"].values
    flat = flat.drop_vars("sample")
    for name in rows:
        wide = flat[name].expand_dims(sample=[label.item()])
        flat[name] = wide.transpose("rule", ...) if "rule" in wide.dims else wide
    return flat.set_coords([name for name in TOKEN_LABELS if name in flat.data_vars])


def _changed_labels(trace: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    for name, fill in TOKEN_LABELS.items():
        if name in trace.coords:
            values = trace[name].values
            found = label_values(values, fill)
            if found is not values:
                yield name, trace[name].copy(data=found)


def label_values(values: np.ndarray, fill: Any) -> np.ndarray:
    """The labels in their own type; the very array where it is right already, or where it is no such thing."""
    if isinstance(fill, str):
        if values.dtype == object and all(type(value) is str for value in values.flat):
            return values
        return _texts(values)
    wanted = np.dtype(bool if isinstance(fill, bool) else np.int64)
    if values.dtype == wanted:
        return values
    if values.dtype.kind not in "iufbO":
        return values
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        return values
    numbers = np.where(np.isnan(numbers), float(fill), numbers)
    found = numbers.astype(wanted)
    return found if (found == numbers).all() else values


def _texts(values: np.ndarray) -> np.ndarray:
    found = np.empty(values.shape, dtype=object)
    for index, value in np.ndenumerate(values):
        if isinstance(value, bytes):
            found[index] = value.decode("utf-8", "replace")
        elif isinstance(value, str):
            found[index] = str(value)
        elif value is None or (isinstance(value, float) and np.isnan(value)):
            found[index] = ""
        else:
            return values
    return found


def _changed_variables(trace: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    for name, array in trace.data_vars.items():
        if name == "void" and "valid" in trace.coords and array.dtype != np.float32:
            found = _void(array, trace["valid"])
            if found is not None:
                yield str(name), found
        elif array.dtype == np.float64 and (str(name).endswith("_norm") or name in _MEASURED):
            narrow = array.values.astype(np.float32)
            if np.array_equal(narrow, array.values, equal_nan=True):
                yield str(name), array.copy(data=narrow)


def _void(array: xr.DataArray, valid: xr.DataArray) -> xr.DataArray | None:
    """The recorded mask as float32, missing on padding; None where it is no mask."""
    try:
        numbers = array.astype(np.float32)
    except (TypeError, ValueError):
        return None
    if valid.dtype != bool or not bool((numbers.isin((0, 1)) | numbers.isnull()).all()):
        return None
    return numbers.where(valid).transpose(*array.dims).assign_attrs(array.attrs)
