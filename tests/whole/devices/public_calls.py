"""A call of every public function that takes a model, for comparing what it gives on one device and on another."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lacscope
from lacscope import CALM, SWIFT, FixedLayers, GivenVoids, Plan, PromptDecided, RandomLayers, RandomTokens
from lacscope import L2AdaptiveComputation as LAC
from lacscope.model_measures._painters import Variant
from lacscope.rules import ContiguousBlock, CosineThreshold, Scope, TopImportance, UnifiedSkipping
from lacscope.tasks._base import Question

sys.path.insert(0, str(Path(__file__).parents[2] / "reproduction" / "sweep"))

from toy import ToyTask, toy_questions

Model = Any
LAYERS = 4
PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [9, 2, 71, 30]]
ANSWERS = [[5, 6], [7, 8, 9]]
MANY = [[(7 * i + 11 * k) % 90 + 3 for i in range(9 + k)] for k in range(5)]
QUESTIONS = [
    Question(i, "", prompt, False, ("deep", "cold wood"), i % 2, ("deep", "cold wood")[i % 2])
    for i, prompt in enumerate(("the river rises in a wood", "is it deep"))
]


@dataclass(frozen=True)
class Call:
    """What is called, and the public functions that it tries. ``full``: it needs every hook point.

    ``pretend``: on how many pretend GPUs it can be tried: of a backend written in Python torch differentiates on one
    device alone, and forwards not at all. ``wall_clock``: names in its result that are times.
    """

    run: Callable[[Model], Any]
    covers: tuple[str, ...]
    full: bool = False
    pretend: int = 2
    wall_clock: tuple[str, ...] = ()


def _traced(full: bool = False, **options: Any) -> Call:
    return Call(lambda model: lacscope.trace(model, PROMPTS, **options), ("trace",), full)


def _named(name: str, *given: Any, full: bool = False, pretend: int = 2, **options: Any) -> Call:
    return Call(lambda model: getattr(lacscope, name)(model, *given, **options), (name,), full, pretend)


def _planned(plan: Plan, **options: Any) -> Call:
    def run(model: Model) -> Any:
        with lacscope.plan(model, plan):
            return lacscope.trace(model, PROMPTS, max_new_tokens=4, logits="last", **options)

    return Call(run, ("plan", "trace"))


def _halted(model: Model) -> Any:
    ids = torch.tensor([PROMPTS[0]], device=_home(model))
    with torch.no_grad(), lacscope.halting(model, LAC(0.8), "readout") as recorder:
        model.original_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        )
    return recorder.trace


def _hooked(model: Model) -> Any:
    recorder = lacscope.Recorder()
    hooks = lacscope.halting_hooks(model, LAC(0.8), "bypass", recorder=recorder)
    ids = torch.tensor([PROMPTS[0]], device=_home(model))
    with torch.no_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=hooks)
    return {"logits": logits, "trace": recorder.trace}


def _cached(model: Model) -> Any:
    ids = torch.tensor([PROMPTS[0]], device=_home(model))
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    return lacscope.trace_from_cache(cache, ids)


def _shifted(model: Model) -> Any:
    options: dict[str, Any] = {"responses": ANSWERS, "logits": "all"}
    full = lacscope.trace(model, PROMPTS, **options)
    return lacscope.token_shift(full, lacscope.trace(model, PROMPTS, rule=LAC(0.8), effect="readout", **options))


def _read_and_rerun(model: Model) -> Any:
    found = {}
    for index, read in enumerate(lacscope.read_residuals(model, PROMPTS, logits=True)):
        states: list[torch.Tensor] = []

        def keep(layer: int, stream: torch.Tensor, kept: list[torch.Tensor] = states) -> None:
            kept.append(stream.clone())

        with torch.no_grad():
            logits = lacscope.rerun(model, read.tokens, 2, read.stream[1].unsqueeze(0), leaving=True, visit=keep)
        found |= {f"stream {index}": read.stream, f"logits {index}": read.logits, f"rerun {index}": logits}
        found |= {f"visited {index} {place}": state for place, state in enumerate(states)}
    return found


def _given_voids(model: Model) -> Any:
    mask = np.arange(LAYERS)[:, None].repeat(40, axis=1) % 2 == 1
    rule = GivenVoids({0: mask, 1: mask})
    return lacscope.trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=4, logits="last")


def _swift(model: Model) -> Any:
    rule = SWIFT(0.5).fit(model, [MANY[0], MANY[1]], trials=6, bayes_every=3, context=8)
    found = lacscope.trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=4)
    return {"attn": np.array(rule.attn), "mlp": np.array(rule.mlp), "score": np.array(rule.score), "trace": found}


def _reproduced(model: Model) -> Any:
    settings = lacscope.ReproductionSettings(
        alphas=(0.1, 0.8),
        generate_alphas=(0.8,),
        generate_limit=2,
        max_new_tokens=3,
        control_limit=2,
        control_seeds=(0,),
        shard_size=4,
    )
    with tempfile.TemporaryDirectory() as folder:
        lacscope.reproduce(model, ToyTask(), toy_questions(3), settings, Path(folder))
        (study,) = lacscope.open_studies(Path(folder))
        return study.scores.select_dtypes("number")


def _parallel(model: Model) -> Any:
    with lacscope.plan(model, Plan.painters(LAYERS, "parallel", 1)):
        return lacscope.score_choices(model, QUESTIONS)


@dataclass(frozen=True)
class _OddAnswers(ToyTask):
    """Right is an answer of an odd number of letters: random weights are, at times."""

    def parse(self, text: str, question: Question) -> str:
        return text

    def right(self, parsed: int | str | None, question: Question) -> bool:
        return len(str(parsed)) % 2 == 1


def _skipping(model: Model) -> Any:
    return {name: np.array(sorted(plan.skipped)) for name, plan in lacscope.skipping_plans(model, MANY, [1]).items()}


def _greedy(model: Model) -> Any:
    return lacscope.greedy_by_task(model, {_OddAnswers(): toy_questions(6)}, remove=1, max_new_tokens=3)


def _freely(model: Model) -> Any:
    return lacscope.trace(model, PROMPTS, max_new_tokens=5, temperature=0.8, top_p=0.9, seed=1)


def _home(model: Model) -> torch.device:
    """Where a user would put the token ids."""
    return lacscope.models.adapters.adapt(model).device


_RULES: dict[str, Any] = {
    "fixed layers": FixedLayers([1]),
    "contiguous block": ContiguousBlock(1, 2),
    "unified skipping": UnifiedSkipping(2),
    "top importance": TopImportance([3.0, 1.0, 2.0, 4.0], skip=1),
    "random layers": RandomLayers(1, seed=0),
    "random tokens": RandomTokens(0.25, seed=0),
    "prompt decided": PromptDecided(skip=1),
    "cosine threshold": CosineThreshold(0.9),
    "CALM, softmax": CALM(0.1, scope=Scope()),
    "CALM, cosine": CALM(0.1, confidence="cosine", scope=Scope()),
}
_LACS = [LAC(alpha) for alpha in (0.1, 0.5, 0.8)]

CALLS: dict[str, Call] = {
    "observe": _traced(max_new_tokens=5),
    "observe, 3 rules": _traced(max_new_tokens=3, rule=_LACS),
    "readout": _traced(rule=LAC(0.8), effect="readout", max_new_tokens=5, logits="last"),
    "bypass": _traced(rule=LAC(0.2), effect="bypass", max_new_tokens=5, logits="last"),
    "readout, 3 rules": _traced(rule=_LACS, effect="readout", max_new_tokens=5, logits="last"),
    "readout, 3 rules, all logits": _traced(rule=_LACS, effect="readout", max_new_tokens=3, logits="all"),
    "all logits": _traced(max_new_tokens=3, logits="all"),
    "measures": _traced(max_new_tokens=3, measures=["surprisal", "entropy", "rank", "cos_pre_post"]),
    "threshold": _traced(rule=LAC(0.8), max_new_tokens=2, measures=["threshold"]),
    "given answers": _traced(responses=ANSWERS, logits="last", measures=["surprisal"], tokenwise="response"),
    "sampling": Call(_freely, ("trace",)),
    "given voids": Call(_given_voids, ("trace",)),
    **{
        f"{name}, {effect}": _traced(rule=rule, effect=effect, max_new_tokens=4, logits="last")
        for name, rule in _RULES.items()
        for effect in ("readout", "bypass")
    },
    "several rules of two kinds, readout": _traced(
        rule=[LAC(0.8), _RULES["CALM, softmax"], FixedLayers([3])], effect="readout", max_new_tokens=4
    ),
    "halting and generate": Call(_halted, ("halting",)),
    "halting hooks": Call(_hooked, ("halting_hooks",)),
    "trace from a cache": Call(_cached, ("trace_from_cache",)),
    "token shift": Call(_shifted, ("trace", "token_shift")),
    "read and rerun": Call(_read_and_rerun, ("read_residuals", "rerun")),
    "plan, skip": _planned(Plan.skip(LAYERS, [1])),
    "plan, skip, readout": _planned(Plan.skip(LAYERS, [2]), rule=_LACS, effect="readout"),
    "plan, skip, bypass": _planned(Plan.skip(LAYERS, [2]), rule=LAC(0.2), effect="bypass"),
    "plan, reverse": _planned(Plan.reverse(LAYERS, [1, 2])),
    "plan, repeat": _planned(Plan.of(LAYERS, [0, 1, 2, 1, 2, 3])),
    "plan, parallel": Call(_parallel, ("plan", "score_choices")),
    "skipping plans": Call(_skipping, ("skipping_plans",)),
    "plan tradeoff": Call(
        lambda model: lacscope.plan_tradeoff(
            model, QUESTIONS, {"full": Plan.full(LAYERS), "skip": Plan.skip(LAYERS, [2])}, decode_steps=2, rounds=1
        ),
        ("plan_tradeoff",),
        wall_clock=("decode_ratio", "seconds", "prefill_ratio"),
    ),
    "choices": _named("score_choices", QUESTIONS),
    "variants": Call(
        lambda model: list(
            lacscope.score_variants(model, {"toy": QUESTIONS}, [Variant("skip", 1), Variant("reverse", 1)])
        ),
        ("score_variants",),
    ),
    "effective depth": _named("effective_depth", PROMPTS, full=True),
    "depth score by group": _named("depth_score_by_group", {"all": list(zip(PROMPTS, ANSWERS, strict=True))}),
    "painters": _named("layers_as_painters", {"toy": QUESTIONS}, kinds=["skip"], starts=[1], chance={"toy": 0.5}),
    "token groups": _named("token_group_usage", PROMPTS, by="position"),
    "tell-tale norms": _named("tell_tale_norms", QUESTIONS, calibration=QUESTIONS),
    "skipping tradeoff": Call(
        lambda model: lacscope.skipping_tradeoff(
            model, QUESTIONS, calibration=PROMPTS, shares=[0.25], seeds=[0], decode_steps=2, rounds=1
        ),
        ("skipping_tradeoff",),
        wall_clock=("decode_ratio",),
    ),
    "logit lens": _named("logit_lens", PROMPTS),
    "current skip influence": _named("current_skip_influence", PROMPTS),
    "future skip influence": _named("future_skip_influence", PROMPTS, cuts=[[3], [2]]),
    "local skip influence": _named("local_skip_influence", PROMPTS),
    "local skip influence, future": _named("local_skip_influence", PROMPTS, reach="future", cuts=[[3], [2]]),
    "contributions of blocks": _named("relative_contributions", PROMPTS, sublayers=False),
    "cosines of blocks": _named("residual_cosines", PROMPTS, sublayers=False),
    "erasure": _named("residual_erasure", [[1, 2, 3]], [[4, 5]], mean_over=[[5, 6, 7, 8]]),
    "linear maps": Call(
        lambda model: lacscope.linear_maps(model, model, MANY, tokens_per_dim=1, ridge=0.1), ("linear_maps",)
    ),
    "update geometry": _named("update_geometry", PROMPTS, calibration=MANY),
    "angular distance": _named("angular_distance", PROMPTS),
    "block influence": _named("block_influence", PROMPTS),
    "depth variance": _named("depth_variance", PROMPTS),
    "state similarity": _named("state_similarity", PROMPTS),
    "lim": _named("lim", PROMPTS),
    "sleb": _named("sleb", PROMPTS, remove=1),
    "z density": _named("z_density"),
    "causal ablation": _named("causal_ablation", PROMPTS),
    "causal ablation, window": _named("causal_ablation", PROMPTS, window=(1, 3)),
    "ablation accuracy": _named("ablation_accuracy", QUESTIONS),
    "ablation accuracy, decode": _named("ablation_accuracy", QUESTIONS, phase="decode"),
    "greedy by task": Call(_greedy, ("greedy_by_task",)),
    "layer scores": _named("layer_scores", PROMPTS, alphas=(0.8,), leave_out=("identity distance",)),
    "layer agreement": _named(
        "layer_agreement",
        PROMPTS,
        seed=0,
        alphas=(0.8,),
        leave_out=("identity distance",),
        drop=(0,),
        n_boot=10,
        n_permutations=10,
    ),
    "integrated gradients": _named("integrated_gradients", [[1, 2, 3]], [[4, 5]], steps=4, full=True, pretend=1),
    "identity distance": _named(
        "identity_distance",
        [[1, 2, 3]],
        n_probes=2,
        full=True,
        pretend=0,
    ),
    "reproduce": Call(_reproduced, ("reproduce", "open_studies")),
    "LAC of attention": _traced(True, rule=LAC(0.2, "attn"), effect="bypass", max_new_tokens=3, logits="last"),
    "LAC of MLP": _traced(True, rule=LAC(0.2, "mlp"), effect="bypass", max_new_tokens=3, logits="last"),
    "sublayer measures": _traced(True, max_new_tokens=3, measures=["attn_out_norm", "mlp_out_norm"]),
    "SWIFT": Call(_swift, ("trace", "SWIFT"), full=True),
    "contributions of sublayers": _named("relative_contributions", PROMPTS, full=True),
    "cosines of sublayers": _named("residual_cosines", PROMPTS, full=True),
    "skip influence of attention": _named("current_skip_influence", PROMPTS, unit="attn", full=True),
    "future influence of MLPs": _named("future_skip_influence", PROMPTS, unit="mlp", cuts=[[3], [2]], full=True),
}
