"""Named reproductions: the demo that runs anywhere, the paper's own, and what the paper's would need."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lacscope.reproduction._run_file import Recipe
from lacscope.reproduction._settings import ReproductionSettings
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA

GIB = 2**30


PRESETS: dict[str, Recipe] = {
    "demo": Recipe(
        models=("smollm2-135m-instruct",),
        tasks=("pocket_boolean", "pocket_options"),
        settings=ReproductionSettings(
            alphas=(0.0, 0.1, 0.2, 0.5, PRIMARY_ALPHA, 1.0),
            generate_alphas=(0.1, PRIMARY_ALPHA),
            max_new_tokens=8,
            generate_limit=24,
            control_limit=16,
        ),
    ),
    # Temperature, top_p, 50 decode steps (51 tokens sampled), alpha and bfloat16 are the paper's. It publishes no
    # seed, and its greedy-free sampling differs from run to run.
    "paper": Recipe(
        models=("Qwen/Qwen2.5-7B-Instruct", "mistralai/Mistral-7B-Instruct-v0.3"),
        tasks=("boolq", "mmlu", "gpqa"),
        settings=ReproductionSettings(
            alphas=(PRIMARY_ALPHA,),
            generate_alphas=(PRIMARY_ALPHA,),
            max_new_tokens=51,
            temperature=0.6,
            top_p=0.9,
            control_alphas={"readout": (PRIMARY_ALPHA,), "bypass": (PRIMARY_ALPHA,)},
            control_limit=200,
        ),
        dtype="bfloat16",
    ),
}

# Parameters, and questions with their mean prompt length in tokens: for an estimate alone.
_PARAMETERS = {"Qwen/Qwen2.5-7B-Instruct": 7.62e9, "mistralai/Mistral-7B-Instruct-v0.3": 7.25e9}
_QUESTIONS = {"boolq": (3270, 190), "mmlu": (14042, 150), "gpqa": (198, 300)}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Need:
    """What one model of a reproduction takes: memory in GiB, work in 10^15 floating-point operations."""

    model: str
    memory_gib: float
    petaflop: float


def needs(models: Sequence[str], tasks: Sequence[str], settings: ReproductionSettings, dtype: str) -> list[Need]:
    """An estimate for the models and tasks whose size is known here; the others are left out.

    Memory is 1.2 times the weights; work is 2 FLOPs per parameter and token read, over every pass: the full model,
    one for all readouts, one per bypass, generation, and the controls.
    """
    n_alphas, n_generated = len(settings.alphas), len(settings.generate_alphas)
    passes = 2 + n_alphas * ("bypass" in settings.effects)
    answers = 1 + n_generated * len(settings.effects)
    # LAC, two random controls with and without protection, and three fixed ones, each a pass.
    controls = 2 + sum(4 + 4 * len(settings.control_seeds) for _ in settings.controls.get("bypass", ()))
    found = []
    for model in models:
        if model not in _PARAMETERS:
            continue
        tokens = 0.0
        for task in tasks:
            n, length = _QUESTIONS.get(task, (0, 0))
            n = n if settings.limit is None else min(n, settings.limit)
            controlled = n if settings.control_limit is None else min(n, settings.control_limit)
            tokens += n * (passes * length + answers * (length + settings.max_new_tokens))
            tokens += controlled * controls * length if settings.controls else 0
        weights = _PARAMETERS[model] * _BYTES[dtype]
        found.append(Need(model, 1.2 * weights / GIB, 2 * _PARAMETERS[model] * tokens / 1e15))
    return found


def memory_here_gib() -> float:
    """Memory that a model can take: of the largest GPU where there is one, else of the machine, in GiB."""
    import torch

    if torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return max(sizes) / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
