"""``evaluate``: lm-eval's tasks on a loaded model, with usage in the results."""

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
import numpy as np
import torch
from torch import Tensor

from lacscope.guards._temporary import Note, temporary
from lacscope.harness._choose import find_tasks
from lacscope.harness._model import LacscopeLM
from lacscope.models._model import Model
from lacscope.rules import Effect, HaltingRule


def evaluate(
    model: Model,
    tasks: str | Sequence[Any],
    *,
    rule: HaltingRule | None = None,
    effect: Effect = "observe",
    limit: int | float | None = None,
    batch_size: int = 1,
    include_path: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    log_samples: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run lm-eval tasks on a model under a rule and an effect.

    Args:
        model: a ``TransformerBridge``, from :func:`lacscope.load_model` or your own.
        tasks: names of tasks or groups, or task configurations as dicts.
        rule: the rule that decides the voids. None is the full model without a hook: lm-eval's own ``hf`` model.
        effect: ``"observe"`` (the full model's scores, with usage), ``"readout"`` or ``"bypass"``.
        limit: the first so many documents of each task (a share of them if below 1).
        batch_size: requests per batch.
        include_path: folder with task files of your own.
        tokenizer: default: the model's own as its folder or the hub has it, untouched by TransformerLens.
        log_samples: whether the results hold prompts and answers. Off: some benchmarks ask that their text
            is not spread.
        chat_template_kwargs: options of the chat template, such as ``{"enable_thinking": False}``; they go with
            ``apply_chat_template=True``.
        options: more arguments of ``lm_eval.simple_evaluate``, such as ``num_fewshot``, ``apply_chat_template``,
            ``gen_kwargs``. It seeds Python's, NumPy's and torch's generators; their state is put back afterwards.

    Returns:
        lm-eval's results, and under ``"lacscope"``: model, rule, effect, versions and, with a rule, ``"usage"`` by
        task and group: for each phase ``tokens``, ``usage``, ``usage_by_layer`` and ``exit_depth`` in
        [0, 1] (None where no token was read); and ``scored`` and ``early``: how many positions' logits were
        scored, and how many of those exit before the last block.

    Raises:
        ValueError: an effect that the rule cannot have, an unknown task, generation by beam search, options of a chat
            template that is not applied or has no such option.
        TypeError: a model that is not a ``TransformerBridge``.

    >>> results = evaluate(model, ["arc_easy"], rule=L2AdaptiveComputation(0.8), limit=50)  # doctest: +SKIP
    >>> results["lacscope"]["usage"]["arc_easy"]["usage"]["prefill"]  # doctest: +SKIP
    """
    if chat_template_kwargs and not options.get("apply_chat_template"):
        raise ValueError("chat_template_kwargs= are options of the chat template: pass apply_chat_template=True too.")
    with _random_state_put_back():
        manager, names = find_tasks([tasks] if isinstance(tasks, str) else tasks, include_path)
        template: dict[str, Any] = {"chat_template_args": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        lm = LacscopeLM(model, rule=rule, effect=effect, tokenizer=tokenizer, batch_size=batch_size, **template)
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=names,
            limit=limit,
            batch_size=batch_size,
            task_manager=manager,
            log_samples=log_samples,
            **options,
        )
    report = results["config"].pop("lacscope")
    if rule is not None:
        groups = results.get("group_subtasks", {})
        report["usage"] |= {name: lm.pooled(_leaves(name, groups)).report() for name in groups if groups[name]}
    return {**results, "lacscope": report}


def _leaves(name: str, groups: Mapping[str, Sequence[str]]) -> set[str]:
    members = groups.get(name)
    return {name} if not members else set().union(*(_leaves(member, groups) for member in members))


@temporary
def _random_state_put_back(note: Note) -> None:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    note("random state", _set_states, random, random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)  # noqa: NPY002


# No list is named in the signature: the tests' type checker draws from ``random`` to look into one.
def _set_states(_: Any, python: Any, numpy: Any, cpu: Tensor, cuda: Any) -> None:
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
