"""Analyses of which tokens use the layers: usage and effects by groups of tokens, prefill against decode."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

from lacscope import plots
from lacscope.analyses.effects import token_shift
from lacscope.analyses.group_usage import usage_by_group
from lacscope.analyses.groups import groups_by_correct
from lacscope.analyses.phase_matching import matched_difference
from lacscope.analyses.phases import cell_counts
from lacscope.analyses.voids import voids
from lacscope.analyze.prompts import Prompts
from lacscope.choices import score_choices
from lacscope.presets import result_attrs
from lacscope.rules import Effect, L2AdaptiveComputation
from lacscope.run import trace

USAGE_ALPHA = 0.8  # the void paper's
EFFECTS: tuple[Effect, ...] = ("readout", "bypass")
AT_ONCE = 2  # prompts whose logits are held together

Grouping = Callable[[xr.Dataset], xr.DataArray]


def by_group(grouping: Grouping) -> Callable[[Any, Prompts], xr.Dataset]:
    """Usage and effects by a grouping of the tokens."""

    def run(model: Any, prompts: Prompts) -> xr.Dataset:
        read = _read(model, prompts)
        return _grouped(model, prompts, read, grouping(read))

    return run


def by_answer(model: Any, prompts: Prompts) -> xr.Dataset:
    """Usage and effects by whether the question is answered right."""
    read = _read(model, prompts)
    right = score_choices(model, prompts.questions)["correct"].to_numpy(dtype=bool)
    return _grouped(model, prompts, read, groups_by_correct(read, right))


def phases(model: Any, prompts: Prompts) -> xr.Dataset:
    """Usage and effects in decode less those in prefill, raw and matched, as a table over ``row``."""
    read = _read(model, prompts)
    cells = cell_counts(read, voids(read, USAGE_ALPHA), _shifts(model, prompts, read))
    n_layers = read.sizes["layer"]
    numbers = ("usage", *(f"{plots.KL}{effect}" for effect in EFFECTS))
    table = pd.concat([matched_difference(cells, n_layers, seed=0, of=of) for of in numbers], ignore_index=True)
    attrs = result_attrs(
        {key: read.attrs[key] for key in ("model", "versions")},
        preset=None,
        settings={"alpha": USAGE_ALPHA, "effects": list(EFFECTS), "seed": 0},
        positions="all but sinks",
        aggregation="decode less prefill; pooled over samples but where matched on the sample",
        n_samples=len(prompts),
        data=prompts.name,
    )
    return xr.Dataset({str(name): ("row", table[name].to_numpy()) for name in table}, attrs=attrs)


def draw_groups(found: xr.Dataset) -> np.ndarray:
    """Usage of the groups, their layers, and the effects."""
    wide = float(np.clip(0.13 * found.sizes["layer"], 3.6, 8.0))
    size = (wide + 11.0, 2.1 + 0.36 * found.sizes["group"])
    figure, axes = plt.subplots(1, 3, figsize=size, width_ratios=(3.8, wide, 3.8), layout="constrained")
    plots.plot_usage_by_group(found, axes[:2])
    plots.plot_effects_by_group(found, axes[2])
    figure.suptitle(
        _title(found, f"by {found.attrs['grouped_by']}, alpha = {found.attrs['alpha']:g}"), fontsize="small"
    )
    return axes


def draw_phases(found: xr.Dataset) -> np.ndarray:
    """The phase control of usage and of each effect."""
    table = found.to_dataframe()
    numbers = list(dict.fromkeys(table["of"]))
    figure, axes = plt.subplots(len(numbers), 1, figsize=(8.0, 4.2 * len(numbers)), layout="constrained", squeeze=False)
    for ax, of in zip(axes[:, 0], numbers, strict=True):
        plots.plot_phase_control(table[table["of"] == of], ax=ax)
    figure.suptitle(_title(found, "KL in nats from the full model's next token"), fontsize="small")
    return axes


def _title(found: xr.Dataset, said: str) -> str:
    attrs = found.attrs
    return f"{attrs['model']}, {attrs['data']}: {said}\n{attrs['positions']}; {attrs['aggregation']}"


def _read(model: Any, prompts: Prompts) -> xr.Dataset:
    return trace(model, [list(ids) for ids in prompts.inputs], responses=_given(prompts), measures=("surprisal",))


def _grouped(model: Any, prompts: Prompts, read: xr.Dataset, groups: xr.DataArray) -> xr.Dataset:
    values = _shifts(model, prompts, read)
    return usage_by_group(read, groups, voids(read, USAGE_ALPHA), seed=0, values=values, data=prompts.name)


def _shifts(model: Any, prompts: Prompts, read: xr.Dataset) -> xr.Dataset:
    """KL of the next token under each effect, over the tokens of ``read``."""
    rule = L2AdaptiveComputation(USAGE_ALPHA)
    found = {f"{plots.KL}{effect}": np.full(read["valid"].shape, np.nan) for effect in EFFECTS}
    for start in range(0, len(prompts), AT_ONCE):
        own = prompts.part(start, start + AT_ONCE)
        inputs, responses = [list(ids) for ids in own.inputs], _given(own)
        full = trace(model, inputs, responses=responses, logits="all")
        for effect in EFFECTS:
            changed = trace(model, inputs, rule=rule, effect=effect, responses=responses, logits="all")
            kl = token_shift(full, changed)["kl"].values
            found[f"{plots.KL}{effect}"][start : start + len(kl), : kl.shape[1]] = kl
    coords = {"sample": read["sample"].values, "token": read["token"].values}
    return xr.Dataset({name: (("sample", "token"), kl) for name, kl in found.items()}, coords)


def _given(prompts: Prompts) -> list[list[int]] | None:
    return None if prompts.responses is None else [list(ids) for ids in prompts.responses]
