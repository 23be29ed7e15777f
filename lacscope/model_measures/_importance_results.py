"""What the measures of importance share: one pass per prompt, a row per prompt, and a Dataset that says its sense."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lacscope.model_measures._residuals import Residuals, read_residuals
from lacscope.models._checks import check_blocks
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter
from lacscope.traces._provenance import Progress
from lacscope.traces._spread import with_spread
from lacscope.tracing._inputs import read_inputs

ORIENTATION = "larger = more important"

Variables = Mapping[str, tuple[tuple[str, ...], np.ndarray, str, str]]


def each_sample(
    model: Model,
    inputs: Any,
    measure: Callable[[Residuals], Mapping[str, Any]],
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> tuple[Adapter, dict[str, np.ndarray]]:
    """``measure`` of each prompt's streams, one prompt at a time; what it returns is stacked along ``sample``."""
    adapter = check_blocks(model)
    rows = read_inputs(adapter, inputs)
    found: list[Mapping[str, Any]] = []
    for read in read_residuals(model, rows, max_tokens=max_tokens):
        found.append(measure(read))
        if progress is not None:
            progress(len(found), len(rows))
    return adapter, {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}


def labelled(
    variables: Variables, coords: Mapping[str, Any], *, importance: str, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """A Dataset whose attribute ``importance`` names the variable that ranks layers, larger = more important.

    Args:
        variables: name -> (dims, values, long_name, units).
        coords: the coordinates, as xarray takes them.
        importance: the variable that ranks; it has a dim ``layer``.
        attrs: the rest of the attributes (:func:`lacscope.traces.result_attrs`).

    >>> ds = labelled({"score": (("layer",), np.array([0.1, 0.4]), "a score", "1")}, {"layer": [0, 1]},
    ...               importance="score", attrs={})
    >>> ds.attrs["importance"], ds.attrs["orientation"]
    ('score', 'larger = more important')
    """
    ds = xr.Dataset(
        {
            name: (dims, values, {"long_name": words, "units": units})
            for name, (dims, values, words, units) in variables.items()
        },
        dict(coords),
    )
    ds[importance].attrs["orientation"] = ORIENTATION
    ds.attrs = {**attrs, "importance": importance, "orientation": ORIENTATION}
    return with_spread(ds)
