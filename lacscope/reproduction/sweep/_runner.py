"""Runs a sweep shard by shard, skipping what is done; shares the shards among processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from lacscope.guards._withheld import fingerprint, without_text
from lacscope.models._facts import quantization
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.reproduction.sweep._scoring import score_shard
from lacscope.reproduction.sweep._spec import FULL, Condition, Scoring, SweepSpec
from lacscope.reproduction.sweep._store import Store
from lacscope.tasks._base import Task
from lacscope.trace_analyses._tokens import token_classes
from lacscope.traces._atomic import write_atomically
from lacscope.traces._provenance import installed_versions
from lacscope.traces._schema import save_trace
from lacscope.tracing._questions import ReadQuestion, digest


@dataclass(frozen=True)
class Share:
    """Which shards are this process's: every ``world``-th from ``rank`` on.

    A function of the shard's number alone, so that processes that start at different times leave none out.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"share {self.rank} of {self.world}: the shares are 0 to {self.world - 1}.")

    def has(self, shard: int) -> bool:
        return shard % self.world == self.rank


@dataclass(frozen=True)
class Advance:
    """How far a sweep is: samples of this process's share, counted by condition, and the accuracy so far."""

    done: float
    total: int
    fresh: float
    accuracy: float


Told = Callable[[Advance], None]


def make_spec(
    model: Model,
    weights: str,
    task: str,
    style: str,
    read: Sequence[ReadQuestion],
    scoring: Scoring,
    conditions: Sequence[Condition],
    **settings: Any,
) -> SweepSpec:
    """The specification of a sweep of these questions on this model.

    Args:
        weights: the digest of :func:`lacscope.models.weights_digest`.
        read: the questions as read by :func:`lacscope.tracing.read_questions`, whose order decides shards and batches.
        settings: further fields of :class:`~lacscope.reproduction.sweep._spec.SweepSpec`: batch_size, max_new_tokens,
            ...
    """
    adapter = adapt(model)
    return SweepSpec(
        model=adapter.name,
        weights=weights,
        dtype=str(adapter.dtype).removeprefix("torch."),
        device=adapter.device.type,
        task=task,
        style=style,
        inputs=digest(read),
        samples=tuple(one.question.sample for one in read),
        scoring=scoring,
        conditions=tuple(conditions),
        quantization=quantization(adapter),
        versions=tuple(sorted(installed_versions().items())),
        **settings,
    )


def run_shards(
    model: Model,
    task: Task,
    read: Sequence[ReadQuestion],
    store: Store,
    *,
    share: Share | None = None,
    keep_traces: bool = False,
    progress: Told | None = None,
) -> None:
    """Score the shards of this process's share that are not done yet.

    Killed at any moment, the same call goes on where it stopped: whole shards stay, one in flight is redone.

    Args:
        store: the store where the shards go; its specification must be of these very questions.
        share: default: all shards.
        keep_traces: True to save every trace under ``traces/``; a whole shard without its traces is done again. A
            private task's are saved without token ids and text, with a sha256 of the prompt instead, and so are all
            where the specification keeps no text.
        progress: a function that is called as each condition of each shard is done.
    """
    spec = store.spec
    if digest(read) != spec.inputs:
        raise ValueError("the questions are not those of the specification: their token ids differ.")
    mine = [index for index in range(spec.n_shards) if (share or Share()).has(index)]
    done = store.done()
    tracker = _Tracker(spec, mine, progress)
    for index in mine:
        part = [read[i] for i in spec.shard(index)]
        traced = store.folder / "traces" / f"shard-{index:05d}.done"
        if index in done and (traced.exists() or not keep_traces):
            tracker.skip(len(part))
            continue
        hidden = task.private or not spec.keep_text
        keep = _trace_writer(traced.with_suffix(""), part, hidden) if keep_traces else None
        tables = score_shard(model, task, part, spec, keep_trace=keep, tick=tracker.tick)
        if keep_traces:
            write_atomically(traced, b"")
        store.write(index, tables)


class _Tracker:
    def __init__(self, spec: SweepSpec, mine: Sequence[int], progress: Told | None) -> None:
        self.spec, self.progress = spec, progress
        self.total = sum(len(spec.shard(index)) for index in mine)
        self.done = self.fresh = 0.0
        self.right = self.answered = 0

    def skip(self, samples: int) -> None:
        self.done += samples
        self._tell()

    def tick(self, condition: Condition, frame: pd.DataFrame) -> None:
        if condition == FULL:
            self.right += int(frame["correct"].sum())
            self.answered += len(frame)
        self.done += len(frame) / len(self.spec.conditions)
        self.fresh += len(frame) / len(self.spec.conditions)
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            accuracy = self.right / self.answered if self.answered else float("nan")
            self.progress(Advance(self.done, self.total, self.fresh, accuracy))


def _trace_writer(shard: Path, part: Sequence[ReadQuestion], hidden: bool) -> Callable[[str, xr.Dataset], None]:
    shard.parent.mkdir(parents=True, exist_ok=True)

    def write(name: str, made: xr.Dataset) -> None:
        kept = made.drop_vars("logits", errors="ignore")
        save_trace(_without_text(kept, part) if hidden else kept, shard.with_name(f"{shard.name}.{name}.nc"))

    return write


def _without_text(made: xr.Dataset, part: Sequence[ReadQuestion]) -> xr.Dataset:
    """The trace without what was read and written; each row says which prompt by its sha256, each token its class."""
    by_prompt = {tuple(one.prompt): fingerprint(one.question.prompt) for one in part}
    ids, prefill = made["token_id"].values, (made["phase"] == "prefill").values
    digests = [by_prompt[tuple(int(i) for i in row[here])] for row, here in zip(ids, prefill, strict=True)]
    return without_text(made.assign(token_class=token_classes(made))).assign_coords(prompt_sha256=("sample", digests))
