"""Every analysis that the command line knows, by name: what it reads, in which parts it is run, how it is drawn."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from lacscope.analyze._analysis import Analysis, Part, SoFar, by_prompt, each, whole
from lacscope.analyze._candidates import TELL_TALE_SETTINGS, candidates, right_by_norms
from lacscope.analyze._depth import (
    curves_of_depth,
    depths_of_curves,
    erasure,
    futures,
    gradients,
    influences_on_answers,
    scores_of_groups,
    too_short_to_cut,
)
from lacscope.analyze._importance import agree, geometry, identity, removals, right_without_each, scores
from lacscope.analyze._joining import join_samples
from lacscope.analyze._maps import BYPASSED, all_states, maps_to_bypassed, own_maps, too_few_tokens
from lacscope.analyze._prompts import Prompts, too_alike
from lacscope.analyze._skipping import PAINTERS, TRADEOFF, all_plans, curves, painters, tradeoffs
from lacscope.analyze._tokens import TOKENS, phases, traces, usage_of_groups
from lacscope.guards._arguments import did_you_mean
from lacscope.models._model import Model
from lacscope.plots._plot import drawing
from lacscope.plots._token_groups import plot_token_phases, plot_token_usage
from lacscope.traces._measure import MEASURES, Measure

FIRST, REST = (0, 1), (1, sys.maxsize)  # windows of positions
GROUPS = ("depth", "importance", "tokens", "painters", "plans")


def _last(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Of the only part, or of parts each of which goes on from the one before."""
    return parts[-1]


def _all_prompts(measure: Measure) -> Callable[[Any, Prompts], list[Part]]:
    def run(model: Model, prompts: Prompts, so_far: SoFar) -> xr.Dataset:
        read = () if measure.needs == "weights" else (prompts.whole,)
        said = measure.takes(max_tokens=prompts.max_tokens, data=prompts.name, progress=so_far.progress)
        found: xr.Dataset = measure.function(model, *read, **said)
        return found

    return whole(run)


def analysis_of(
    measure: Measure,
    parts: Callable[[Any, Prompts], list[Part]],
    join: Callable[[Sequence[xr.Dataset]], xr.Dataset] = _last,
    **changes: Any,
) -> Analysis:
    """The analysis of a measure, from its record: its name, group, words, needs, settings, style and plot."""
    one = Analysis(
        measure.command,
        measure.group,
        measure.says,
        measure.needs,
        parts,
        join,
        drawing(measure),
        settings=measure.fixed,
        style=measure.style,
    )
    return replace(one, **changes)


def _by_its_record(measure: Measure) -> Analysis:
    if measure.parts == "each":
        return analysis_of(measure, by_prompt(measure), join_samples)
    return analysis_of(measure, _all_prompts(measure))


def _others() -> list[Analysis]:
    """What takes more than a measure's record: several results, other prompts, parts of its own."""
    skip, ablation, maps = (MEASURES[name] for name in ("current_skip_influence", "causal_ablation", "linear_maps"))
    return [
        analysis_of(MEASURES["future_skip_influence"], futures, join_samples, lacks=too_short_to_cut),
        *(
            analysis_of(
                skip,
                by_prompt(skip, unit=unit),
                join_samples,
                name=f"current-{unit}",
                says=f"the same of each layer's {words} alone",
            )
            for unit, words in (("attn", "attention"), ("mlp", "MLP"))
        ),
        analysis_of(MEASURES["residual_erasure"], whole(erasure), fewest=2),
        analysis_of(MEASURES["integrated_gradients"], whole(gradients)),
        analysis_of(MEASURES["depth_scores"], influences_on_answers, scores_of_groups),
        analysis_of(MEASURES["effective_depths"], each(curves_of_depth), depths_of_curves),
        analysis_of(maps, own_maps, all_states, fewest=2, lacks=too_few_tokens),
        analysis_of(
            maps,
            maps_to_bypassed,
            all_states,
            name="maps-bypassed",
            says="the same onto the states with the middle layers bypassed",
            fewest=2,
            lacks=too_few_tokens,
            settings=BYPASSED,
        ),
        analysis_of(MEASURES["identity_distance"], identity, join_samples),
        analysis_of(MEASURES["update_geometry"], whole(geometry), fewest=2),
        *(
            analysis_of(
                ablation,
                by_prompt(ablation, window=window),
                join_samples,
                name=f"ablation-{name}",
                says=f"the same, bypassed at {where}",
            )
            for name, window, where in (
                ("first", FIRST, "position 0 alone"),
                ("rest", REST, "all positions but 0"),
            )
        ),
        analysis_of(MEASURES["ablation_accuracy"], each(right_without_each), join_samples),
        analysis_of(MEASURES["sleb"], removals),
        # After what it finds stored.
        analysis_of(MEASURES["agreement"], scores, agree, needs="prompts"),
        analysis_of(
            MEASURES["usage_by_group"],
            traces,
            usage_of_groups,
            name="token-usage",
            says="usage and effects by class, position and surprisal of the token, and by answer",
            needs="prompts",
            draw=plot_token_usage,
            settings=TOKENS,
        ),
        analysis_of(
            MEASURES["matched_difference"],
            traces,
            phases,
            name="token-phases",
            says="usage and effects in the answer less those in the prompt, between like tokens",
            needs="answers",
            draw=plot_token_phases,
            settings=TOKENS,
        ),
        analysis_of(
            MEASURES["share_right"],
            candidates,
            right_by_norms,
            needs="choices",
            fewest=2,
            lacks=too_alike,
            settings=TELL_TALE_SETTINGS,
        ),
        analysis_of(MEASURES["painters_curves"], painters, curves, needs="questions", settings=PAINTERS),
        analysis_of(MEASURES["plan_tradeoff"], tradeoffs, all_plans, fewest=2, lacks=too_alike, settings=TRADEOFF),
    ]


def catalogue() -> dict[str, Analysis]:
    """Every analysis by name and by group, in the order in which they are made; of registered measures last."""
    by_record = [_by_its_record(measure) for measure in MEASURES.values() if measure.parts]
    found = [*by_record, *_others()]
    places = {group: place for place, group in enumerate(groups_of(found))}
    return {one.name: one for one in sorted(found, key=lambda one: places[one.group])}


def groups_of(analyses: Sequence[Analysis]) -> list[str]:
    """The headings of these analyses: lacscope's own, then those of registered measures."""
    return list(dict.fromkeys([*GROUPS, *(one.group for one in analyses)]))


def named(names: Sequence[str]) -> list[Analysis]:
    """The analyses of these names, groups, or ``"all"``, in the catalogue's order.

    Raises ValueError for a name that there is not, listing those that there are.
    """
    there = catalogue()
    groups = groups_of(list(there.values()))
    known = {*there, *groups, "all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"there is no analysis {unknown[0]!r}; choose from {', '.join(there)}, or a group of them: "
            f"{', '.join(groups)}, all.{did_you_mean(unknown[0], known)}"
        )
    return [one for one in there.values() if {one.name, one.group, "all"} & set(names)]
