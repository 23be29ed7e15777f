"""The four standard figures of one trace, as PNG files, each beside a JSON of what made it."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.text import Text

from lacscope import plots
from lacscope.trace_analyses._norms import norm_profile
from lacscope.trace_analyses._usage import layer_usage, token_usage, usage_by_alpha
from lacscope.traces._atomic import write_atomically
from lacscope.traces._schema import PROVENANCE_ATTRS
from lacscope.traces._voids import voids

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN_ALPHAS = tuple(round(a, 2) for a in np.linspace(0.0, 1.5, 16))
FIGURES = ("norms", "usage", "usage_by_alpha", "void_map")


def save_figures(
    trace: xr.Dataset,
    folder: Path,
    *,
    alpha: float = 0.8,
    sample: int = 0,
    style: plots.NormStyle = "quartiles",
    dpi: int = 150,
) -> dict[str, Path]:
    """Draw the four figures of a trace into a folder.

    The trace's own voids are used under ``bypass`` (no other can be known), those of ``alpha`` otherwise.

    Returns:
        Path of each figure by its name.
    """
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    mask = None if trace.attrs["effect"] == "bypass" else voids(trace, alpha)
    with plots.style():
        axes: dict[str, Any] = {
            "norms": plots.plot_norms(norm_profile(trace), style=style)[0],
            "usage": plots.plot_usage(layer_usage(trace, mask), token_usage(trace, mask))[0],
            "void_map": plots.plot_void_map(trace, mask, sample=sample),
        }
        if trace.attrs["effect"] != "bypass":
            axes["usage_by_alpha"] = plots.plot_usage_by_alpha(usage_by_alpha(trace, DRAWN_ALPHAS))
        paths = {}
        for name, ax in axes.items():
            paths[name] = write_figure(ax.figure, folder / f"{name}.png", _made_by(trace, alpha, sample), dpi)
            plt.close(ax.figure)
    return paths


def _made_by(trace: xr.Dataset, alpha: float, sample: int) -> dict[str, Any]:
    attrs = {key: value for key, value in trace.attrs.items() if key in PROVENANCE_ATTRS}
    return {**attrs, "n_samples": trace.sizes["sample"], "alpha": alpha, "sample": sample}


def say_weights(figure: "Figure", made_by: Mapping[str, Any]) -> None:
    """Say under a figure what the weights of its model, or of each of its models, are quantised to.

    Nothing where no weights are quantised, or where the figure's own small print says it.
    """
    runs = made_by.get("runs", [made_by])
    said = {str(run.get("model", "")): str(run["quantization"]) for run in runs if run.get("quantization")}
    shown = " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))
    lines = [f"{model or 'model'}: weights {kinds}" for model, kinds in said.items() if kinds not in shown]
    if lines:
        figure.text(0.01, -0.01, "\n".join(lines), va="top", fontsize="small", color="0.35", parse_math=False)


def write_figure(figure: "Figure", path: Path, made_by: dict[str, Any], dpi: int) -> Path:
    """Write a figure as PNG, whole or not at all, and a JSON of what made it beside it."""
    say_weights(figure, made_by)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png", bbox_inches="tight")
    write_atomically(path, drawn.getvalue())
    write_atomically(path.with_suffix(".json"), (json.dumps(made_by, indent=1, sort_keys=True) + "\n").encode())
    return path
