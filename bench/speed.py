"""Ratios of running time from interleaved rounds, so that a slow minute of the machine meets both sides."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor

import lacscope
from lacscope.models.adapters import adapt

PREFILL_TOKENS = 256
LONG_TOKENS = 1024
DECODE_STEPS = 64
DECODE_PROMPT = 16
FIXED_MS = 5.0  # of one call over the plain pass, at most
LIMITS = {
    ("prefill 256", "observe"): 1.03,
    ("prefill 256", "readout"): 1.03,
    ("prefill 1024", "observe"): 1.03,
    ("decode 64", "observe"): 1.03,
    ("decode 64", "readout"): 1.04,
    ("decode 64", "bypass"): 1.10,
}
LAC = lacscope.L2AdaptiveComputation(0.8)

Side = Callable[[], Any]


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of time / time of the plain model in the same round, with its quartiles."""

    what: str
    side: str
    threads: int
    median: float
    low: float
    high: float
    plain_seconds: float
    rounds: int

    @property
    def limit(self) -> float | None:
        return LIMITS.get((self.what, self.side))


def prompt(n_tokens: int) -> Tensor:
    """Fixed token ids, none of them special."""
    return torch.randint(100, 40_000, (1, n_tokens), generator=torch.Generator().manual_seed(0))


def plain_prefill(model: Any, n_tokens: int = PREFILL_TOKENS) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=prompt(n_tokens), use_cache=False, logits_to_keep=1).logits[0, -1]
        return logits


def traced_prefill(model: Any, n_tokens: int = PREFILL_TOKENS, **options: Any) -> Tensor:
    found = lacscope.trace(model, prompt(n_tokens), logits="last", **options)
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


def traced_decode(model: Any, **options: Any) -> xr.Dataset:
    """The same number of passes through ``trace``."""
    return lacscope.trace(model, prompt(DECODE_PROMPT), max_new_tokens=DECODE_STEPS + 1, **options)


def sides(plain: Any, again: Any, model: Any) -> dict[str, dict[str, Side]]:
    """What is compared, the plain side first."""
    control = "plain again (control)"
    return {
        "prefill 256": {
            "plain": lambda: plain_prefill(plain),
            control: lambda: plain_prefill(again),
            "observe": lambda: traced_prefill(model),
            "readout": lambda: traced_prefill(model, rule=LAC, effect="readout"),
            "cache everything": lambda: naive_prefill(model),
        },
        "prefill 1024": {
            "plain": lambda: plain_prefill(plain, LONG_TOKENS),
            control: lambda: plain_prefill(again, LONG_TOKENS),
            "observe": lambda: traced_prefill(model, LONG_TOKENS),
        },
        "decode 64": {
            "plain": lambda: plain_decode(plain),
            control: lambda: plain_decode(again),
            "observe": lambda: traced_decode(model),
            "readout": lambda: traced_decode(model, rule=LAC, effect="readout"),
            "bypass": lambda: traced_decode(model, rule=lacscope.L2AdaptiveComputation(0.0), effect="bypass"),
        },
    }


def compare(what: str, threads: int, everyone: dict[str, Side], rounds: int) -> list[Ratio]:
    """Time every side once a round, in random order, and divide by the plain side's time of that round."""
    torch.set_num_threads(threads)
    times = interleaved(everyone, rounds)
    found = []
    for name in everyone:
        if name != "plain":
            ratios = [mine / base for mine, base in zip(times[name], times["plain"], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            found.append(Ratio(what, name, threads, median, low, high, statistics.median(times["plain"]), rounds))
    return found


def fixed_cost(plain: Any, model: Any, threads: int, rounds: int) -> float:
    """Milliseconds that a call of ``trace`` on 8 tokens takes over the plain pass: the median of the differences."""
    torch.set_num_threads(threads)
    times = interleaved({"plain": lambda: plain_prefill(plain, 8), "trace": lambda: traced_prefill(model, 8)}, rounds)
    return 1e3 * statistics.median(a - b for a, b in zip(times["trace"], times["plain"], strict=True))


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


def check_same_answers(plain: Any, model: Any) -> None:
    """Both sides must return the same logits; decode is compared by its tokens."""
    for name, n_tokens, logits in (
        ("traced", PREFILL_TOKENS, traced_prefill(model)),
        ("traced", LONG_TOKENS, traced_prefill(model, LONG_TOKENS)),
        ("naive", PREFILL_TOKENS, naive_prefill(model)),
    ):
        difference = float((logits - plain_prefill(plain, n_tokens)).abs().max())
        if difference > 1e-3:
            raise AssertionError(
                f"{name} prefill logits of {n_tokens} tokens differ from the plain model's by {difference}"
            )
    with torch.inference_mode():
        wanted = plain.generate(
            prompt(DECODE_PROMPT), max_new_tokens=DECODE_STEPS + 1, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, DECODE_PROMPT:]
    if adapt(model).stop_ids() & set(wanted.tolist()):
        raise AssertionError("the benchmark's prompt reaches an end-of-sequence token: decode would stop early")
    found = traced_decode(model)
    if found.attrs["ran_on"] != "the wrapped model alone":
        raise AssertionError(f"trace ran on {found.attrs['ran_on']}")
    ids = found["next_token_id"].values[0]
    if [int(i) for i in ids[ids >= 0]] != wanted.tolist()[: int((ids >= 0).sum())]:
        raise AssertionError("traced decode produced other tokens than the plain model")
    for effect, alpha in (("readout", 0.8), ("bypass", 0.0)):
        rule = lacscope.L2AdaptiveComputation(alpha)
        n_read = int((traced_decode(model, rule=rule, effect=effect).phase == "decode").sum())
        if n_read != DECODE_STEPS:
            raise AssertionError(
                f"decode under {effect} read {n_read} tokens, where the plain model reads {DECODE_STEPS}"
            )
