"""Samples per second of a sweep over alphas, against the published code's way of doing one.

That way: a plain transformers model with forward hooks, one prompt at a time, one generation for each alpha. Ours:
``lacscope.trace`` in batches with all alphas at once, and a shard of the sweep runner. A *sample* is one prompt
answered under every alpha. Each round is one batch of prompts, so that a slow minute of the machine meets all sides;
the rounds' batches stand evenly in a sweep as long as BoolQ's, which is cut from the shortest prompt on.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

import lacscope
from lacscope.models.adapters import adapt
from lacscope.reproduction.sweep._parts import swept
from lacscope.reproduction.sweep._runner import make_spec
from lacscope.reproduction.sweep._scoring import score_shard
from lacscope.tasks._pocket_tasks import PocketBoolean
from lacscope.traces._lac import lac_thresholds
from lacscope.tracing._questions import ReadQuestion, read_questions

ALPHAS = (0.0, 0.1, 0.2, 0.5, 0.8, 1.0)
EFFECTS = ("observe", "readout")
BATCH = 8
NEW_TOKENS = 8
QUESTIONS = 3270  # of BoolQ's validation set
# Words of BoolQ's passages: log-normal with these parameters; pocket words are shorter than theirs.
LOG_WORDS, LOG_WORDS_SPREAD = 4.47, 0.5
NEAR_TIE = 1e-5  # of the norm: another order of summation moves |d - tau| by less

Spent = tuple[float, float]  # wall and CPU seconds
Answer = tuple[Bool[np.ndarray, "layer token"], list[int]]  # voids of all tokens read, and what was produced


@dataclass(frozen=True)
class Rate:
    """Samples per second of both ways, and the median over rounds of their ratio, in wall and in CPU time."""

    what: str
    threads: int
    published: float
    ours: float
    ratio: float
    low: float
    high: float
    cpu_ratio: float


def read_prompts(model: Any) -> list[ReadQuestion]:
    """Questions as many and as long as BoolQ's, shortest first: pocket questions, their passages joined and cut."""
    items = PocketBoolean().packaged()
    words = [str(one["passage"]).split() for one in items]
    lengths = np.random.default_rng(0).lognormal(LOG_WORDS, LOG_WORDS_SPREAD, QUESTIONS).astype(int)
    rows = []
    for sample, length in enumerate(lengths):
        first = sample % len(items)
        joined = [word for passage in words[first:] + words[:first] for word in passage][:length]
        rows.append({**items[first], "sample": sample, "passage": " ".join(joined)})
    return read_questions(adapt(model), PocketBoolean().questions(rows, "paper", seed=0))


def read_batches(model: Any, n: int) -> list[list[ReadQuestion]]:
    """``n`` batches of the sweep, evenly from the shortest prompts to the longest."""
    read = read_prompts(model)
    batches = [read[start : start + BATCH] for start in range(0, len(read) - BATCH + 1, BATCH)]
    return [batches[(2 * i + 1) * len(batches) // (2 * n)] for i in range(n)]


class PublishedWay:
    """Forward hooks that keep a pass's streams, find LAC's voids at one alpha and, maybe, read out early."""

    def __init__(self, model: Any, alpha: float, effect: str) -> None:
        self.blocks, self.alpha, self.effect = model.model.layers, alpha, effect
        self.streams: list[Float[Tensor, "1 pos d_model"]] = []
        self.voids: list[Bool[Tensor, "layer pos"]] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(self.blocks[0].register_forward_pre_hook(self._enter).remove)
            for block in self.blocks:
                stack.callback(block.register_forward_hook(self._leave).remove)
            yield

    def _enter(self, block: Any, args: tuple[Tensor, ...]) -> None:
        self.streams = [args[0]]

    def _leave(self, block: Any, args: Any, output: Tensor) -> Tensor | None:
        self.streams.append(output)
        return self._finish() if len(self.streams) == len(self.blocks) + 1 else None

    def _finish(self) -> Tensor | None:
        streams = torch.cat(self.streams)
        delta = streams.norm(dim=-1).diff(dim=0)
        spread = torch.zeros_like(delta)
        spread[1:] = (delta.cummax(0).values - delta.cummin(0).values)[:-1]
        void = delta < self.alpha * spread
        self.voids.append(void)
        if self.effect == "observe":
            return None
        depth = torch.arange(1, len(void) + 1).unsqueeze(-1)
        last_active = torch.where(void, 0, depth).amax(0)
        return streams[last_active, torch.arange(void.shape[1])].unsqueeze(0)


def published_answer(model: Any, prompt: Sequence[int], alpha: float, effect: str, stop: frozenset[int]) -> Answer:
    """One prompt at one alpha, greedily."""
    way, cache = PublishedWay(model, alpha, effect), None
    produced: list[int] = []
    tokens = torch.tensor([list(prompt)])
    with torch.inference_mode(), way.hooked():
        while len(produced) < NEW_TOKENS and not (produced and produced[-1] in stop):
            output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            tokens = output.logits[:, -1].argmax(-1, keepdim=True)
            produced.append(int(tokens))
    return torch.cat(way.voids, dim=-1).numpy(), produced


def published_sweep(model: Any, read: Sequence[ReadQuestion], effect: str, stop: frozenset[int]) -> list[list[Answer]]:
    """The answers at each alpha."""
    return [[published_answer(model, one.prompt, alpha, effect, stop) for one in read] for alpha in ALPHAS]


def traced(model: Any, read: Sequence[ReadQuestion], effect: Any) -> xr.Dataset:
    rules = [lacscope.L2AdaptiveComputation(alpha) for alpha in ALPHAS]
    prompts = [list(one.prompt) for one in read]
    return lacscope.trace(model, prompts, rule=rules, effect=effect, max_new_tokens=NEW_TOKENS, batch_size=BATCH)


def scored(model: Any, read: Sequence[ReadQuestion]) -> Any:
    """The tables of a shard: the full model, and LAC under both effects."""
    conditions = swept(ALPHAS, ("readout",))
    spec = make_spec(
        model,
        "",
        PocketBoolean.name,
        "paper",
        read,
        "generated",
        conditions,
        batch_size=BATCH,
        shard_size=len(read),
        max_new_tokens=NEW_TOKENS,
    )
    return score_shard(model, PocketBoolean(), read, spec)


def compare(plain: Any, lean: Any, threads: int, rounds: int) -> list[Rate]:
    """Each round gives all sides the next batch of prompts, in random order, and holds their answers equal.

    Raises AssertionError where masks (near-ties aside) or greedy answers differ.
    """
    torch.set_num_threads(threads)
    batches = read_batches(lean, rounds)
    for side in _sides(plain, lean, batches[0][:1]).values():
        side()
    times: dict[str, list[Spent]] = {}
    rng = random.Random(0)
    for batch in batches:
        sides = list(_sides(plain, lean, batch).items())
        rng.shuffle(sides)
        found = {}
        for name, side in sides:
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = side()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times.setdefault(name, []).append(spent)
        for effect in EFFECTS:
            _check_same(found[f"published, {effect}"], found[f"trace, {effect}"], effect)
    both = zip(times["published, observe"], times["published, readout"], strict=True)
    published = [(one[0] + other[0], one[1] + other[1]) for one, other in both]
    return [
        *(
            _rate(f"trace, {effect}", threads, times[f"published, {effect}"], times[f"trace, {effect}"])
            for effect in EFFECTS
        ),
        _rate("runner, both effects", threads, published, times["runner"]),
    ]


def _sides(plain: Any, lean: Any, read: Sequence[ReadQuestion]) -> dict[str, Callable[[], Any]]:
    sides: dict[str, Callable[[], Any]] = {"runner": partial(scored, lean, read)}
    for effect in EFFECTS:
        sides[f"published, {effect}"] = partial(published_sweep, plain, read, effect, adapt(lean).stop_ids())
        sides[f"trace, {effect}"] = partial(traced, lean, read, effect)
    return sides


def _rate(what: str, threads: int, base: list[Spent], mine: list[Spent]) -> Rate:
    wall = [theirs[0] / ours[0] for theirs, ours in zip(base, mine, strict=True)]
    cpu = [theirs[1] / ours[1] for theirs, ours in zip(base, mine, strict=True)]
    n_samples = BATCH * len(wall)
    published, ours = (n_samples / sum(one[0] for one in times) for times in (base, mine))
    return Rate(what, threads, published, ours, statistics.median(wall), min(wall), max(wall), statistics.median(cpu))


def _check_same(published: list[list[Answer]], found: xr.Dataset, effect: str) -> None:
    """Masks equal but for near-ties, greedy answers equal, at every alpha."""
    for index, alpha in enumerate(ALPHAS):
        one = found.isel(rule=index)
        void, valid, produced = one["void"].values == 1, one["valid"].values, one["next_token_id"].values
        for sample, (their_void, their_tokens) in enumerate(published[index]):
            where = f"{effect}, alpha {alpha:g}, sample {sample}"
            real = valid[sample]
            tokens = [int(i) for i in produced[sample][real] if i >= 0]
            if tokens != their_tokens:
                raise AssertionError(f"{where}: trace answered {tokens}, the published way {their_tokens}")
            delta, norm = (one[name].values[sample][:, real] for name in ("delta_norm", "resid_post_norm"))
            tie = np.abs(delta - lac_thresholds(delta, alpha)) / norm < NEAR_TIE
            differs = (void[sample][:, real] != their_void) & ~tie
            if differs.any():
                raise AssertionError(f"{where}: {int(differs.sum())} of {differs.size} mask entries differ")
