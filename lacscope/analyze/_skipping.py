"""Analyses that answer questions with layers skipped or run in another order."""

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from lacscope.analyze._analysis import Part, piece
from lacscope.analyze._prompts import CALIBRATION, Prompts
from lacscope.model_measures._multi_step import chances_of
from lacscope.model_measures._painters import SUN_CURVES, VARIANT_KINDS, score_variants, variants
from lacscope.model_measures._tradeoff import plan_tradeoff, skipping_plans
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA
from lacscope.trace_analyses._painters import painters_curves
from lacscope.traces._provenance import result_attrs

SCORED = "token_accuracy"
SHARES = (0.1, 0.2, 0.3)  # of the layers, skipped
STARTS = 8  # of the curves, from the first possible to the last
SEEDS = (0, 1)
PAINTERS = MappingProxyType({"kinds": list(VARIANT_KINDS), "starts": STARTS, "seeds": list(SEEDS)})
TRADEOFF = MappingProxyType(
    {"shares": list(SHARES), "seeds": list(SEEDS), "alpha": PRIMARY_ALPHA, "calibrated_on": f"1 of {CALIBRATION}"}
)


def painters(model: Model, prompts: Prompts) -> list[Part]:
    """Every variant of the order of layers, one a part."""
    n_layers = adapt(model).n_layers
    starts = sorted({round(s) for s in np.linspace(0, (n_layers - 2) // 2, STARTS)})
    by_task = {name: prompts.of_task(name) for name in prompts.task_names}
    # A long right answer is never all greedy; the share of its tokens that are tells more.
    score = {name: SCORED for name, asked in by_task.items() if all(len(one.choices) == 1 for one in asked)}
    attrs = result_attrs(
        "painters_curves",
        model_attrs(model),
        preset=SUN_CURVES,
        settings={**PAINTERS, "times": 3, "starts": starts, "score": score},
        positions="all",
        aggregation="mean over samples, median over tasks",
        n_samples=len(prompts),
        data=prompts.name,
    )

    def one(variant: Any) -> xr.Dataset:
        (table,) = score_variants(model, by_task, [variant], score=score)
        return xr.Dataset({name: ("row", table[name].to_numpy()) for name in table}, attrs=attrs)

    return [piece(one, variant) for variant in variants(n_layers, VARIANT_KINDS, starts, seeds=SEEDS)]


def curves(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Curves over the number of layers, of parts of :func:`painters`."""
    scores = xr.concat(parts, dim="row").to_dataframe()
    # Those whose questions have a single choice: nothing to guess among, and scored by token (see painters).
    free_form = json.loads(parts[0].attrs["settings"])["score"]
    found = painters_curves(scores, chances_of(sorted(map(str, set(scores["task"]))), free_form))
    return found.assign_attrs({**parts[0].attrs, "not_testable": found.attrs["not_testable"]})


def tradeoffs(model: Model, prompts: Prompts) -> list[Part]:
    """Answers against time saved, a part for each number of layers skipped.

    The plans are chosen on every fourth question of each benchmark, and answer the others.
    """
    calibration, asked = prompts.apart(CALIBRATION)
    n_layers = adapt(model).n_layers
    skips = sorted({max(1, round(share * n_layers)) for share in SHARES})
    data = f"{prompts.name}, plans chosen on {len(calibration)} other prompts"

    def one(skip: int) -> xr.Dataset:
        plans = skipping_plans(model, list(map(list, calibration.inputs)), [skip], alpha=PRIMARY_ALPHA, seeds=SEEDS)
        found = plan_tradeoff(model, asked.questions, plans, data=data)
        settings = json.loads(found.attrs["settings"]) | dict(TRADEOFF)
        return found.assign_attrs(settings=json.dumps(settings, sort_keys=True))

    return [piece(one, skip) for skip in skips]


def all_plans(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Parts of :func:`tradeoffs` as one."""
    return xr.concat(parts, dim="plan", data_vars="minimal", coords="minimal", compat="override", join="exact")
