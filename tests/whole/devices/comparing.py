"""Two results of one call, number by number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr


@dataclass(frozen=True)
class Difference:
    """How far two results are apart.

    ``error``: of floats, the largest difference beside the largest value of its array, and ``worst`` the array's name.
    ``flips``: the largest share of entries of a mask that differ. ``others``: token ids, counts and texts that differ,
    floats that are NaN in one alone among them.
    """

    error: float = 0.0
    worst: str = ""
    flips: float = 0.0
    others: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(expected: Any, found: Any, leave_out: Sequence[str] = ()) -> Difference:
    """Raises AssertionError where the two have other parts or shapes."""
    a, b = dict(_arrays("", expected)), dict(_arrays("", found))
    assert a.keys() == b.keys(), f"{sorted(a.keys() ^ b.keys())} in one result alone"
    error, worst, flips, others = 0.0, "", 0.0, 0
    for name, x in a.items():
        y = b[name]
        assert x.shape == y.shape, f"{name}: shapes {x.shape} and {y.shape}"
        if any(part in name for part in leave_out):
            continue
        if x.dtype.kind == "f":
            others += int((np.isnan(x) != np.isnan(y)).sum())
            scale = np.nanmax(np.abs(x), initial=1e-12)
            apart = float(np.nanmax(np.abs(x - y), initial=0.0) / scale)
            error, worst = max((error, worst), (apart, name))
        elif x.dtype == bool:
            flips = max(flips, float((x != y).mean()) if x.size else 0.0)
        else:
            others += int((x != y).sum())
    return Difference(error, worst, flips, others)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach().cpu().float().numpy()
    elif isinstance(value, xr.Dataset):
        for part in [*value.data_vars, *value.coords]:
            yield f"{name}/{part}", value[part].values
    elif isinstance(value, xr.DataArray):
        yield name, value.values
    elif isinstance(value, pd.DataFrame):
        for column in value.columns:
            yield f"{name}/{column}", value[column].to_numpy()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(f"{name}/{key}", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _arrays(f"{name}/{index}", part)
    else:
        yield name, np.asarray(value)
