"""Every plot refuses what it cannot draw in words, and never by an exception of numpy's, pandas' or xarray's."""

import inspect
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lacscope
from lacscope import plots
from lacscope.testing import synthetic_trace

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unchecked")]

TRACE = synthetic_trace()
VOID = lacscope.voids(TRACE, 0.8)
PLOTS = sorted(name for name in dir(plots) if name.startswith("plot_"))
WRONG = (
    *(None, "x", 1, True, 1.5, [], {}, [[]], xr.Dataset(), xr.DataArray([1.0]), pd.DataFrame()),
    xr.Dataset({"kl": ("layer", np.ones(2))}),
)
REFUSALS = (ValueError, lacscope.TraceError)


@pytest.mark.parametrize("name", PLOTS)
def test_results_of_another_kind(name: str) -> None:
    plot = getattr(plots, name)
    needed = [one for one in inspect.signature(plot).parameters.values() if one.default is inspect.Parameter.empty]
    for wrong in WRONG:
        with pytest.raises(REFUSALS) as refused:
            plot(*[wrong] * len(needed))
        assert len(str(refused.value)) > 20, wrong
    plt.close("all")


@pytest.mark.parametrize(
    ("plot", "given", "argument", "right"),
    [
        (plots.plot_void_map, (TRACE, VOID), "sample", (1, None)),
        (plots.plot_void_map, (TRACE, VOID), "tokens", (None,)),
        (plots.plot_void_map, (TRACE,), "voids", (None,)),
        (plots.plot_void_map, (TRACE, VOID), "ax", (None,)),
        (plots.plot_norms, (lacscope.norm_profile(TRACE),), "style", ()),
        (plots.plot_norms, (lacscope.norm_profile(TRACE),), "axes", (None,)),
        (plots.plot_usage_by_alpha, (lacscope.usage_by_alpha(TRACE, [0.1, 0.8]),), "ax", (None,)),
    ],
)
def test_options(plot: Any, given: tuple[Any, ...], argument: str, right: tuple[Any, ...]) -> None:
    for wrong in WRONG:
        if any(wrong is one for one in right):
            continue
        with pytest.raises(REFUSALS) as refused:
            plot(*given, **{argument: wrong})
        assert len(str(refused.value)) > 20, wrong
    plt.close("all")


def test_the_words() -> None:
    with pytest.raises(ValueError, match=r"result must be a Dataset, such as .*; got 'x'"):
        plots.plot_importance("x")
    with pytest.raises(ValueError, match=r"usage must be a DataArray or Dataset, such as lacscope\.layer_usage"):
        plots.plot_usage(1, 1)
    with pytest.raises(ValueError, match=r"ax must be an Axes, such as plt\.subplots\(1, 1\); got 'x'"):
        plots.plot_void_map(TRACE, VOID, ax="x")
