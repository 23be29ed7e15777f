"""Linear maps of a model's states onto its own, and onto those with its middle layers bypassed."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import xarray as xr

from lacscope.analyze._analysis import Part, piece
from lacscope.analyze._prompts import Prompts
from lacscope.model_measures._linear_maps import CSORDAS_LINEAR_MAPS, linear_maps, n_tokens_to_fit
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.rules import FixedLayers
from lacscope.tracing._session import halting

STATES_AT_ONCE = 4  # a part: all prompts are read once for it
MIDDLE = 0.3  # of the layers
BYPASSED = {"bypassed": f"the middle {MIDDLE:.0%} of the layers"}


def too_few_tokens(model: Model, prompts: Prompts) -> str:
    """What is missing to fit the maps on, in words; "" where nothing."""
    per_dimension = CSORDAS_LINEAR_MAPS.settings["tokens_per_dim"]
    width = int(adapt(model).model.cfg.d_model)
    given = n_tokens_to_fit(prompts.whole)
    if given >= per_dimension * width:
        return ""
    return (
        f"it fits maps on {per_dimension} tokens for each of the {width} dimensions of the stream, "
        f"{per_dimension * width} in all, got {given}: raise --limit"
    )


def own_maps(model: Model, prompts: Prompts) -> list[Part]:
    """Maps from every state of the model to every state of the same."""
    return _parts(model, prompts)


def maps_to_bypassed(model: Model, prompts: Prompts) -> list[Part]:
    """Maps from every state of the model to every state with its middle layers bypassed."""
    adapter = adapt(model)
    layers = middle(adapter.n_layers)
    within = partial(halting, model, FixedLayers(layers), "bypass")
    without = f"layers {layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    names = (adapter.name, f"{adapter.name} without {without}")
    return _parts(model, prompts, within_b=within, names=names)


def middle(n_layers: int) -> list[int]:
    """The layers in the middle of the model.

    >>> middle(30)
    [10, 11, 12, 13, 14, 15, 16, 17, 18]
    """
    n = max(1, round(MIDDLE * n_layers))
    start = (n_layers - n) // 2
    return list(range(start, start + n))


def _parts(model: Model, prompts: Prompts, **options: Any) -> list[Part]:
    n_states = adapt(model).n_layers + 1
    groups = [range(n_states)[start : start + STATES_AT_ONCE] for start in range(0, n_states, STATES_AT_ONCE)]

    def one(states: Sequence[int]) -> xr.Dataset:
        return linear_maps(
            model, model, prompts.whole, states=states, states_at_once=len(states), data=prompts.name, **options
        )

    return [piece(one, states) for states in groups]


def all_states(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Parts of the maps as one."""
    return xr.concat(parts, dim="state_a", join="exact", combine_attrs="override")
