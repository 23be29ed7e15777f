"""The paper's experiment on one model and one benchmark: its sweep, the controls it lacks, all shards kept."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacscope.models._facts import weights_digest
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.reproduction._settings import ReproductionSettings, style_of
from lacscope.reproduction.sweep._parts import controlled, swept
from lacscope.reproduction.sweep._processes import Processes
from lacscope.reproduction.sweep._runner import Advance, make_spec, run_shards
from lacscope.reproduction.sweep._spec import Condition, Scoring
from lacscope.reproduction.sweep._store import Store
from lacscope.tasks._base import Question, Task
from lacscope.tasks._selection import choose
from lacscope.traces._atomic import write_atomically
from lacscope.tracing._questions import ReadQuestion, check_context, read_questions

Step = Callable[[str], AbstractContextManager[Callable[[Advance], None]]]


@contextmanager
def _untold(what: str) -> Iterator[Callable[[Advance], None]]:
    yield lambda now: None


class IncompleteError(RuntimeError):
    """Shards of other processes are still missing; the same command goes on once they are there."""


def reproduce(
    model: Model,
    task: Task,
    questions: Sequence[Question],
    settings: ReproductionSettings,
    folder: Path,
    *,
    processes: Processes | None = None,
    step: Step = _untold,
) -> None:
    """Run the sweep, the generated answers and the controls of one model on one benchmark.

    Each part stands in a folder of its own, in shards, under ``folder/runs/<model>/<task>/`` (the task's name with a
    style that is not its first, and shots); ``parts.json`` there says which belong together. What is done is
    skipped. :func:`lacscope.write_reproduction` makes figures, table and report of all that a folder
    holds.

    Args:
        questions: the questions of :func:`load_questions`.
        processes: the processes that share the work; default: this process alone.
        step: a function that shows progress: called with a part's name, it gives a context that is entered for as long
            as the part runs, and what it yields is called with each
            :class:`~lacscope.reproduction.sweep._runner.Advance`. Default: shows none.

    Raises:
        IncompleteError: shards of an array's other jobs are still missing.
    """
    run = _Run(model, weights_digest(model), task, settings, Path(folder), processes or Processes(), step)
    read = read_questions(adapt(model), questions)
    check_context(adapt(model), read, settings.max_new_tokens if settings.generate_alphas else 0)
    choice = run.part("choice", read, "choice", swept(settings.alphas, settings.effects))
    parts = {"choice": choice}
    if settings.generate_alphas and "generated" in task.scorings:
        some = _some(read, settings.generate_limit, settings.seed)
        parts["generated"] = run.part(
            "generated",
            some,
            "generated",
            swept(settings.generate_alphas, settings.effects),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            phase_alphas=tuple(settings.generate_alphas),
        )
    run.wait_for(*parts.values())
    if settings.controls:
        matched = controlled(choice.read("scores"), choice.read("norms"), settings.controls, settings.control_seeds)
        parts["controls"] = run.part("controls", _some(read, settings.control_limit, settings.seed), "choice", matched)
        run.wait_for(parts["controls"])
    named = {name: store.folder.name for name, store in parts.items()}
    write_atomically(run.folder / "parts.json", (json.dumps(named, indent=1, sort_keys=True) + "\n").encode())


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(dict(options), sort_keys=True, default=str) if options else ""


def _some(read: Sequence[ReadQuestion], limit: int | None, seed: int) -> list[ReadQuestion]:
    """A seeded subset of the questions asked, in their order; smaller limits give subsets of larger ones."""
    by_sample = sorted(read, key=lambda one: one.question.sample)
    rows = [{"group": one.question.group} for one in by_sample]
    kept = {by_sample[i].question.sample for i in choose(rows, limit, seed, "group")}
    return [one for one in read if one.question.sample in kept]


@dataclass(frozen=True)
class _Run:
    model: Model
    weights: str
    task: Task
    settings: ReproductionSettings
    out: Path
    processes: Processes
    step: Step

    @property
    def folder(self) -> Path:
        style, shots = style_of(self.task, self.settings), self.settings.shots
        kind = ("" if style == self.task.styles[0] else f"-{style}") + (f"-{shots}-shot" if shots else "")
        return self.out / "runs" / adapt(self.model).name.replace("/", "--") / f"{self.task.name}{kind}"

    def part(
        self,
        name: str,
        read: Sequence[ReadQuestion],
        scoring: Scoring,
        conditions: Sequence[Condition],
        **generation: Any,
    ) -> Store:
        """Run this process's shards of one part."""
        settings = self.settings
        spec = make_spec(
            self.model,
            self.weights,
            self.task.name,
            style_of(self.task, settings),
            read,
            scoring,
            conditions,
            batch_size=settings.batch_size,
            shard_size=settings.shard_size,
            shots=settings.shots,
            data_seed=settings.seed,
            keep_text=settings.keep_text,
            chat_template_kwargs=_as_json(settings.chat_template_kwargs),
            **generation,
        )
        store = Store(self.folder / f"{name}-{spec.id}", spec)
        with self.step(f"{self.task.name}: {name}, {len(read)} samples x {len(conditions)} conditions") as progress:
            run_shards(
                self.model,
                self.task,
                read,
                store,
                share=self.processes.share,
                keep_traces=settings.keep_traces,
                progress=progress,
            )
        return store

    def wait_for(self, *stores: Store) -> None:
        """Return once every shard of these parts is there, whoever does it."""
        self.processes.wait()
        for store in stores:
            missing = store.spec.n_shards - len(store.done())
            if missing:
                raise IncompleteError(
                    f"{missing} of {store.spec.n_shards} shards of {store.folder} are still to be done by other jobs. "
                    "Run the same command again when they have finished: it goes on from there."
                )
