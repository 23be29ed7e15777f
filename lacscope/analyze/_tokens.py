"""Analyses of which tokens use the layers: usage and effects by groups of tokens, answer against prompt."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import xarray as xr

from lacscope.analyze._analysis import Part, each
from lacscope.analyze._candidates import BOOTSTRAP_SEED
from lacscope.analyze._prompts import Prompts
from lacscope.model_measures._choices import score_choices
from lacscope.models._model import Model
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA
from lacscope.rules import Effect, L2AdaptiveComputation, describe_rule
from lacscope.trace_analyses._effects import token_shift
from lacscope.trace_analyses._group_usage import usage_by_group
from lacscope.trace_analyses._groups import groups_by_class, groups_by_correct, groups_by_position, groups_by_surprisal
from lacscope.trace_analyses._phase_matching import matched_difference
from lacscope.trace_analyses._phases import cell_counts
from lacscope.trace_analyses._tokens import token_classes
from lacscope.traces._joining import join_traces
from lacscope.traces._provenance import result_attrs
from lacscope.traces._schema import model_named
from lacscope.traces._voids import voids
from lacscope.tracing._run import trace

SHIFTED_UNDER: tuple[Effect, ...] = ("readout", "bypass")
TOKENS = MappingProxyType({"alpha": PRIMARY_ALPHA, "effects": list(SHIFTED_UNDER), "seed": BOOTSTRAP_SEED})
_KL = tuple(f"kl_{effect}" for effect in SHIFTED_UNDER)


def traces(model: Model, prompts: Prompts) -> list[Part]:
    """Traces of a few prompts each, with the KL of the next token under each effect, and whether the answer is right.

    Answers are given, not generated: decode is the reading of the right answer.
    """
    return each(_traced)(model, prompts)


def _traced(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    inputs = [list(ids) for ids in prompts.inputs]
    given = None if prompts.responses is None else [list(ids) for ids in prompts.responses]
    numbers = range(first, first + len(prompts))
    full = trace(model, inputs, responses=given, measures=("surprisal",), logits="all", sample_ids=numbers)
    rule = L2AdaptiveComputation(PRIMARY_ALPHA)
    # With the trace, whose texts may not be written.
    kept = full.drop_vars("logits").assign(token_class=token_classes(full))
    for name, effect in zip(_KL, SHIFTED_UNDER, strict=True):
        changed = trace(model, inputs, rule=rule, effect=effect, responses=given, logits="all", sample_ids=numbers)
        kept[name] = token_shift(full, changed)["kl"]
    if prompts.questions:
        kept["right"] = ("sample", score_choices(model, prompts.questions)["correct"].to_numpy(dtype=bool))
    read = "given answers, read teacher-forced" if given else "prompts alone"
    return kept.assign_attrs(data=f"{prompts.name}, {read}")


def usage_of_groups(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Usage and effects by class, position and surprisal, and by answer where some are right and some are wrong.

    Groups of all kinds stand one after the other along ``group``; ``kind`` says which kind each is of.
    """
    read = join_traces(parts)
    kinds = [groups_by_class(read), groups_by_position(read), groups_by_surprisal(read)]
    if "right" in read and 0 < int(read["right"].sum()) < read.sizes["sample"]:
        kinds.append(groups_by_correct(read, read["right"].values))
        by_answer = ""
    elif "right" in read:
        by_answer = f"not by answer: {int(read['right'].sum())} of {read.sizes['sample']} right"
    else:
        by_answer = "not by answer: there are none"
    mask, values = voids(read, PRIMARY_ALPHA), read[list(_KL)]
    found = [
        usage_by_group(read, kind, mask, seed=BOOTSTRAP_SEED, values=values, data=read.attrs["data"]) for kind in kinds
    ]
    named = [
        one.assign_coords(kind=("group", [one.attrs["grouped_by"]] * one.sizes["group"])).drop_attrs(deep=False)
        for one in found
    ]
    attrs = {
        **found[0].attrs,
        "grouped_by": "several kinds",
        "not_grouped": by_answer,
        "plot": "plot_token_usage",
        **_made_by(read),
    }
    return xr.concat(named, dim="group").assign_attrs(attrs)


def phases(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Usage and effects in the answer less those in the prompt, raw and matched, as a table over ``row``."""
    read = join_traces(parts)
    cells = cell_counts(read, voids(read, PRIMARY_ALPHA), read[list(_KL)])
    tables = [matched_difference(cells, read.sizes["layer"], seed=BOOTSTRAP_SEED, of=of) for of in ("usage", *_KL)]
    table = pd.concat(tables, ignore_index=True)
    attrs = result_attrs(
        "matched_difference",
        model_named(read.attrs) | {"versions": read.attrs["versions"]},
        preset=None,
        settings={},
        positions="all but sinks; decode: the answer's tokens, given and not generated",
        aggregation="decode less prefill; tokens pooled over samples, but where matched on the sample",
        n_samples=read.sizes["sample"],
        data=read.attrs["data"],
    )
    columns: dict[str, Any] = {str(name): ("row", table[name].to_numpy()) for name in table}
    return xr.Dataset(columns, attrs=attrs | {"plot": "plot_token_phases"} | _made_by(read))


def _made_by(read: xr.Dataset) -> dict[str, str]:
    """What the KL was made with: the trace beside it is of the full model."""
    return {"effects": ", ".join(SHIFTED_UNDER), "rule": describe_rule(L2AdaptiveComputation(PRIMARY_ALPHA))}
