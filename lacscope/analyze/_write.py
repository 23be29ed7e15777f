"""A result's figure, and beside it a JSON of what made both."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from lacscope import plots
from lacscope.analyze._analysis import Analysis
from lacscope.analyze._store import ResultStore
from lacscope.plots._saving import write_figure


def write_figure_of(analysis: Analysis, result: xr.Dataset, store: ResultStore, *, dpi: int = 130) -> Path:
    """Draw a result's figure beside it; returns the picture's path."""
    import matplotlib.pyplot as plt

    with plots.style():
        drawn = np.asarray(analysis.draw(result), dtype=object).ravel()[0].get_figure()
        path = write_figure(drawn, store.path(analysis.name, ".png"), made_by(result), dpi)
        plt.close(drawn)
    return path


def made_by(result: xr.Dataset) -> dict[str, object]:
    """The attributes of a result, its settings and versions read as JSON."""
    said: dict[str, object] = dict(result.attrs)
    for name in ("settings", "versions", "cost"):
        if name in said:
            said[name] = json.loads(str(said[name]))
    return said
