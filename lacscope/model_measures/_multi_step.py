"""Analyses of several steps in one call, from a model and prompts to a result; their steps stay public."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from lacscope.guards._arguments import one_of, real_number, whole_number
from lacscope.model_measures._contributions import residual_cosines
from lacscope.model_measures._depth_score import depth_scores
from lacscope.model_measures._effective_depth import effective_depths
from lacscope.model_measures._future_influence import future_skip_influence
from lacscope.model_measures._logit_lens import logit_lens
from lacscope.model_measures._painters import VARIANT_KINDS, score_variants, variants
from lacscope.model_measures._pooling import pool_tokens
from lacscope.model_measures._tradeoff import plan_tradeoff, skipping_plans
from lacscope.models._checks import check_blocks
from lacscope.models._model import Model
from lacscope.tasks._base import Question
from lacscope.tasks._registry import TASKS
from lacscope.trace_analyses._group_usage import usage_by_group
from lacscope.trace_analyses._groups import groups_by_class, groups_by_position, groups_by_surprisal
from lacscope.trace_analyses._norm_choices import share_right
from lacscope.trace_analyses._painters import painters_curves
from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds
from lacscope.traces._provenance import Progress
from lacscope.traces._voids import voids
from lacscope.tracing._inputs import read_inputs, read_responses
from lacscope.tracing._questions import read_questions
from lacscope.tracing._run import trace

TokenGroups = Literal["class", "position", "surprisal"]
_GROUPED = {"class": groups_by_class, "position": groups_by_position, "surprisal": groups_by_surprisal}


def depth_curves(
    model: Model, inputs: Any, *, max_tokens: int | None = None, data: str = "", prompt_format: str = ""
) -> xr.Dataset:
    """The three curves that effective depth is read from, by (sample, layer): ``cosine``, ``kl`` and ``overlap``."""
    said: dict[str, Any] = {"max_tokens": max_tokens, "data": data, "prompt_format": prompt_format}
    cosines = residual_cosines(model, inputs, **said)
    lens = logit_lens(model, inputs, **said).isel(state=slice(cosines.sizes["layer"]))
    cosine = (cosines["cos_attn_resid"] + cosines["cos_mlp_resid"] + cosines["cos_update_resid"]) / 3
    curves = {"cosine": cosine, "kl": lens["kl"], "overlap": lens["overlap"]}
    found = xr.Dataset({name: curve.astype(np.float64) for name, curve in curves.items()}, attrs=lens.attrs)
    return found.assign_coords(n_tokens=lens["n_tokens"])


def effective_depth(
    model: Model,
    inputs: Any,
    *,
    share: float = 0.5,
    threshold: float = 0.3,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
) -> xr.Dataset:
    """The layer at which the model turns to its answer, by three criteria.

    The curves of :func:`residual_cosines` and :func:`logit_lens` are pooled over the tokens of all prompts, as in their
    source, and read by :func:`effective_depths`.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer`` with hook points of attention and MLP.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        share: the share of its first value under which the KL has to fall.
        threshold: the overlap of the five likeliest tokens that has to be passed.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        prompt_format: the form in which they are put to the model, in words.

    Returns:
        What :func:`effective_depths` returns: ``layer`` and ``depth`` over ``criterion``.

    Drawn by :func:`lacscope.plots.plot_effective_depths`.

    Raises:
        InputError: inputs that cannot be read.
        UnsupportedModelError: a model whose hook points are not the block's parts.

    >>> from lacscope.testing import tiny_model
    >>> effective_depth(tiny_model(n_layers=3), [[5, 17, 3, 60]])["layer"].sizes["criterion"]
    3
    """
    curves = depth_curves(model, inputs, max_tokens=max_tokens, data=data, prompt_format=prompt_format)
    mean = pool_tokens(curves)
    return effective_depths(
        mean["cosine"], mean["kl"], mean["overlap"], share=share, threshold=threshold, attrs=mean.attrs
    )


def depth_score_by_group(
    model: Model,
    groups: Mapping[str, Sequence[tuple[Any, Any]]],
    *,
    seed: int = 0,
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How deep what skipping layers changes in the answer lies, for groups of questions such as one and two hops.

    Each prompt is read with its right answer and cut where the answer begins (:func:`future_skip_influence`); the
    groups are then compared by :func:`depth_scores`.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        groups: the pairs of prompt and answer of each group, by its name.
        seed: the seed of the intervals.
        prompt_format: the form in which the prompts are put to the model, in words.
        progress: a function that is called with (layers skipped, layers to skip) of a group, one group after the other.

    Returns:
        What :func:`depth_scores` returns: ``score`` with its interval over (group, measure).

    Drawn by :func:`lacscope.plots.plot_depth_scores`.

    Raises:
        ValueError: no groups, or a group without pairs.
        InputError: prompts or answers that cannot be read.

    >>> from lacscope.testing import tiny_model
    >>> found = depth_score_by_group(tiny_model(n_layers=3), {"a": [([5, 17, 3], [60])], "b": [([8, 4, 9], [7])]})
    >>> found["group"].values.tolist()
    ['a', 'b']
    """
    adapter = check_blocks(model)
    influences = {}
    for name, pairs in groups.items():
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise ValueError(
                f"groups[{name!r}] must be pairs of a prompt and its answer, at least one; got {pairs!r:.80}."
            )
        prompts = read_inputs(adapter, [prompt for prompt, _ in pairs])
        answers = read_responses(adapter, [answer for _, answer in pairs], len(prompts))
        influences[name] = future_skip_influence(
            model,
            [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)],
            cuts=[[len(prompt)] for prompt in prompts],
            data=name,
            prompt_format=prompt_format,
            progress=progress,
        )
    return depth_scores(influences, seed=seed)


def layers_as_painters(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    *,
    kinds: Sequence[str] = VARIANT_KINDS,
    starts: Sequence[int] | None = None,
    seeds: Sequence[int] = (0, 1),
    chance: Mapping[str, float] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score with the middle layers skipped, repeated, reordered or averaged, as a share of the full model's.

    The questions are answered under every variant (:func:`score_variants`) and the scores made into curves
    (:func:`painters_curves`). Of a task whose questions have one choice, the share of the right answer's tokens that
    are the likeliest counts, and chance is 0.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        questions: the questions by task, each with choices.
        kinds: the kinds of variants, of those that :func:`lacscope.measures.variants` knows.
        starts: the first of the layers that are changed; default: all that there are.
        seeds: the seeds of the kind ``"random"``.
        chance: the expected score of a blind guess, for tasks that lacscope does not know.
        batch_size: rows of a forward pass.
        progress: a function that is called with (variants done, variants).

    Returns:
        What :func:`painters_curves` returns.

    Drawn by :func:`lacscope.plots.plot_painters_curves`.

    Raises:
        ValueError: an unknown kind, or a task whose chance is not known.

    >>> layers_as_painters(model, {"boolq": questions}, kinds=["skip"])["median"]  # doctest: +SKIP
    """
    free_form = [name for name, asked in questions.items() if all(len(one.choices) == 1 for one in asked)]
    chances = chances_of(questions, free_form, chance or {})
    asked = variants(check_blocks(model).n_layers, kinds, starts, seeds=seeds)
    score = dict.fromkeys(free_form, "token_accuracy")
    tables = list(score_variants(model, questions, asked, score=score, batch_size=batch_size, progress=progress))
    scores = pd.concat(tables, ignore_index=True)
    scores.attrs = tables[0].attrs
    return painters_curves(scores, chances)


def chances_of(
    tasks: Sequence[str] | Mapping[str, Any], free_form: Collection[str], chance: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The expected score of a blind guess in each task: 0 where there is nothing to guess among.

    Raises:
        ValueError: a task whose chance is neither given nor known.
    """
    known = {name: TASKS[name].chance if name in TASKS else None for name in tasks}
    found = {**known, **dict.fromkeys(free_form, 0.0), **(chance or {})}
    unknown = sorted(name for name in tasks if found[name] is None)
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: questions with several choices whose chance the task does not know, so its scores "
            "cannot be set against a blind guess. Leave it out, or give chance=."
        )
    return {name: float(value) for name, value in found.items() if name in tasks and value is not None}


def token_group_usage(
    model: Model,
    inputs: Any,
    *,
    by: TokenGroups = "class",
    alpha: float | int = 0.8,
    responses: Any = None,
    seed: int = 0,
    data: str = "",
) -> xr.Dataset:
    """Usage and exit depth of groups of tokens: which tokens use which layers.

    The prompts are traced, their voids are those of L2 Adaptive Computation at ``alpha``, and
    :func:`lacscope.usage_by_group` counts them by group.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        by: the kind of groups: the ``"class"`` of the token, its ``"position"``, or its ``"surprisal"``.
        alpha: the alpha of the voids.
        responses: given answers, one an input, read after the prompts.
        seed: the seed of the intervals over samples.
        data: the name of the prompts, for the figure.

    Returns:
        What :func:`lacscope.usage_by_group` returns.

    Drawn by :func:`lacscope.plots.plot_usage_by_group`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown kind of groups, or a bad alpha.

    >>> from lacscope.testing import tiny_model
    >>> token_group_usage(tiny_model(), [[5, 17, 3, 60, 8]], by="position")["usage"].dims
    ('group',)
    """
    one_of("by", by, _GROUPED)
    read = trace(model, inputs, responses=responses, measures=("surprisal",))
    mask = voids(read, alpha)
    return usage_by_group(read, _GROUPED[by](read), mask, seed=seed, data=data)


def tell_tale_norms(
    model: Model,
    questions: Sequence[Question],
    *,
    calibration: Sequence[Question],
    seed: int = 0,
    data: str = "",
) -> xr.Dataset:
    """How often the right choice has the largest norms.

    Every choice is read after its prompt; thresholds come from the choices of the calibration's questions
    (:func:`lacscope.norm_thresholds`), and the signals of the others (:func:`lacscope.norm_signals`) rank the choices
    (:func:`lacscope.share_right`).

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        questions: the questions whose choices are ranked, each with several.
        calibration: other questions, on which the thresholds are set.
        seed: the seed of the intervals over questions.
        data: the name of the questions, for the figure.

    Returns:
        What :func:`lacscope.share_right` returns.

    Drawn by :func:`lacscope.plots.plot_share_right`.

    Raises:
        ValueError: no questions of either kind, or a question of fewer than two choices.

    >>> tell_tale_norms(model, questions[4:], calibration=questions[:4])["share"]  # doctest: +SKIP
    """
    for name, asked in (("questions", questions), ("calibration", calibration)):
        few = [one.sample for one in asked if len(one.choices) < 2]
        if not asked or few:
            lacks = f"sample {few[0]} has fewer" if few else "got none"
            raise ValueError(f"{name} must be questions with two choices or more; {lacks}.")
    read, names, right = _choices_read(model, questions)
    thresholds = norm_thresholds(_choices_read(model, calibration)[0])
    found = share_right(norm_signals(read, thresholds, data=data), right, names, seed=seed)
    return found.assign_attrs(
        positions=f"{found.attrs['positions']}; thresholds from {len(calibration)} other questions"
    )


def _choices_read(model: Model, questions: Sequence[Question]) -> tuple[xr.Dataset, list[int], list[bool]]:
    """The trace of every choice after its prompt, with the place of its question and whether it is the right one."""
    asked = read_questions(check_blocks(model), questions)
    rows = [(place, choice) for place, one in enumerate(asked) for choice in range(len(one.choices))]
    read = trace(
        model,
        [list(asked[place].prompt) for place, _ in rows],
        responses=[list(asked[place].choices[choice]) for place, choice in rows],
    )
    return read, [place for place, _ in rows], [choice == asked[place].question.target for place, choice in rows]


def skipping_tradeoff(
    model: Model,
    questions: Sequence[Question],
    *,
    calibration: Any,
    shares: Sequence[float] = (0.1, 0.2, 0.3),
    alpha: float | int = 0.8,
    seeds: Sequence[int] = (0, 1),
    decode_steps: int = 32,
    rounds: int = 5,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Right answers against decode time, by how many layers are skipped and how they are chosen.

    The plans of :func:`lacscope.skipping_plans`, each tried by :func:`lacscope.plan_tradeoff`.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        questions: the questions that are answered, with choices.
        calibration: other prompts, on which the plans are chosen.
        shares: the shares of the layers that are skipped.
        alpha: the alpha of the voids of "frozen LAC".
        seeds: the seeds of the random plans.
        decode_steps: the tokens decoded in each timing.
        rounds: the pairs of timings.
        data: the name of the questions, for the figure.
        progress: a function that is called with (plans done, plans).

    Returns:
        What :func:`lacscope.plan_tradeoff` returns.

    Drawn by :func:`lacscope.plots.plot_plan_tradeoff`.

    Raises:
        ValueError: no share, or one that is not above 0 and below 1.

    >>> skipping_tradeoff(model, questions, calibration=prompts)["decode_ratio"]  # doctest: +SKIP
    """
    for share in shares:
        real_number("shares", share, above=0, most=1)
    whole_number("rounds", rounds, least=1)
    n_layers = check_blocks(model).n_layers
    skips = sorted({max(1, round(share * n_layers)) for share in shares})
    plans = skipping_plans(model, calibration, skips, alpha=alpha, seeds=seeds)
    return plan_tradeoff(
        model, questions, plans, decode_steps=decode_steps, rounds=rounds, data=data, progress=progress
    )
