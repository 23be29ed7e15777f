"""Every analysis that the command line knows, by name: what it reads, in which parts it is run, how it is drawn."""

import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import xarray as xr

from lacscope import model_measures as depth
from lacscope import model_measures as importance
from lacscope import plots
from lacscope.analyze._analysis import Analysis, Part, by_prompt, by_styled_prompt, each, whole
from lacscope.analyze._candidates import TELL_TALE, candidates, right_by_norms
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
from lacscope.analyze._importance import agree, geometry, identity, removals, scores
from lacscope.analyze._joining import join_samples
from lacscope.analyze._maps import BYPASSED, all_states, maps_to_bypassed, own_maps, too_few_tokens
from lacscope.analyze._prompts import Prompts, too_alike
from lacscope.analyze._skipping import PAINTERS, TRADEOFF, all_plans, curves, painters, tradeoffs
from lacscope.analyze._tokens import TOKENS, draw_groups, draw_phases, phases, traces, usage_of_groups
from lacscope.guards._arguments import did_you_mean
from lacscope.tasks._gsm8k import CSORDAS

POOLED = MappingProxyType({"aggregation": depth.POOLED})
FIRST, REST = (0, 1), (1, sys.maxsize)  # windows of positions
GROUPS = ("depth", "importance", "tokens", "painters", "plans")


def _last(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Of the only part, or of parts each of which goes on from the one before."""
    return parts[-1]


def _all_prompts(function: Callable[..., xr.Dataset]) -> Callable[[Any, Prompts], list[Part]]:
    return whole(
        lambda model, prompts, progress: function(
            model, prompts.whole, max_tokens=prompts.max_tokens, data=prompts.name, progress=progress
        )
    )


def _by_unit(unit: str) -> Callable[[Any, Prompts], list[Part]]:
    return by_styled_prompt(depth.current_skip_influence, unit=unit)


_ALL = (
    Analysis(
        "contributions", "depth", "norm of what each layer adds, beside the stream's", "prompts",
        by_styled_prompt(depth.relative_contributions), join_samples, plots.plot_relative_contributions,
        settings=POOLED, style=CSORDAS,
    ),
    Analysis(
        "cosines", "depth", "cosine of what each layer adds with the stream", "prompts",
        by_styled_prompt(depth.residual_cosines), join_samples, plots.plot_residual_cosines,
        settings=POOLED, style=CSORDAS,
    ),
    Analysis(
        "logit-lens", "depth", "KL and top-5 overlap of each state's prediction with the output's", "prompts",
        by_styled_prompt(depth.logit_lens), join_samples, plots.plot_logit_lens, style=CSORDAS,
    ),
    Analysis(
        "future", "depth", "skip influence of each layer on later tokens", "prompts",
        futures, join_samples, plots.plot_skip_influence, lacks=too_short_to_cut, style=CSORDAS,
    ),
    Analysis(
        "current", "depth", "skip influence of each layer on all tokens", "prompts",
        _by_unit("block"), join_samples, plots.plot_skip_influence, style=CSORDAS,
    ),
    Analysis(
        "current-attn", "depth", "the same of each layer's attention alone", "prompts",
        _by_unit("attn"), join_samples, plots.plot_skip_influence, style=CSORDAS,
    ),
    Analysis(
        "current-mlp", "depth", "the same of each layer's MLP alone", "prompts",
        _by_unit("mlp"), join_samples, plots.plot_skip_influence, style=CSORDAS,
    ),
    Analysis(
        "local", "depth", "skip influence of each layer on each later one, without propagation", "prompts",
        by_styled_prompt(depth.local_skip_influence), join_samples, plots.plot_skip_influence, style=CSORDAS,
    ),
    Analysis(
        "erasure", "depth", "change of the answer when one state is erased, by layer and token", "answers",
        whole(erasure), _last, plots.plot_residual_erasure, fewest=2,
    ),
    Analysis(
        "gradients", "depth", "integrated gradients of the answer, by layer and token", "answers",
        whole(gradients), _last, plots.plot_integrated_gradients,
    ),
    Analysis(
        "depth-score", "depth", "how deep what skipping layers changes in the answer lies, by group of questions",
        "questions", influences_on_answers, scores_of_groups, plots.plot_depth_scores,
    ),
    Analysis(
        "effective-depth", "depth", "the layer at which the model turns to its answer, by three criteria", "prompts",
        each(curves_of_depth), depths_of_curves, plots.plot_effective_depths, settings=POOLED, style=CSORDAS,
    ),
    Analysis(
        "maps", "depth", "how well each state is a linear map of each other", "prompts",
        own_maps, all_states, plots.plot_linear_maps, fewest=2, lacks=too_few_tokens,
    ),
    Analysis(
        "maps-bypassed", "depth", "the same onto the states with the middle layers bypassed", "prompts",
        maps_to_bypassed, all_states, plots.plot_linear_maps, fewest=2, lacks=too_few_tokens, settings=BYPASSED,
    ),
    Analysis(
        "block-influence", "importance", "1 - cosine of each block's input and output (ShortGPT)", "prompts",
        by_prompt(importance.block_influence), join_samples, plots.plot_importance,
    ),
    Analysis(
        "lim", "importance", "minus the cosine of the flattened input and output", "prompts",
        by_prompt(importance.lim), join_samples, plots.plot_importance,
    ),
    Analysis(
        "zd", "importance", "share of a layer's weights far from their mean (no data)", "prompts",
        whole(lambda model, prompts, progress: importance.z_density(model)), _last, plots.plot_importance,
    ),
    Analysis(
        "angular", "importance", "angular distance over every stretch of layers", "prompts",
        _all_prompts(importance.angular_distance), _last, plots.plot_angular_distance,
    ),
    Analysis(
        "similarity", "importance", "cosine of every pair of states", "prompts",
        _all_prompts(importance.state_similarity), _last, plots.plot_state_similarity,
    ),
    Analysis(
        "variance", "importance", "growth of the stream's variance at each layer", "prompts",
        by_prompt(importance.depth_variance), join_samples, plots.plot_importance,
    ),
    Analysis(
        "identity", "importance", "distance of each block's Jacobian from the identity", "prompts",
        identity, join_samples, plots.plot_importance,
    ),
    Analysis(
        "updates", "importance", "how much of each update a token-wise linear map explains", "prompts",
        whole(geometry), _last, plots.plot_update_geometry, fewest=2,
    ),
    Analysis(
        "ablation", "importance", "change of loss and KL when a block is bypassed", "prompts",
        by_prompt(importance.causal_ablation), join_samples, plots.plot_ablation,
    ),
    Analysis(
        "ablation-first", "importance", "the same, bypassed at position 0 alone", "prompts",
        by_prompt(importance.causal_ablation, window=FIRST), join_samples, plots.plot_ablation,
    ),
    Analysis(
        "ablation-rest", "importance", "the same, bypassed at all positions but 0", "prompts",
        by_prompt(importance.causal_ablation, window=REST), join_samples, plots.plot_ablation,
    ),
    Analysis(
        "ablation-accuracy", "importance", "right answers when a block is bypassed", "questions",
        each(lambda model, own, start: importance.ablation_accuracy(model, own.questions, data=own.name)),
        join_samples, plots.plot_ablation_accuracy,
    ),
    Analysis(
        "sleb", "importance", "layers removed one after the other, least perplexity first", "prompts",
        removals, _last, plots.plot_sleb,
    ),
    Analysis(
        "agreement", "importance", "do all measures of importance rank the layers alike?", "prompts",
        scores, agree, plots.plot_agreement,
    ),
    Analysis(
        "token-usage", "tokens", "usage and effects by class, position and surprisal of the token, and by answer",
        "prompts", traces, usage_of_groups, draw_groups, settings=TOKENS,
    ),
    Analysis(
        "token-phases", "tokens", "usage and effects in the answer less those in the prompt, between like tokens",
        "answers", traces, phases, draw_phases, settings=TOKENS,
    ),
    Analysis(
        "tell-tale", "tokens", "how often the right choice has the largest norms", "choices",
        candidates, right_by_norms, plots.plot_share_right, fewest=2, lacks=too_alike, settings=TELL_TALE,
    ),
    Analysis(
        "painters", "painters", "score with the middle layers skipped, repeated, reordered", "questions",
        painters, curves, plots.plot_painters_curves, settings=PAINTERS,
    ),
    Analysis(
        "tradeoff", "plans", "right answers against decode time, by how the skipped layers are chosen", "questions",
        tradeoffs, all_plans, plots.plot_plan_tradeoff, fewest=2, lacks=too_alike, settings=TRADEOFF,
    ),
)  # fmt: skip
CATALOGUE = MappingProxyType({one.name: one for one in _ALL})


def named(names: Sequence[str]) -> list[Analysis]:
    """The analyses of these names, groups, or ``"all"``, in the catalogue's order.

    Raises ValueError for a name that there is not, listing those that there are.
    """
    known = {*CATALOGUE, *GROUPS, "all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"there is no analysis {unknown[0]!r}; choose from {', '.join(CATALOGUE)}, or a group of them: "
            f"{', '.join(GROUPS)}, all.{did_you_mean(unknown[0], known)}"
        )
    return [one for one in _ALL if {one.name, one.group, "all"} & set(names)]
