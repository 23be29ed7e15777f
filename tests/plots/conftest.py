"""Every plot test: no window, figures closed afterwards, matplotlib's settings found as they were."""

from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import xarray as xr

from lacscope.testing import synthetic_trace


@pytest.fixture(autouse=True)
def clean_matplotlib() -> Iterator[None]:
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before


@pytest.fixture
def trace() -> xr.Dataset:
    return synthetic_trace(n_samples=3, n_layers=12, prompt_tokens=14, decode_tokens=5)


@pytest.fixture
def prompt_only() -> xr.Dataset:
    return synthetic_trace(decode_tokens=0)
