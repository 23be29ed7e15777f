"""Analyses of importance that are more than one call by prompt."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from lacscope import importance
from lacscope.adapters import adapt
from lacscope.analyses.agreement import agreement
from lacscope.analyze.analysis import NOTHING, Part, SoFar, piece
from lacscope.analyze.prompts import Prompts
from lacscope.importance.agreement import MEASURES, layer_scores
from lacscope.importance.sleb import removable, sleb
from lacscope.reading import Progress

PROTECTED = (0, -1)  # from SLEB, as by its authors
EDGES = (0, 1, -1)  # layers that stand out in every model, without which the measures are compared too


def geometry(model: Any, prompts: Prompts, progress: Progress | None) -> xr.Dataset:
    """Geometry of updates, fitted on one half of the prompts and measured on the other."""
    half = (len(prompts) + 1) // 2
    held_out = prompts.part(half, len(prompts))
    return importance.update_geometry(
        model,
        held_out.whole,
        calibration=prompts.part(0, half).whole,
        data=f"{prompts.name}, second half",
        progress=progress,
    )


def removals(model: Any, prompts: Prompts) -> list[Part]:
    """SLEB, a part for each layer that goes: it goes on from the part before it."""
    n_layers = adapt(model).n_layers

    def one(remove: int) -> Part:
        def run(so_far: SoFar = NOTHING) -> xr.Dataset:
            before = so_far.parts[-1] if so_far.parts else None
            return sleb(model, prompts.whole, remove=remove, protect=PROTECTED, go_on_from=before, data=prompts.name)

        return run

    return [one(step) for step in range(1, len(removable(n_layers, PROTECTED, None)) + 1)]


def scores(model: Any, prompts: Prompts) -> list[Part]:
    """Every measure of importance, one a part."""

    def one(name: str) -> xr.Dataset:
        others = [other for other in MEASURES if other != name]
        score = layer_scores(model, prompts.whole, leave_out=others, data=prompts.name)[name]
        attrs = {"metric": name, "model": adapt(model).name, "data": prompts.name, "n_samples": len(prompts)}
        return score.rename("score").to_dataset().assign_attrs(attrs)

    return [piece(one, name) for name in MEASURES]


def agree(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """How far the measures of :func:`scores` agree."""
    by_metric = {str(part.attrs["metric"]): part["score"] for part in parts}
    attrs = parts[0].attrs
    n_layers = parts[0].sizes["layer"]
    # Ranks need three layers.
    drop = EDGES if n_layers >= len(EDGES) + 3 else ()
    found = agreement(by_metric, drop=drop, seed=0, model=str(attrs["model"]), data=str(attrs["data"]))
    return found.assign_attrs(n_samples=int(attrs["n_samples"]))
