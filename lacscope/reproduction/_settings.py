"""What a reproduction runs, and the questions that it asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacscope.guards._arguments import (
    did_you_mean,
    flag,
    listed,
    one_of,
    whole_number,
    whole_number_or_none,
    whole_numbers,
)
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA
from lacscope.reproduction.sweep._parts import EFFECTS_SWEPT
from lacscope.reproduction.sweep._spec import ConditionEffect
from lacscope.tasks._base import Question, Row, Task, asked_with
from lacscope.tasks._data import read_rows
from lacscope.tasks._selection import choose
from lacscope.traces._lac import check_alphas
from lacscope.traces._options import check_sampling

STYLES = ("paper", "plain")


@dataclass(frozen=True)
class ReproductionSettings:
    """What a reproduction runs, whatever the model and the benchmark.

    Args:
        alphas: the alphas swept under ``observe`` and each of ``effects``, by log-probability.
        effects: some of ``"readout"`` and ``"bypass"``.
        style: the style of the prompts, ``"paper"`` or ``"plain"``; a task without it (LAMBADA, ARC) uses its first.
        shots: solved examples before each question.
        limit: the number of questions, a seeded sample (stratified by subject); None for all.
        seed: the seed of that sample, of shuffled options and of generation.
        generate_alphas: the alphas at which answers are also generated; empty for no generation at all.
        generate_limit: the number of questions that are; None for all.
        max_new_tokens: the most tokens of an answer.
        temperature, top_p: the sampling of generation; 0 is greedy.
        control_alphas: the alphas, for each effect, at which the controls run; empty for no controls.
        control_limit: the number of questions that the controls run on; None for all.
        control_seeds: the seeds of the random controls.
        batch_size, shard_size: the sizes in which the work is cut; both part of a run's id.
        keep_text: True to keep the generated texts, which may quote the benchmark's; a private task's are never kept.
        keep_traces: True to save the traces of all tokens too.
        chat_template_kwargs: options of the chat template, such as ``{"enable_thinking": False}``.

    Raises:
        ValueError: a setting that no run could have, when it is made.
    """

    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    effects: tuple[ConditionEffect, ...] = EFFECTS_SWEPT  # type: ignore[assignment]
    style: str = "paper"
    shots: int = 0
    limit: int | None = None
    seed: int = 0
    generate_alphas: tuple[float, ...] = (0.1, PRIMARY_ALPHA)
    generate_limit: int | None = None
    max_new_tokens: int = 51
    temperature: float = 0.0
    top_p: float = 1.0
    control_alphas: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {"readout": (PRIMARY_ALPHA,), "bypass": (0.1,)}
    )
    control_limit: int | None = None
    control_seeds: tuple[int, ...] = (0, 1)
    batch_size: int = 8
    shard_size: int = 32
    keep_text: bool = True
    keep_traces: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_sweep()
        self._check_counts()
        missing = [alpha for alphas in self.controls.values() for alpha in alphas if alpha not in self.alphas]
        if missing:
            raise ValueError(
                f"the controls at alpha {missing[0]:g} need the sweep's own run there: add it to alphas {self.alphas}."
            )

    def _check_sweep(self) -> None:
        for effect in listed("effects", self.effects, "effects"):
            if effect not in EFFECTS_SWEPT:
                raise ValueError(
                    f"unknown effect {effect!r} to reproduce; choose from {', '.join(EFFECTS_SWEPT)}."
                    f"{did_you_mean(effect, EFFECTS_SWEPT)}"
                )
        one_of("style", self.style, STYLES)
        self._keep("effects", tuple(self.effects))
        self._keep("alphas", tuple(check_alphas("alphas", self.alphas, least=1)))
        self._keep("generate_alphas", tuple(check_alphas("generate_alphas", self.generate_alphas)))
        if not isinstance(self.control_alphas, Mapping):
            raise ValueError(f"control_alphas must be {{effect: alphas}}, got {self.control_alphas!r:.80}.")
        controls = {}
        for effect, alphas in self.control_alphas.items():
            one_of("effect of control_alphas", effect, EFFECTS_SWEPT)
            controls[effect] = tuple(check_alphas(f"control_alphas[{effect!r}]", alphas))
        self._keep("control_alphas", controls)
        self._keep("control_seeds", tuple(whole_numbers("control_seeds", self.control_seeds, distinct=True)))

    def _check_counts(self) -> None:
        for name in ("limit", "generate_limit", "control_limit"):
            self._keep(name, whole_number_or_none(name, getattr(self, name), least=1))
        for name, least in (("shots", 0), ("seed", 0), ("max_new_tokens", 1), ("batch_size", 1), ("shard_size", 1)):
            self._keep(name, whole_number(name, getattr(self, name), least=least))
        check_sampling(self.temperature, self.top_p)
        for name in ("temperature", "top_p"):
            self._keep(name, float(getattr(self, name)))
        flag("keep_text", self.keep_text)
        flag("keep_traces", self.keep_traces)
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ValueError(f"chat_template_kwargs must be {{name: value}}, got {self.chat_template_kwargs!r:.80}.")

    def _keep(self, name: str, value: Any) -> None:
        """Kept as plain Python: numpy's arrays have no truth, and its numbers no JSON to make a run's id of."""
        object.__setattr__(self, name, value)

    @property
    def controls(self) -> dict[str, tuple[float, ...]]:
        """Where controls run, of the effects that are swept at all."""
        return {effect: alphas for effect, alphas in self.control_alphas.items() if effect in self.effects and alphas}


def load_questions(
    task: Task, settings: ReproductionSettings, data: Path | None = None, shots_data: Path | None = None
) -> list[Question]:
    """The benchmark's questions that these settings ask: the same for every model and condition.

    Args:
        data: a local JSONL, CSV or Parquet file; None reads what is packaged, else the hub.
        shots_data: the same for the solved examples.
    """
    rows = read_rows(task, data)
    shots = _first_of_each(read_rows(task, shots_data, shots=True), settings.shots, task) if settings.shots else []
    chosen = choose(rows, settings.limit, settings.seed, task.group_by)
    made = task.questions([rows[i] for i in chosen], style_of(task, settings), seed=settings.seed, shots=shots)
    return asked_with(made, settings.chat_template_kwargs)


def style_of(task: Task, settings: ReproductionSettings) -> str:
    """The style that the task's prompts really have: the settings', or its own where it has but one kind."""
    return settings.style if settings.style in task.styles else task.styles[0]


def _first_of_each(shots: Sequence[Row], n: int, task: Task) -> list[Row]:
    """The first ``n`` solved examples, of each group where the task has groups."""
    seen: Counter[Any] = Counter()
    kept = []
    for row in shots:
        group = row[task.group_by] if task.group_by else None
        seen[group] += 1
        if seen[group] <= n:
            kept.append(row)
    return kept
