"""What skipping layers costs and saves: answers and measured decode time under each plan.

A halting mask saves no time, it is known too late. A plan that skips does: these are the two sides of it.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import xarray as xr

from lacscope.guards._arguments import ANY, whole_number, whole_numbers
from lacscope.model_measures import block_influence
from lacscope.model_measures._choices import score_choices
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, adapt, inference, without_gradients
from lacscope.models.adapters._weights import in_subclasses
from lacscope.plans import Plan, freeze
from lacscope.plans import plan as running
from lacscope.rules import UnifiedSkipping
from lacscope.tasks._base import Question
from lacscope.trace_analyses._statistics import majority_share, paired_bootstrap, wilson_interval
from lacscope.traces._lac import check_alpha
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Progress, result_attrs
from lacscope.tracing._questions import read_questions
from lacscope.tracing._run import trace


def skipping_plans(
    model: Model, calibration: Any, skips: Sequence[int], *, alpha: float = 0.8, seeds: Sequence[int] = (0, 1)
) -> dict[str, Plan]:
    """Plans that skip as many layers, chosen five ways: ``"frozen LAC, 3"``, ``"evenly spaced, 3"`` and so on.

    Frozen LAC skips the layers least used in prefill at ``alpha``; "unified as published" is unified skipping by its
    formula (:class:`lacscope.rules.UnifiedSkipping`), whose step is 1 wherever fewer than L/2 - 1 layers are skipped
    (of 30 layers up to 13): what is skipped is then one stretch before the last layer; "evenly spaced" spreads the
    skipped layers over layers 1 .. L-2; Block Influence skips the layers that turn the stream least; random draws
    them. All keep the first and the last layer.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        calibration: the prompts that usage and Block Influence are measured on, as :func:`lacscope.trace` takes them;
            not the questions that are to be answered.
        skips: the numbers of layers that plans skip, each at least 1.
        alpha: the alpha of the voids.
        seeds: a random plan for each.

    Raises:
        ValueError: no layer to skip, or more than there are but two.
    """
    n_layers = adapt(model).n_layers
    inner = range(1, n_layers - 1)
    check_alpha(alpha)
    whole_numbers("seeds", seeds, distinct=True)
    whole_numbers("skips", skips, least=ANY, distinct=True)
    if not skips or min(skips) < 1:
        raise ValueError(f"skips must be numbers of layers, each at least 1; got {list(skips)}.")
    if max(skips) > len(inner):
        raise ValueError(f"skips {max(skips)} layers; of {n_layers} the first and last are kept: at most {len(inner)}.")
    read = trace(model, calibration)
    influence = block_influence(model, calibration)["block_influence"].mean("sample").values
    by_influence = sorted(inner, key=lambda layer: (influence[layer], -layer))
    plans = {}
    for skip in skips:
        plans[f"frozen LAC, {skip}"] = freeze(read, alpha=alpha, skip=skip)
        kept = UnifiedSkipping(n_layers / (n_layers - skip + 0.5)).kept(n_layers)
        plans[f"unified as published, {skip}"] = Plan.of(n_layers, kept)
        # The middles of as many equal parts.
        spread = [inner[(2 * part + 1) * len(inner) // (2 * skip)] for part in range(skip)]
        plans[f"evenly spaced, {skip}"] = Plan.skip(n_layers, spread)
        plans[f"Block Influence, {skip}"] = Plan.skip(n_layers, by_influence[:skip])
        for seed in seeds:
            drawn = np.random.default_rng(seed).permutation(inner)[:skip]
            plans[f"random, {skip}, seed {seed}"] = Plan.skip(n_layers, drawn)
    return plans


def plan_tradeoff(
    model: Model,
    questions: Sequence[Question],
    plans: Mapping[str, Plan],
    *,
    decode_steps: int = 32,
    rounds: int = 5,
    batch_size: int = 8,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Answer the questions under each plan, and time cached decoding under it beside the full model's.

    Layers are skipped in prefill and in decode; the time is that of decode alone.

    Args:
        model: a ``TransformerBridge``; one loaded with ``hooks="residual"`` shows the saving with least overhead.
        questions: the questions of a benchmark, with choices.
        plans: the plans by name, which skip.
        decode_steps: tokens decoded, one by one, after the first question's prompt. What they are does not matter.
        rounds: pairs of timings, full model and plan in turn and the other way round in every second pair, so that a
            slow moment and the order meet both. One pair before them warms up and does not count.
        batch_size: rows of a forward pass, of the answers.
        data: the name of the questions, for the figure.
        progress: a function that is called with (plans done, plans).

    Returns:
        Over (plan, sample): ``correct``, and ``logp_change`` of the right choice against the full model's, nats. Over
        (plan, round): ``decode_ratio``, time of the plan's decode steps / the full model's. By plan: ``skipped_share``
        of the layers; ``accuracy`` and ``logp_change_mean`` with their 95 % intervals over questions (``_low``,
        ``_high``: Wilson's and a bootstrap). ``accuracy_full`` with its interval, and ``correct_full`` (sample).
        ``best_constant``: what always giving one answer would get right, NaN
        where questions differ in their choices; a plan that scores no more may have answered nothing. Timings are
        this machine's at that moment.

    Drawn by :func:`lacscope.plots.plot_plan_tradeoff`.

    Raises:
        ValueError: no plans, or no questions.

    >>> plans = {"every second": Plan.skip(30, range(1, 29, 2))}  # doctest: +SKIP
    >>> plan_tradeoff(model, questions, plans)["decode_ratio"].median("round")  # doctest: +SKIP
    """
    if not plans or not questions:
        raise ValueError(f"give at least one plan and one question; got {len(plans)} and {len(questions)}.")
    for name, value in (("decode_steps", decode_steps), ("rounds", rounds), ("batch_size", batch_size)):
        whole_number(name, value, least=1)
    adapter = adapt(model)
    full = score_choices(model, questions, batch_size=batch_size)
    prompt = list(read_questions(adapter, questions)[0].prompt)
    correct, change, ratio = [], [], []
    for done, plan in enumerate(plans.values(), start=1):
        with running(model, plan):
            found = score_choices(model, questions, batch_size=batch_size)
        correct.append(found["correct"].to_numpy(dtype=bool))
        change.append((found["target_logp"] - full["target_logp"]).to_numpy())
        ratio.append(_decode_ratios(adapter, plan, prompt, decode_steps, rounds))
        if progress is not None:
            progress(done, len(plans))
    found = xr.Dataset(
        {
            "correct": (("plan", "sample"), np.stack(correct), {"long_name": "answered right"}),
            "logp_change": (
                ("plan", "sample"),
                np.stack(change),
                {"long_name": "log-probability of the right choice, less the full model's", "units": "nat"},
            ),
            "decode_ratio": (
                ("plan", "round"),
                np.array(ratio),
                {"long_name": "decode time / the full model's", "units": "1"},
            ),
            "skipped_share": ("plan", [len(plan.skipped) / plan.n_layers for plan in plans.values()]),
            "correct_full": ("sample", full["correct"].to_numpy(dtype=bool)),
            "best_constant": ((), best_constant(questions), {"long_name": "accuracy of the best constant answer"}),
        },
        coords={
            "plan": list(plans),
            "layers": ("plan", [plan.describe() for plan in plans.values()]),
            "sample": full["sample"].to_numpy(),
        },
    )
    found = with_tradeoff_intervals(found)
    found.attrs = result_attrs(
        "plan_tradeoff",
        model_attrs(adapter),
        preset=None,
        settings={"decode_steps": decode_steps, "rounds": rounds, "threads": torch.get_num_threads()},
        positions="all",
        aggregation="mean over questions; median over rounds",
        n_samples=len(questions),
        data=data,
    )
    return found


def with_tradeoff_intervals(found: xr.Dataset) -> xr.Dataset:
    """What :func:`plan_tradeoff` measured by question, with its means and their 95 % intervals.

    >>> found = xr.Dataset({"correct": (("plan", "sample"), [[True, False]]), "correct_full": ("sample", [True, True]),
    ...                     "logp_change": (("plan", "sample"), [[0.0, -1.0]])})
    >>> with_tradeoff_intervals(found)["logp_change_mean"].values.tolist()
    [-0.5]
    """
    n = found.sizes["sample"]
    right = found["correct"].transpose("plan", "sample").values.sum(1)
    change = found["logp_change"].transpose("plan", "sample").values.astype(np.float64)
    full = int(found["correct_full"].sum())
    made: dict[str, Any] = {
        "accuracy": ("plan", right / n),
        "logp_change_mean": ("plan", change.mean(1), {"units": "nat"}),
        "accuracy_full": ((), full / n),
    }
    intervals = {
        "accuracy": np.array([wilson_interval(int(k), n) for k in right]),
        "logp_change": np.array([paired_bootstrap(row, seed=0) for row in change]),
        "accuracy_full": np.array(wilson_interval(full, n)),
    }
    for name, ends in intervals.items():
        for place, end in enumerate(("low", "high")):
            made[f"{name}_{end}"] = (("plan",) if ends.ndim == 2 else (), ends[..., place], {"level": 0.95})
    return found.assign(made)


def best_constant(questions: Sequence[Question]) -> float:
    """Accuracy of always giving the one choice that is right most often; NaN where the choices are not always the same.

    >>> yes_no = [Question(i, "", "is it", False, ("yes", "no"), target, "") for i, target in enumerate([0, 1, 1])]
    >>> round(best_constant(yes_no), 3)
    0.667
    """
    if len({question.choices for question in questions}) > 1:
        return float("nan")
    return majority_share(np.array([question.target for question in questions]))[1]


def _decode_ratios(adapter: Adapter, plan: Plan, prompt: list[int], steps: int, rounds: int) -> list[float]:
    """Plan / full model of each pair of timings; the plan is first in every second one."""

    def seconds(*, planned: bool) -> float:
        within = running(adapter.model, plan) if planned else nullcontext()
        return _decode_seconds(adapter, within, prompt, steps)

    ratios = []
    for one in range(-1, rounds):
        first = one % 2 == 1
        taken = {planned: seconds(planned=planned) for planned in (first, not first)}
        if one >= 0:  # the pair before is the warm-up
            ratios.append(taken[True] / taken[False])
    return ratios


def _decode_seconds(adapter: Adapter, within: AbstractContextManager[Any], prompt: list[int], steps: int) -> float:
    """Seconds of ``steps`` cached steps, prefill not counted."""
    tokens = torch.tensor([prompt], device=adapter.device)
    graph_free = without_gradients() if in_subclasses(adapter.model) else inference()
    with within, adapter.evaluating(), graph_free:
        mask = torch.ones_like(tokens).bool()
        _, cache = adapter.step(tokens, mask, None, use_cache=True, keep=1)
        last = tokens[:, -1:]
        _synchronise(adapter)
        start = time.perf_counter()
        for _ in range(steps):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            _, cache = adapter.step(last, mask, cache, use_cache=True, keep=1)
        _synchronise(adapter)
        return time.perf_counter() - start


def _synchronise(adapter: Adapter) -> None:
    if adapter.device.type == "cuda":
        torch.cuda.synchronize(adapter.device)


PLAN_TRADEOFF = Measure(
    plan_tradeoff,
    "trade-off of plans",
    "right answers against decode time, by how the skipped layers are chosen",
    plot="plot_plan_tradeoff",
    needs="questions",
    group="plans",
    command="tradeoff",
)
