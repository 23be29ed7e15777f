"""The measure by which results of two devices are called equal."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parent))

from comparing import Difference, difference

pytestmark = pytest.mark.once


def result(**changed: np.ndarray) -> list[object]:
    values = {
        "norm": np.array([1.0, np.nan, 4.0]),
        "void": np.array([True, False, False]),
        "ids": np.array([3, 4, 5]),
        **changed,
    }
    parts = {name: ("token", value) for name, value in values.items()}
    return [xr.Dataset(parts), pd.DataFrame({"seconds": [1.0]}), {"stream": torch.ones(2)}]


def test_equal_results_differ_by_nothing() -> None:
    assert difference(result(), result()) == Difference(worst="/2/stream")


def test_each_kind_of_difference_is_found() -> None:
    found = difference(result(), result(norm=np.array([1.0, np.nan, 4.4])))
    assert (found.error, found.worst) == (pytest.approx(0.1), "/0/norm")
    assert difference(result(), result(norm=np.array([1.0, 2.0, 4.0]))).others == 1
    assert difference(result(), result(void=np.array([True, True, False]))).flips == pytest.approx(1 / 3)
    assert difference(result(), result(ids=np.array([3, 9, 9]))).others == 2
    with pytest.raises(AssertionError, match="shapes"):
        difference({"a": np.ones(3)}, {"a": np.ones(4)})
    with pytest.raises(AssertionError, match="in one result alone"):
        difference({"a": np.ones(3)}, {"b": np.ones(3)})


def test_times_are_left_out() -> None:
    slower = [*result()[:1], pd.DataFrame({"seconds": [9.0]}), *result()[2:]]
    assert difference(result(), slower, ["seconds"]).error == 0
    assert difference(result(), slower).error > 1
