"""Tasks answered under the painters' plans, against models rebuilt with other lists of layers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lacscope.model_measures._choices import score_choices
from lacscope.model_measures._painters import Variant, score_variants, variants
from lacscope.plans import Plan, plan
from lacscope.tasks._base import Question
from lacscope.trace_analyses._painters import painters_curves

PROMPTS = ("the river rises in a wood", "is it deep", "a cold river rises")


def questions(n: int = 3) -> list[Question]:
    return [Question(i, "", prompt, False, ("deep", "cold"), 0, "deep") for i, prompt in enumerate(PROMPTS[:n])]


def test_every_kind_has_the_papers_starts() -> None:
    asked = variants(8, seeds=(0, 1))
    assert asked[0] == Variant("full", -1)
    assert [v.start for v in asked if v.kind == "reverse"] == [0, 1, 2, 3]
    assert [(v.start, v.seed) for v in asked if v.kind == "random"][:3] == [(0, 0), (0, 1), (1, 0)]
    assert [v.start for v in variants(4, ["swap"])][1:] == [0, 1, 2]
    assert [v.start for v in variants(4, ["skip_one"])][1:] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="unknown kind 'sideways'; choose from skip, middle_repeat"):
        variants(8, ["sideways"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_layers": True}, "n_layers must be a whole number, at least 1, got True."),
        ({"kinds": "skip"}, "kinds must be a list of kinds, got 'skip'."),
        ({"starts": 1}, "starts must be a list of whole numbers, got 1."),
        ({"starts": [0.5]}, r"starts\[0\] must be a whole number, 0 or more, got 0.5."),
        ({"starts": [1, 1]}, "starts must differ from one another, got 1 twice."),
        ({"starts": [4]}, "starts has 4: of 'skip' they are 0 to 3 in 8 layers."),
        ({"seeds": [True]}, r"seeds\[0\] must be a whole number, 0 or more, got True."),
        ({"seeds": [-1]}, r"seeds\[0\] must be 0 or more, got -1."),
        ({"seeds": []}, "seeds is empty: kind 'random' is drawn once for each"),
        ({"times": 1.5}, "times must be a whole number, at least 1, got 1.5."),
    ],
)
def test_variants_that_there_are_not_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        variants(**{"n_layers": 8, **options})


@pytest.mark.parametrize(("kind", "order"), [("skip", [0, 3]), ("skip_one", [0, 2, 3]), ("swap", [0, 2, 1, 3])])
def test_scores_are_those_of_a_model_rebuilt_so(tiny_with_tokenizer: Any, kind: str, order: list[int]) -> None:
    variant = Variant(kind, 1) if kind != "skip" else Variant("skip", 0)
    order = [0] if kind == "skip" else order
    (found,) = score_variants(tiny_with_tokenizer, {"toy": questions()}, [variant])
    inner = tiny_with_tokenizer.original_model.model
    whole, n = inner.layers, inner.config.num_hidden_layers
    try:
        inner.layers = torch.nn.ModuleList([whole[i] for i in order])
        inner.config.num_hidden_layers = len(order)
        expected = score_choices(tiny_with_tokenizer, questions())
    finally:
        inner.layers, inner.config.num_hidden_layers = whole, n
    np.testing.assert_allclose(found["target_logp"], expected["target_logp"], atol=1e-5)
    assert found["score"].tolist() == expected["correct"].astype(float).tolist()


def test_tables_make_curves_and_the_full_model_is_one(tiny_with_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    tables = score_variants(
        tiny_with_tokenizer,
        {"toy": questions()},
        variants(4, ["skip", "random"], seeds=(0, 1)),
        score={"toy": "token_accuracy"},
        progress=lambda done, n: seen.append((done, n)),
    )
    scores = pd.concat(tables)
    assert seen[-1] == (7, 7)
    assert set(scores["kind"]) == {"full", "skip", "random"}
    with plan(tiny_with_tokenizer, Plan.painters(4, "skip", 1)):
        own = score_choices(tiny_with_tokenizer, questions())
    mine = scores[(scores["kind"] == "skip") & (scores["start"] == 1)]
    assert mine["score"].tolist() == own["token_accuracy"].tolist()
    curves = painters_curves(scores.assign(score=1.0), {"toy": 0.5})
    assert np.allclose(curves["median"], 1.0)
    twice = pd.concat([scores, scores[scores["kind"] == "full"]]).assign(score=1.0)
    assert painters_curves(twice, {"toy": 0.5}).equals(curves)


def test_the_plan_is_closed_between_tables_and_after_an_error(tiny_with_tokenizer: Any) -> None:
    before = score_choices(tiny_with_tokenizer, questions())
    tables = score_variants(tiny_with_tokenizer, {"toy": questions()}, [Variant("reverse", 0)])
    next(tables)
    pd.testing.assert_frame_equal(score_choices(tiny_with_tokenizer, questions()), before)
    bare = [Question(0, "", "is it", False, (), -1, "")]
    with pytest.raises(ValueError, match="no choices"):
        list(score_variants(tiny_with_tokenizer, {"toy": bare}, [Variant("reverse", 0)]))
    pd.testing.assert_frame_equal(score_choices(tiny_with_tokenizer, questions()), before)


def test_an_unknown_score_is_refused_at_once(tiny_with_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="unknown score 'bleu'; choose one of 'correct', 'token_accuracy'"):
        score_variants(tiny_with_tokenizer, {"toy": questions()}, [], score={"toy": "bleu"})


@pytest.mark.usefixtures("unchecked")
def test_a_variant_that_cannot_be_is_refused_when_it_is_made() -> None:
    for changes, message in (
        ({"kind": "skipp"}, "unknown kind 'skipp'"),
        ({"start": 1.5}, "start must be a whole number"),
        ({"seed": -2}, "seed must be at least -1, got -2"),
        ({"times": 0}, "times must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Variant(**{"kind": "skip", "start": 0, **changes})
