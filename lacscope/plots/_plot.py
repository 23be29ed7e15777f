"""Any result, drawn as its measure's record says."""

import importlib
from collections.abc import Callable
from typing import Any

import xarray as xr

from lacscope.traces._measure import Measure, measure_of


def plot(result: Any, **options: Any) -> Any:
    """Draw a result with the plot that its measure's record names, or its attribute ``plot``; a trace as its void map.

    Args:
        result: the result of a measure or an analysis, or a trace.
        options: keyword arguments of that plot, such as ``ax=`` or ``axes=``.

    Returns:
        What the plot returns: its Axes, or an array of them.

    Raises:
        ValueError: a result that does not say which measure made it, or one whose measure has no plot.

    >>> import lacscope
    >>> from lacscope.testing import synthetic_trace
    >>> plot(lacscope.usage_by_alpha(synthetic_trace(), [0.0, 0.4, 0.8])).get_xlabel()
    'alpha (scale of the threshold)'
    """
    if isinstance(result, xr.Dataset) and "lacscope_schema" in result.attrs:
        return _named("plot_void_map")(result, **options)
    if isinstance(result, xr.Dataset) and "plot" in result.attrs:
        return _named(str(result.attrs["plot"]))(result, **options)
    return drawing(measure_of(result))(result, **options)


def drawing(measure: Measure) -> Callable[..., Any]:
    """The function that draws a measure's results.

    Raises:
        ValueError: it has none, or names one that ``lacscope.plots`` has not.
    """
    if callable(measure.plot):
        return measure.plot
    if not measure.plot:
        raise ValueError(
            f"{measure.name} has no plot of its own: its result is drawn together with others, or printed."
        )
    return _named(measure.plot)


def _named(name: str) -> Callable[..., Any]:
    # Looked up when it is drawn: the package lists this very file too.
    plots = importlib.import_module("lacscope.plots")
    found = getattr(plots, name, None) if name.startswith("plot_") else None
    if not callable(found):
        known = ", ".join(sorted(one for one in vars(plots) if one.startswith("plot_")))
        raise ValueError(f"lacscope.plots has no plot {name!r:.80}; it has {known}.")
    return found
