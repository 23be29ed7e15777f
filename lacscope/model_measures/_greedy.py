"""Greedy removal by task: the block goes without which the model keeps most of its accuracy on what it writes.

Source: "On the Limits of Layer Pruning for Generative Reasoning in LLMs", arXiv 2602.01997, and the authors'
``layer_pruner/script.py``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import xarray as xr

from lacscope.guards._arguments import whole_number
from lacscope.model_measures._importance_results import ORIENTATION
from lacscope.model_measures._sleb import importance_of, removable
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.rules import FixedLayers
from lacscope.tasks._base import Question, Task
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.tracing._questions import read_answers, read_questions
from lacscope.tracing._run import trace

Score = Callable[[tuple[int, ...]], Mapping[str, float]]

GREEDY_BY_TASK = Preset(
    "shrestha_2026/greedy_by_task",
    "On the Limits of Layer Pruning, arXiv 2602.01997, layer_pruner/script.py",
    {"data": "GSM8K, HumanEval, XSum", "remove": 8, "protect": (0,), "samples": 100},
    read_in="code",
)


def greedy_by_task(
    model: Model,
    questions: Mapping[Task, Sequence[Question]],
    *,
    remove: int = 8,
    protect: Collection[int] = (0,),
    max_new_tokens: int = 256,
    batch_size: int = 8,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Blocks in the order in which they are best removed for tasks that are answered in writing.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer`` with a tokenizer.
        questions: each task with its questions.
        remove: the number of layers to remove.
        protect: layers that are never removed; the authors keep the first.
        max_new_tokens: length of an answer at most.
        batch_size: questions of a forward pass.
        data: the name of the questions; default: the tasks' names.
        progress: a function that is called with (removals tried, removals to try), each over all questions.

    Returns:
        What :func:`remove_greedily` does, with the attributes of the model. ``n_samples`` is that of the task with
        the most questions.

    Drawn by :func:`lacscope.plots.plot_greedy`.

    Raises:
        ValueError: no questions, a bad ``remove`` or ``protect``, or a task on which the full model has nothing right.

    >>> greedy_by_task(model, {Gsm8k(): questions}, remove=3)["removed"]  # doctest: +SKIP
    """
    whole_number("max_new_tokens", max_new_tokens, least=1)
    whole_number("batch_size", batch_size, least=1)
    adapter = check_blocks(model)
    score = task_scorer(model, questions, max_new_tokens=max_new_tokens, batch_size=batch_size)
    ds = remove_greedily(score, adapter.n_layers, remove=remove, protect=protect, progress=progress)
    ds.attrs |= result_attrs(
        "greedy_by_task",
        model_attrs(adapter),
        preset=GREEDY_BY_TASK,
        settings={"remove": remove, "protect": tuple(protect), "max_new_tokens": max_new_tokens},
        positions="bypassed at all tokens",
        aggregation="mean over tasks of accuracy / accuracy of the full model",
        n_samples=max(len(some) for some in questions.values()),
        data=data or ", ".join(task.name for task in questions),
    )
    return ds


def remove_greedily(
    score: Score,
    n_layers: int,
    *,
    remove: int,
    protect: Collection[int] = (0,),
    progress: Progress | None = None,
) -> xr.Dataset:
    """Remove layers one by one, each time the one that leaves the highest mean share of the full model's accuracies.

    Of equals the deeper goes, as in the authors' code.

    Args:
        score: accuracy in [0, 1] of each task, given the layers that are removed, in rising order; ``()`` is the
            full model.
        n_layers: the number of layers of the model.
        remove: the number of layers to remove.
        protect: layers that are never removed.
        progress: a function that is called with (removals tried, removals to try).

    Returns:
        Dataset over ``step`` = 0 (the full model) .. remove: ``removed`` (the layer that goes at this step; -1 at 0),
        ``kept`` (mean over tasks of accuracy / full accuracy); over (step, task) ``accuracy``; over (step, layer)
        ``candidate_kept`` (if that layer went at this step; NaN where it could not); over layer ``removed_at`` (NaN for
        those that stay) and ``importance``, the same with the next step for those that stay, larger = more important.

    Raises:
        ValueError: a bad ``remove`` or ``protect``, or a task on which the full model has nothing right, so that no
            share of it can be kept.

    >>> worth = [9, 3, 1, 2]
    >>> found = remove_greedily(lambda gone: {"sum": 1 - sum(worth[i] for i in gone) / 15}, 4, remove=2)
    >>> found["removed"].values
    array([-1,  2,  3])
    """
    candidates = removable(n_layers, protect, remove)
    full = dict(score(()))
    nothing = [task for task, accuracy in full.items() if not accuracy > 0]
    if nothing or not full:
        raise ValueError(
            f"the full model has an accuracy of 0 on {', '.join(nothing) or 'no task at all'}: no share of it can be "
            "kept. Leave that task out, or give more questions."
        )
    accuracy = [full]
    tried = np.full((remove + 1, n_layers), np.nan)
    removed: list[int] = []
    done, to_do = 0, sum(len(candidates) - step for step in range(remove))
    for step in range(1, remove + 1):
        found = {}
        for layer in candidates:
            if layer not in removed:
                found[layer] = dict(score(tuple(sorted([*removed, layer]))))
                tried[step, layer] = np.mean([found[layer][task] / full[task] for task in full])
                done += 1
                if progress is not None:
                    progress(done, to_do)
        best = max(found, key=lambda layer: (tried[step, layer], layer))
        removed.append(best)
        accuracy.append(found[best])
    removed_at = np.full(n_layers, np.nan)
    removed_at[removed] = np.arange(1, remove + 1)
    kept = [1.0, *(tried[step, layer] for step, layer in enumerate(removed, 1))]
    by_task = np.array([[one[task] for task in full] for one in accuracy], dtype=np.float64)
    return xr.Dataset(
        {
            "removed": ("step", [-1, *removed], {"long_name": "layer removed", "units": "layer"}),
            "kept": ("step", kept, {"long_name": "share of the full model's accuracy, mean over tasks", "units": "1"}),
            "accuracy": (("step", "task"), by_task, {"long_name": "accuracy", "units": "1"}),
            "candidate_kept": (("step", "layer"), tried, {"long_name": "share kept without", "units": "1"}),
            "removed_at": ("layer", removed_at, {"long_name": "step at which the layer is removed", "units": "step"}),
            "importance": ("layer", importance_of(removed_at), {"long_name": "order of removal", "units": "step"}),
        },
        {"step": np.arange(remove + 1), "layer": np.arange(n_layers), "task": list(full)},
        {"importance": "importance", "orientation": ORIENTATION},
    )


def task_scorer(
    model: Model, questions: Mapping[Task, Sequence[Question]], *, max_new_tokens: int = 256, batch_size: int = 8
) -> Score:
    """The function that :func:`remove_greedily` asks: answers are written greedily and parsed by their task.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer`` with a tokenizer.
        questions: each task with its questions.
        max_new_tokens: length of an answer at most.
        batch_size: questions of a forward pass.

    Returns:
        ``score(layers)``: with these layers bypassed for every token, each task's accuracy by its name.

    Raises:
        ValueError: a task without questions, or no task.

    >>> task_scorer(model, {Gsm8k(): questions})((20, 21))  # doctest: +SKIP
    {'gsm8k': 0.05}
    """
    adapter = check_blocks(model)
    empty = [task.name for task, some in questions.items() if not some]
    if empty or not questions:
        raise ValueError(f"{', '.join(empty) or 'no task'} has no questions: give {{task: [question, ...]}}.")
    read = {task: read_questions(adapter, some) for task, some in questions.items()}

    def score(layers: tuple[int, ...]) -> dict[str, float]:
        rule = FixedLayers(layers) if layers else None
        found = {}
        for task, asked in read.items():
            made = trace(
                model,
                [list(one.prompt) for one in asked],
                rule=rule,
                effect="bypass" if layers else "observe",
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
            )
            produced = [[int(token) for token in row if token >= 0] for row in made["next_token_id"].values]
            written = read_answers(adapter.tokenizer, asked, produced)
            answers = [task.parse(answer.whole, one.question) for answer, one in zip(written, asked, strict=True)]
            found[task.name] = float(np.mean([task.right(a, r.question) for a, r in zip(answers, asked, strict=True)]))
        return found

    return score


GREEDY = Measure(
    greedy_by_task,
    "greedy by task",
    "layers removed one after the other, least loss of accuracy first",
    plot="plot_greedy",
    needs="questions",
    papers=(GREEDY_BY_TASK,),
    group="importance",
)
