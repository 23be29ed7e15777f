"""Greedy removal by task: a hand-made score, and a tiny model's answers written by plain generation with hooks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lacscope.model_measures._greedy import GREEDY_BY_TASK, greedy_by_task, remove_greedily, task_scorer
from lacscope.models.adapters import adapt
from lacscope.tasks._base import HubSource, Question, Row
from lacscope.tracing._questions import read_questions

pytestmark = pytest.mark.once


def test_by_hand() -> None:
    # Alone, 1 keeps most of task a and 3 of task b; together with 2, 1 is the better.
    table = {
        (): (0.8, 0.5),
        (1,): (0.8, 0.3),  # 1.0, 0.6: 0.8
        (2,): (0.6, 0.5),  # 0.75, 1.0: 0.875
        (3,): (0.2, 0.5),  # 0.25, 1.0: 0.625
        (1, 2): (0.6, 0.3),  # 0.75, 0.6: 0.675
        (2, 3): (0.2, 0.5),  # 0.25, 1.0: 0.625
    }
    asked = []

    def score(layers: tuple[int, ...]) -> dict[str, float]:
        asked.append(layers)
        return dict(zip("ab", table[layers], strict=True))

    found = remove_greedily(score, 4, remove=2)
    assert found["removed"].values.tolist() == [-1, 2, 1]
    np.testing.assert_allclose(found["kept"], [1.0, 0.875, 0.675])
    np.testing.assert_allclose(found["accuracy"], [table[()], table[2,], table[1, 2]])
    np.testing.assert_allclose(found["candidate_kept"].values[1], [np.nan, 0.8, 0.875, 0.625])
    np.testing.assert_allclose(found["candidate_kept"].values[2], [np.nan, 0.675, np.nan, 0.625])
    np.testing.assert_allclose(found["removed_at"], [np.nan, 2, 1, np.nan])
    assert found["importance"].values.tolist() == [3, 2, 1, 3]
    assert asked == [(), (1,), (2,), (3,), (1, 2), (2, 3)]
    assert found["task"].values.tolist() == ["a", "b"]


def test_of_equals_the_deeper_goes() -> None:
    assert remove_greedily(lambda gone: {"a": 0.5}, 5, remove=3)["removed"].values.tolist() == [-1, 4, 3, 2]


def test_it_is_the_best_single_removal_of_a_random_score() -> None:
    rng = np.random.default_rng(0)
    subsets = [c for n in range(3) for c in itertools.combinations(range(6), n)]
    table = {gone: {"a": float(rng.uniform(0.1, 1)), "b": float(rng.uniform(0.1, 1))} for gone in subsets}
    found = remove_greedily(table.__getitem__, 6, remove=2, protect=(0, -1))
    kept = {g: (s["a"] / table[()]["a"] + s["b"] / table[()]["b"]) / 2 for g, s in table.items()}
    first = max(range(1, 5), key=lambda layer: kept[layer,])
    second = max((i for i in range(1, 5) if i != first), key=lambda layer: kept[tuple(sorted([first, layer]))])
    assert found["removed"].values.tolist() == [-1, first, second]


def test_what_has_no_answer_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="accuracy of 0 on b: no share of it can be kept"):
        remove_greedily(lambda gone: {"a": 0.5, "b": 0.0}, 4, remove=1)
    with pytest.raises(ValueError, match="accuracy of 0 on no task at all"):
        remove_greedily(lambda gone: {}, 4, remove=1)
    with pytest.raises(ValueError, match=r"remove=4 of 4 layers, \[0\] of them protected: 3 can be removed"):
        remove_greedily(lambda gone: {"a": 0.5}, 4, remove=4)


@dataclass(frozen=True)
class Echo:
    """Right where the answer has the question's word in it."""

    name: str = "echo"
    private: bool = False
    chance: float | None = None
    styles: tuple[str, ...] = ("plain",)
    scorings: tuple[str, ...] = ("generated",)
    hub: HubSource | None = None
    licence: str = "none"
    source: str = "none"
    group_by: str | None = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        raise NotImplementedError

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        raise NotImplementedError

    def parse(self, text: str, question: Question) -> int | str | None:
        return text or None

    def right(self, parsed: int | str | None, question: Question) -> bool:
        return parsed is not None and question.answer in str(parsed).split()


def questions_of(words: list[str]) -> list[Question]:
    prompts = ("the river is", "a wood", "it is in the deep cold river", "is it deep")
    return [Question(i, "", p, False, (), -1, w) for i, (p, w) in enumerate(zip(prompts, words, strict=True))]


def slow_answer(model: Any, prompt: tuple[int, ...], layers: tuple[int, ...], n_tokens: int) -> list[int]:
    """Greedy, without a cache, each block undone by hooks of its own."""
    entered: dict[int, torch.Tensor] = {}
    hooks = []
    for layer in layers:

        def remember(activation: torch.Tensor, hook: Any, layer: int = layer) -> None:
            entered[layer] = activation

        def undo(activation: torch.Tensor, hook: Any, layer: int = layer) -> torch.Tensor:
            return entered[layer]

        hooks += [(f"blocks.{layer}.hook_resid_pre", remember), (f"blocks.{layer}.hook_resid_post", undo)]
    ids = list(prompt)
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks, return_type="logits")
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in adapt(model).stop_ids():
            break
    return ids[len(prompt) :]


def test_the_ready_score_is_that_of_plain_generation(tiny_with_tokenizer: Any) -> None:
    words = ["river", "deep", "cold", "it"]
    asked = questions_of(words)
    answers = {}
    for layers in ((), (1,), (2, 3)):
        for read in read_questions(adapt(tiny_with_tokenizer), asked):
            ids = slow_answer(tiny_with_tokenizer, read.prompt, layers, 6)
            answers[layers, read.question.sample] = tiny_with_tokenizer.tokenizer.decode(ids, skip_special_tokens=True)
    # Questions whose answers the full model has right, in part: else all scores would be 0.
    said = [answers[(), i].split() for i in range(4)]
    asked = questions_of([said[0][0] if said[0] else "x", said[1][-1] if said[1] else "x", "nothing", "nothing"])
    score = task_scorer(tiny_with_tokenizer, {Echo(): asked}, max_new_tokens=6, batch_size=3)
    for layers in ((), (1,), (2, 3)):
        expected = np.mean([one.answer in answers[layers, one.sample].split() for one in asked])
        assert score(layers) == {"echo": pytest.approx(expected)}
    assert score(())["echo"] > 0


def test_one_call_for_a_model_and_its_attributes(tiny_with_tokenizer: Any) -> None:
    @dataclass(frozen=True)
    class Always(Echo):
        name: str = "always"

        def right(self, parsed: int | str | None, question: Question) -> bool:
            return True

    asked = questions_of(["river", "deep", "cold", "it"])
    seen = []
    found = greedy_by_task(
        tiny_with_tokenizer, {Always(): asked}, remove=2, max_new_tokens=3, progress=lambda *at: seen.append(at)
    )
    assert found["removed"].values.tolist() == [-1, 3, 2]
    assert found["kept"].values.tolist() == [1.0, 1.0, 1.0]
    assert found.attrs["preset"] == GREEDY_BY_TASK.name
    assert found.attrs["data"] == "always"
    assert "remove = 2 (paper: 8)" in found.attrs["departures"]
    assert found.attrs["n_samples"] == 4
    assert seen[-1] == (5, 5)


def test_no_questions_are_refused_in_words(tiny_with_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="echo has no questions: give"):
        task_scorer(tiny_with_tokenizer, {Echo(): []})
    with pytest.raises(ValueError, match="no task has no questions"):
        task_scorer(tiny_with_tokenizer, {})
