"""Tasks answered with the middle layers skipped, repeated, reordered or averaged.

Source: "Transformer Layers as Painters", Sun et al. 2024 (arXiv 2407.09298). The tables made here are read by
:func:`lacscope.trace_analyses.painters_curves`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import pandas as pd

from lacscope.guards._arguments import ANY, listed, one_of, whole_number, whole_numbers
from lacscope.model_measures._choices import score_choices
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.plans import Plan
from lacscope.plans import plan as running
from lacscope.plans._plan import Kind
from lacscope.tasks._base import Question
from lacscope.trace_analyses._painters import FULL_MODEL
from lacscope.traces._provenance import Preset, Progress

VARIANT_KINDS: tuple[str, ...] = get_args(Kind)
SINGLE = ("skip_one", "swap")
SCORES = ("correct", "token_accuracy")

SUN_CURVES = Preset(
    "sun_2024/curves",
    "Transformer Layers as Painters, arXiv 2407.09298, figure 2 and section 4",
    {"kinds": list(VARIANT_KINDS), "times": 3, "data": "LAMBADA, ARC, HellaSwag, WinoGrande, GSM8K"},
    read_in="paper",
)


@dataclass(frozen=True)
class Variant:
    """One way to run the layers. ``start`` is the paper's s; of ``"skip_one"`` and ``"swap"`` it is the layer.

    Raises:
        ValueError: an unknown kind, or a number that is none.
    """

    kind: str
    start: int
    seed: int = -1
    times: int = 3

    def __post_init__(self) -> None:
        one_of("kind", self.kind, (FULL_MODEL, *VARIANT_KINDS, *SINGLE))
        whole_number("start", self.start, least=ANY)
        whole_number("seed", self.seed, least=-1)
        whole_number("times", self.times, least=1)

    def plan(self, n_layers: int) -> Plan:
        """The plan for a model of so many layers."""
        if self.kind == FULL_MODEL:
            return Plan.full(n_layers)
        if self.kind == "skip_one":
            return Plan.skip(n_layers, [self.start])
        if self.kind == "swap":
            return Plan.swap(n_layers, self.start)
        seed = self.seed if self.seed >= 0 else None
        return Plan.painters(n_layers, self.kind, self.start, seed=seed, times=self.times)  # type: ignore[arg-type]


def variants(
    n_layers: int,
    kinds: Sequence[str] = VARIANT_KINDS,
    starts: Iterable[int] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    times: int = 3,
) -> list[Variant]:
    """The full model and every kind at every start; ``"random"`` once a seed.

    Args:
        n_layers: the number of layers of the model.
        kinds: some of ``VARIANT_KINDS``, and of ``"skip_one"`` and ``"swap"``, whose starts are layers.
        starts: the starts; by default all that there are: 0 .. (L-2)/2, or every layer for the single kinds.
        seeds: the seeds of ``"random"``.
        times: the number of repeats in ``"looped_parallel"``.

    Raises:
        ValueError: an unknown kind, a start that there is not, or one given twice, or counts that are none.

    >>> [v.start for v in variants(8, ["skip"])]
    [-1, 0, 1, 2, 3]
    """
    whole_number("n_layers", n_layers, least=1)
    whole_number("times", times, least=1)
    seeds = whole_numbers("seeds", seeds, distinct=True)
    kinds = listed("kinds", kinds, "kinds")
    unknown = [kind for kind in kinds if kind not in (*VARIANT_KINDS, *SINGLE)]
    if unknown:
        raise ValueError(f"unknown kind {unknown[0]!r}; choose from {', '.join((*VARIANT_KINDS, *SINGLE))}.")
    if "random" in kinds and not seeds:
        raise ValueError("seeds is empty: kind 'random' is drawn once for each, so give at least one, such as 0.")
    asked = None if starts is None else whole_numbers("starts", starts, distinct=True)
    found = [Variant(FULL_MODEL, -1)]
    for kind in kinds:
        last = {"skip_one": n_layers - 1, "swap": n_layers - 2}.get(kind, (n_layers - 2) // 2)
        outside = [start for start in asked or () if start > last]
        if outside:
            raise ValueError(f"starts has {outside[0]}: of {kind!r} they are 0 to {last} in {n_layers} layers.")
        for start in range(last + 1) if asked is None else asked:
            drawn = seeds if kind == "random" else (-1,)
            found += [Variant(kind, start, seed, times) for seed in drawn]
    return found


def score_variants(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    asked: Sequence[Variant],
    *,
    score: Mapping[str, str] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Iterator[pd.DataFrame]:
    """Answer every task's questions under every variant: one table a variant, as it is done.

    Args:
        model: a ``TransformerBridge``, or a ``HookedTransformer``; as it was before after each table.
        questions: the questions by task, each with choices.
        asked: the variants of :func:`variants`.
        score: the score by task: the column of :func:`lacscope.model_measures.score_choices` that counts:
            ``"correct"`` (default) or ``"token_accuracy"`` (share of the gold answer's tokens that are the likeliest,
            teacher-forced).
        batch_size: rows of a forward pass.
        progress: a function that is called with (variants done, variants).

    Yields:
        Columns ``task, kind, start, seed, times, sample, score``, and ``target_logp`` (nats) with ``target_tokens``.

    Raises:
        ValueError: an unknown score.

    >>> tables = score_variants(model, {"lambada": questions}, variants(30, ["reverse"]))  # doctest: +SKIP
    >>> curves = painters_curves(pd.concat(tables), {"lambada": 0.0})  # doctest: +SKIP
    """
    columns = {task: (score or {}).get(task, "correct") for task in questions}
    unknown = [name for name in columns.values() if name not in SCORES]
    if unknown:
        raise ValueError(f"unknown score {unknown[0]!r}; choose one of {', '.join(map(repr, SCORES))}.")
    return _tables(model, questions, asked, columns, batch_size, progress)


def _tables(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    asked: Sequence[Variant],
    columns: Mapping[str, str],
    batch_size: int,
    progress: Progress | None,
) -> Iterator[pd.DataFrame]:
    n_layers = adapt(model).n_layers
    for done, variant in enumerate(asked, start=1):
        tables = []
        # Closed before each table is handed out: the caller's code must not run inside the plan.
        with running(model, variant.plan(n_layers)):
            for task, of_task in questions.items():
                found = score_choices(model, of_task, batch_size=batch_size)
                found = found.assign(task=task, **asdict(variant))
                tables.append(found.assign(score=found[columns[task]].astype(float)))
        if progress is not None:
            progress(done, len(asked))
        kept = ["task", "kind", "start", "seed", "times", "sample", "score", "target_logp", "target_tokens"]
        table = pd.concat(tables, ignore_index=True)[kept]
        table.attrs = {**found.attrs, "measure": "score_variants", "n_samples": sum(map(len, questions.values()))}
        yield table
