"""Analyses of importance that are more than one call by prompt."""

import json
from collections.abc import Callable, Sequence

import xarray as xr

from lacscope import model_measures as importance
from lacscope.analyze._analysis import NOTHING, Part, SoFar, each
from lacscope.analyze._prompts import Prompts
from lacscope.model_measures._agreement import Read, scorers
from lacscope.model_measures._sleb import SLEB, removable, sleb
from lacscope.models._checks import UnsupportedModelError
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.trace_analyses._agreement import agreement
from lacscope.traces._measure import MEASURES
from lacscope.traces._schema import model_named

PROTECTED = (0, -1)  # from SLEB, as by its authors
EDGES = (0, 1, -1)  # layers that stand out in every model, without which the measures are compared too


def geometry(model: Model, prompts: Prompts, so_far: SoFar) -> xr.Dataset:
    """Geometry of updates, fitted on one half of the prompts and measured on the other."""
    half = (len(prompts) + 1) // 2
    held_out = prompts.part(half, len(prompts))
    return importance.update_geometry(
        model,
        held_out.whole,
        calibration=prompts.part(0, half).whole,
        max_tokens=prompts.max_tokens,
        data=f"{prompts.name}, second half",
        progress=so_far.progress,
    )


def removals(model: Model, prompts: Prompts) -> list[Part]:
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


def identity(model: Model, prompts: Prompts) -> list[Part]:
    """Distance of the Jacobians from the identity, a part for every few prompts, each with draws of its own."""
    return each(_identity)(model, prompts)


def _identity(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    return importance.identity_distance(
        model, prompts.whole, seed=first, max_tokens=prompts.max_tokens, data=prompts.name
    )


def right_without_each(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    """Right answers when a block is bypassed."""
    return importance.ablation_accuracy(model, prompts.questions, data=prompts.name)


def scores(model: Model, prompts: Prompts) -> list[Part]:
    """Every score of a layer's importance, one a part; what they read or share is read once for all of them.

    A measure that is stored of the same prompts is not made again; one that is stored in another way, with draws of
    its own for every few prompts, is.
    """
    rows = [ids[: prompts.max_tokens] for ids in prompts.whole]
    read = Read(model, rows, prompts.max_tokens, prompts.name, prompts.prompt_format)
    as_stored = [measure for measure in MEASURES.values() if measure.parts]
    attrs = {"model": adapt(model).name, "data": prompts.name, "n_samples": len(prompts)}

    def one(name: str, score: Callable[[Read], xr.DataArray]) -> Part:
        def run(so_far: SoFar = NOTHING) -> xr.Dataset:
            for measure in as_stored:
                found = None if measure.name in read.found else so_far.stored(measure.command)
                if found is not None:
                    read.found[measure.name] = found
            try:
                scored = score(read).rename("score").to_dataset()
            except UnsupportedModelError as error:  # the others can still be compared
                return xr.Dataset(attrs={"metric": name, **attrs, "left_out": str(error)})
            return scored.assign_attrs({"metric": name, **attrs})

        return run

    return [one(name, score) for name, score in scorers().items()]


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
