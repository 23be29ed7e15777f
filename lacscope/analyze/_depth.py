"""Analyses of depth that are more than one call by prompt: maps of one question, scores of groups of questions."""

from collections.abc import Sequence

import xarray as xr

from lacscope import model_measures as depth
from lacscope.analyze._analysis import Part, SoFar, each
from lacscope.analyze._joining import join_samples
from lacscope.analyze._prompts import Prompts
from lacscope.model_measures._cut_positions import SHORTEST
from lacscope.model_measures._multi_step import depth_curves
from lacscope.models._model import Model


def erasure(model: Model, prompts: Prompts, so_far: SoFar) -> xr.Dataset:
    """Residual erasure of the shortest question."""
    place = _shortest(prompts)
    # As the authors: the means are of ten questions with their answers.
    others = [ids for index, ids in enumerate(prompts.whole) if index != place][:10]
    return depth.residual_erasure(
        model,
        *_alone(prompts, place),
        mean_over=others,
        data=f"{prompts.name}, the shortest question",
        mean_data=prompts.name,
        progress=so_far.progress,
    )


def gradients(model: Model, prompts: Prompts, so_far: SoFar) -> xr.Dataset:
    """Integrated gradients of the shortest question."""
    return depth.integrated_gradients(
        model,
        *_alone(prompts, _shortest(prompts)),
        data=f"{prompts.name}, the shortest question",
        progress=so_far.progress,
    )


def _shortest(prompts: Prompts) -> int:
    """Place of the shortest question with its answer: a map is of one, and its cost grows with the square of it."""
    return min(range(len(prompts)), key=lambda place: len(prompts.whole[place]))


def _alone(prompts: Prompts, place: int) -> tuple[list[list[int]], list[list[int]]]:
    assert prompts.responses is not None
    return [list(prompts.inputs[place])], [list(prompts.responses[place])]


def futures(model: Model, prompts: Prompts) -> list[Part]:
    """Skip influence on later tokens, a part for every few prompts."""
    return each(_future)(model, prompts)


def _future(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    return depth.future_skip_influence(
        model,
        prompts.whole,
        first=first,
        max_tokens=prompts.max_tokens,
        data=prompts.name,
        prompt_format=prompts.prompt_format,
    )


def too_short_to_cut(model: Model, prompts: Prompts) -> str:
    """Which prompt has no room for a cut, in words; "" where all have."""
    for place, ids in enumerate(prompts.whole):
        if len(ids) < SHORTEST:
            return f"prompt {place} has {len(ids)} tokens; cuts are drawn in {SHORTEST} or more"
    return ""


def influences_on_answers(model: Model, prompts: Prompts) -> list[Part]:
    """Future skip influence on the answers, a part for every few questions, each question once."""
    return each(_influence_on_answers)(model, prompts.distinct())


def _influence_on_answers(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    # As the authors: one cut, at the answer's first token.
    cuts = [[len(ids)] for ids in prompts.inputs]
    found = depth.future_skip_influence(
        model, prompts.whole, cuts=cuts, data=prompts.name, prompt_format=prompts.prompt_format
    )
    pairs = zip(prompts.questions, prompts.tasks, strict=True)
    return found.assign_coords(group=("sample", [question.group or task for question, task in pairs]))


def scores_of_groups(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """The depth score of each group, of parts of :func:`influences_on_answers`."""
    joined = join_samples(parts)
    names = sorted(set(joined["group"].values))
    return depth.depth_scores({name: joined.isel(sample=joined["group"].values == name) for name in names})


def curves_of_depth(model: Model, prompts: Prompts, first: int) -> xr.Dataset:
    """The three curves that effective depth is read from, by prompt."""
    said = {"data": prompts.name, "prompt_format": prompts.prompt_format}
    return depth_curves(model, prompts.whole, max_tokens=prompts.max_tokens, **said)


def depths_of_curves(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Effective depths of the curves' means over the tokens of all prompts, pooled as in their source."""
    mean = depth.pool_tokens(join_samples(parts))
    return depth.effective_depths(mean["cosine"], mean["kl"], mean["overlap"], attrs=mean.attrs)
