"""Ratios of running time from interleaved rounds, so that a slow minute of the machine meets both sides."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lacscope
from lacscope.models.adapters import adapt

PREFILL_TOKENS = 256
DECODE_STEPS = 64
DECODE_PROMPT = 16

Side = Callable[[], Tensor]


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of time / time of the plain model in the same round, with its quartiles."""

    what: str
    threads: int
    median: float
    low: float
    high: float
    plain_seconds: float
    rounds: int


def prompt(n_tokens: int) -> Tensor:
    """Fixed token ids, none of them special."""
    return torch.randint(100, 40_000, (1, n_tokens), generator=torch.Generator().manual_seed(0))


def plain_prefill(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=prompt(PREFILL_TOKENS), use_cache=False, logits_to_keep=1).logits[0, -1]


def traced_prefill(model: Any) -> Tensor:
    found = lacscope.trace(model, prompt(PREFILL_TOKENS), logits="last")
    return torch.from_numpy(found["logits"].values[0])


def naive_prefill(model: Any) -> Tensor:
    """Cache every stream, then take the norms."""
    with torch.inference_mode():
        logits, cache = model.run_with_cache(prompt(PREFILL_TOKENS))
        lacscope.trace_from_cache(cache, prompt(PREFILL_TOKENS))
    return logits[0, -1]


def plain_decode(model: Any) -> Tensor:
    with torch.inference_mode():
        tokens, cache = prompt(DECODE_PROMPT), None
        for _ in range(DECODE_STEPS + 1):
            output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            tokens = output.logits[:, -1].argmax(-1, keepdim=True)
        return output.logits[0, -1]


def traced_decode(model: Any) -> Tensor:
    """The same number of passes through ``trace``; its answer is the last token it produced."""
    found = lacscope.trace(model, prompt(DECODE_PROMPT), max_new_tokens=DECODE_STEPS + 1)
    return torch.from_numpy(found["next_token_id"].values[0, -1:].astype(np.float32))


def compare(what: str, threads: int, plain: Side, sides: dict[str, Side], rounds: int) -> list[Ratio]:
    """Time every side once a round, in random order, and divide by the plain side's time of that round."""
    torch.set_num_threads(threads)
    everyone = {"plain": plain, "plain again (control)": plain, **sides}
    times = interleaved(everyone, rounds)
    found = []
    for name in everyone:
        if name != "plain":
            ratios = [mine / base for mine, base in zip(times[name], times["plain"], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            found.append(
                Ratio(f"{what}: {name}", threads, median, low, high, statistics.median(times["plain"]), rounds)
            )
    return found


def interleaved(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in each round, after one run that is not counted; the order is drawn anew each round."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    rng = random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            sides[name]()
            times[name].append(time.perf_counter() - start)
    return times


def check_same_answers(plain: Any, lean: Any, full: Any) -> None:
    """Both sides must return the same logits; decode is compared by its tokens."""
    reference = plain_prefill(plain)
    for name, logits in {"traced": traced_prefill(lean), "naive": naive_prefill(full)}.items():
        difference = float((logits - reference).abs().max())
        if difference > 1e-3:
            raise AssertionError(f"{name} prefill logits differ from the plain model's by {difference}")
    produced = lacscope.trace(lean, prompt(DECODE_PROMPT), max_new_tokens=DECODE_STEPS + 1)
    with torch.inference_mode():
        wanted = plain.generate(
            prompt(DECODE_PROMPT), max_new_tokens=DECODE_STEPS + 1, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, DECODE_PROMPT:]
    ids = produced["next_token_id"].values[0]
    if [int(i) for i in ids[ids >= 0]] != wanted.tolist()[: int((ids >= 0).sum())]:
        raise AssertionError("traced decode produced other tokens than the plain model")
    if adapt(lean).stop_ids() & set(wanted.tolist()):
        raise AssertionError("the benchmark's prompt reaches an end-of-sequence token: decode would stop early")
