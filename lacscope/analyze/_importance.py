"""Analyses of importance that are more than one call by prompt."""

import json
from collections.abc import Sequence
from typing import Any

import xarray as xr

from lacscope import model_measures as importance
from lacscope.analyze._analysis import NOTHING, Part, SoFar, each, piece
from lacscope.analyze._prompts import Prompts
from lacscope.model_measures._agreement import MEASURES, layer_scores
from lacscope.model_measures._sleb import SLEB, removable, sleb
from lacscope.models._checks import UnsupportedModelError
from lacscope.models.adapters import adapt
from lacscope.trace_analyses._agreement import agreement
from lacscope.traces._provenance import Progress
from lacscope.traces._schema import model_named

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
        max_tokens=prompts.max_tokens,
        data=f"{prompts.name}, second half",
        progress=progress,
    )


def removals(model: Any, prompts: Prompts) -> list[Part]:
    """SLEB, a part for each layer that goes: it goes on from the part before it."""
    n_layers = adapt(model).n_layers
    read = SLEB.settings["max_tokens"] if prompts.max_tokens is None else prompts.max_tokens

    def one(remove: int) -> Part:
        def run(so_far: SoFar = NOTHING) -> xr.Dataset:
            before = so_far.parts[-1] if so_far.parts else None
            return sleb(
                model,
                prompts.whole,
                remove=remove,
                protect=PROTECTED,
                max_tokens=read,
                go_on_from=before,
                data=prompts.name,
            )

        return run

    return [one(step) for step in range(1, len(removable(n_layers, PROTECTED, None)) + 1)]


def identity(model: Any, prompts: Prompts) -> list[Part]:
    """Distance of the Jacobians from the identity, a part for every few prompts, each with draws of its own."""
    return each(_identity)(model, prompts)


def _identity(model: Any, prompts: Prompts, first: int) -> xr.Dataset:
    return importance.identity_distance(
        model, prompts.whole, seed=first, max_tokens=prompts.max_tokens, data=prompts.name
    )


def scores(model: Any, prompts: Prompts) -> list[Part]:
    """Every measure of importance, one a part."""

    def one(name: str) -> xr.Dataset:
        others = [other for other in MEASURES if other != name]
        attrs = {"metric": name, "model": adapt(model).name, "data": prompts.name, "n_samples": len(prompts)}
        try:
            (score,) = layer_scores(
                model, prompts.whole, leave_out=others, max_tokens=prompts.max_tokens, data=prompts.name
            ).values()
        except UnsupportedModelError as error:  # the others can still be compared
            return xr.Dataset(attrs={**attrs, "left_out": str(error)})
        return score.rename("score").to_dataset().assign_attrs(attrs)

    return [piece(one, name) for name in MEASURES]


def agree(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """How far the measures of :func:`scores` agree."""
    made = [part for part in parts if "score" in part]
    by_metric = {str(part.attrs["metric"]): part["score"] for part in made}
    attrs = parts[0].attrs
    n_layers = made[0].sizes["layer"]
    # Ranks need three layers.
    drop = EDGES if n_layers >= len(EDGES) + 3 else ()
    found = agreement(by_metric, drop=drop, seed=0, model=str(attrs["model"]), data=str(attrs["data"]))
    left_out = {part.attrs["metric"]: part.attrs["left_out"] for part in parts if "score" not in part}
    own = {**model_named(attrs), "n_samples": int(attrs["n_samples"]), "left_out": json.dumps(left_out)}
    return found.assign_attrs(own)
