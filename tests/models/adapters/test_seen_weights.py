"""A model's weights are known again while they stay as they are, and not once they have changed."""

import gc
import json
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from torch import nn

import lacscope
from lacscope.models import _facts, weights_digest
from lacscope.models.adapters._seen_weights import SeenWeights
from lacscope.testing import tiny_model


def block(model: Any, layer: int) -> nn.Module:
    return model.original_model.model.layers[layer]


def replaced(model: Any) -> None:
    model.original_model.model.norm.weight = nn.Parameter(torch.ones(16))


def in_place(model: Any) -> None:
    with torch.no_grad():
        next(block(model, 1).parameters())[0, 0] += 1


def through_data(model: Any) -> None:
    next(block(model, 1).parameters()).data[3] = 0


def module_put_in(model: Any) -> None:
    model.original_model.model.layers.append(nn.Linear(2, 2))


def buffer_put_in(model: Any) -> None:
    model.original_model.register_buffer("scale", torch.ones(3))


@pytest.mark.parametrize("change", [replaced, in_place, through_data, module_put_in, buffer_put_in])
def test_every_kind_of_change_is_told(change: Callable[[Any], None]) -> None:
    model = tiny_model()
    seen = SeenWeights(model.original_model)
    lacscope.trace(model, [[5, 17, 3]])
    assert seen.unchanged()
    change(model)
    assert not seen.unchanged()


def test_a_trace_and_a_measure_say_which_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_model(), []
    whole = _facts._sha256
    monkeypatch.setattr(_facts, "_sha256", lambda model: calls.append(model) or whole(model))
    first = lacscope.trace(model, [[5, 17, 3]])
    results = [
        first, lacscope.layer_usage(first, lacscope.voids(first, 0.8)), lacscope.voids(first, 0.8),
        lacscope.norm_profile(first), lacscope.block_influence(model, [[5, 17, 3]]),
    ]  # fmt: skip
    assert len(calls) == 1, "the weights are hashed once"
    assert {one.attrs["weights"] for one in results} == {whole(model)}
    in_place(model)
    assert lacscope.trace(model, [[5, 17, 3]]).attrs["weights"] == whole(model) != first.attrs["weights"]


@pytest.mark.once
def test_what_no_weight_shows_is_not_remembered() -> None:
    model = tiny_model()
    first = lacscope.trace(model, [[5, 17, 3]])
    model.original_model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert lacscope.trace(model, [[5, 17, 3]]).attrs["weights"] == weights_digest(model) != first.attrs["weights"]
    model.enable_compatibility_mode(no_processing=True)
    assert (first.attrs["weight_processing"], _facts.model_attrs(model)["weight_processing"]) == ("none", "folded")


def test_large_weights_are_hashed_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_facts, "_HASHED_AT_ONCE", 1000)
    model = tiny_model()
    assert lacscope.trace(model, [[5, 17, 3]]).attrs["weights"].startswith("not hashed: larger than 2 GB; call ")
    digest = weights_digest(model)
    assert lacscope.trace(model, [[5, 17, 3]]).attrs["weights"] == digest


def test_a_model_that_nobody_holds_is_let_go() -> None:
    model = tiny_model()
    lacscope.trace(model, [[5, 17, 3]])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.clock
def test_results_say_when_they_were_made() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    found = lacscope.trace(tiny_model(), [[5, 17, 3]])
    for result in (found, lacscope.norm_profile(found), lacscope.block_influence(tiny_model(), [[5, 17, 3]])):
        assert before <= datetime.fromisoformat(result.attrs["time"]) <= datetime.now(UTC)
        assert set(json.loads(result.attrs["versions"])) == {"lacscope", "torch", "transformers", "transformer-lens"}
