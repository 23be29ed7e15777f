"""Integrated gradients: their law of completeness, and a plain model's own gradients one point at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers import shared_model, unchanged
from plain_transformers import ATTENTION, entering, layers_of, whole_pass

from lacscope.model_measures import CSORDAS_GRADIENTS, integrated_gradients
from lacscope.plots import plot_integrated_gradients
from lacscope.testing import tiny_model, tiny_transformers_model

pytestmark = pytest.mark.once

ASKED, ANSWERS = [[5, 17, 60, 9, 33], [44, 3]], [[71, 8], [90, 12, 6]]


@contextmanager
def adding(model: Any, architecture: str, layer: int, unit: str, part: Any) -> Iterator[None]:
    """Layer ``layer``'s attention or MLP returns ``part``, or hands what it returns to it."""
    block = layers_of(model, architecture)[layer]
    module = block.mlp if unit == "mlp" else getattr(block, ATTENTION[architecture])

    def act(module: Any, args: Any, output: Any) -> Any:
        if callable(part):
            return part(output[0] if isinstance(output, tuple) else output)
        return (part.unsqueeze(0), *output[1:]) if isinstance(output, tuple) else part.unsqueeze(0)

    handle = module.register_forward_hook(act)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("unit", ["attn", "mlp"])
def test_what_a_sublayer_adds_equals_the_slow_direct_implementation(architecture: str, unit: Any) -> None:
    """The authors' three maps: of blocks, of attention, of MLPs; here the path of a sublayer's output alone."""
    found = integrated_gradients(shared_model(architecture), ASKED[0], ANSWERS[0], unit=unit, steps=3, batch_size=2)
    model, ids, n = tiny_transformers_model(architecture), ASKED[0] + ANSWERS[0], len(ASKED[0])
    assert found.attribution.dims == ("sample", "layer", "token")
    for layer in range(4):
        seen: list[torch.Tensor] = []
        with adding(model, architecture, layer, unit, lambda out, seen=seen: seen.append(out[0].detach())):
            model(torch.tensor([ids]), use_cache=False)
        end, start = seen[0], seen[0].mean(0)
        expected = torch.zeros(len(ids))
        for r in (0.0, 1 / 3, 2 / 3):
            between = (start + r * (end - start)).requires_grad_()
            with adding(model, architecture, layer, unit, between):
                logits = model(torch.tensor([ids]), use_cache=False).logits[0]
            target = sum(torch.softmax(logits[p], dim=-1)[ids[p + 1]] for p in range(n - 1, len(ids) - 1))
            (slope,) = torch.autograd.grad(target, between)
            expected += ((end - start) * slope).sum(-1) / 3
        np.testing.assert_allclose(found.attribution[0, layer], expected, rtol=1e-3, atol=1e-6)
    assert found.attrs["unit"] == unit
    assert plot_integrated_gradients(found).get_ylabel() == "layer"


def slow_gradients(architecture: str, prompt: list[int], answer: list[int], points: list[float]) -> np.ndarray:
    model = tiny_transformers_model(architecture)
    ids = prompt + answer
    streams, _ = whole_pass(model, architecture, ids)
    found = np.zeros((len(streams), len(ids)))
    for state, end in enumerate(streams):
        start = sum(end[t] for t in range(len(ids))) / len(ids)
        for r in points:
            between = (start + r * (end - start)).detach().requires_grad_()
            with entering(model, architecture, state, between):
                logits = model(torch.tensor([ids]), use_cache=False).logits[0]
            before = range(len(prompt) - 1, len(ids) - 1)
            target = sum(torch.softmax(logits[p], dim=-1)[ids[p + 1]] for p in before)
            (slope,) = torch.autograd.grad(target, between)
            for t in range(len(ids)):
                found[state, t] += float(((end[t] - start) * slope[t]).sum()) / len(points)
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(("rule", "points"), [("left", [0.0, 1 / 3, 2 / 3]), ("midpoint", [1 / 6, 1 / 2, 5 / 6])])
def test_equals_the_slow_direct_implementation(architecture: str, rule: Any, points: list[float]) -> None:
    found = integrated_gradients(shared_model(architecture), ASKED, ANSWERS, steps=3, points=rule, batch_size=2)
    for sample, (prompt, answer) in enumerate(zip(ASKED, ANSWERS, strict=True)):
        expected = slow_gradients(architecture, prompt, answer, points)
        rows = found.attribution[sample, :, : expected.shape[1]]
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-6)
    assert found.attribution[1, :, 5:].isnull().all()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_attributions_sum_to_the_change_of_the_target(architecture: str) -> None:
    model = shared_model(architecture)
    found = integrated_gradients(model, ASKED[:1], ANSWERS[:1])
    missing = abs(found.attribution.sum("token") - found.change)
    # Left Riemann sum: off by about half the difference of the slopes at both ends, over the steps.
    assert float(missing.max()) < 0.02 * float(abs(found.change).max())
    closer = integrated_gradients(model, ASKED[:1], ANSWERS[:1], steps=64, points="midpoint")
    assert float(abs(closer.attribution.sum("token") - closer.change).max()) < 0.1 * float(missing.max())
    xy = closer.change.values, found.change.values
    np.testing.assert_allclose(*xy, rtol=1e-5)


def test_the_change_is_of_the_answers_probability() -> None:
    model = tiny_transformers_model("llama")
    ids = ASKED[0] + ANSWERS[0]
    streams, probabilities = whole_pass(model, "llama", ids)
    full = sum(float(probabilities[p, ids[p + 1]]) for p in (4, 5))
    found = integrated_gradients(shared_model("llama"), ASKED[0], ANSWERS[0], steps=1).change[0]
    for state, stream in enumerate(streams):
        with entering(model, "llama", state, stream.mean(0).expand(len(ids), -1)):
            _, at_mean = whole_pass(model, "llama", ids)
        assert float(found[state]) == pytest.approx(full - sum(float(at_mean[p, ids[p + 1]]) for p in (4, 5)), abs=1e-6)


def test_only_what_predicts_the_answer_counts() -> None:
    found = integrated_gradients(shared_model("llama"), ASKED[0], ANSWERS[0], steps=4).attribution[0]
    assert (found[:, -1] == 0).all()
    assert (found[4, :4] == 0).all()
    assert (found[4, 4:6] != 0).all()
    assert (found[:4, :6] != 0).all()


def test_batch_size_changes_no_number() -> None:
    model = shared_model("llama")
    one, many = (integrated_gradients(model, ASKED, ANSWERS, steps=5, batch_size=n) for n in (1, 16))
    np.testing.assert_allclose(one.attribution, many.attribution, rtol=1e-3, atol=1e-6)


def test_weights_get_no_gradients_and_grad_mode_does_not_matter() -> None:
    model = tiny_model("llama")
    model(torch.tensor([[5]]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model):
        found = integrated_gradients(model, ASKED, ANSWERS, steps=2)
        with torch.no_grad():
            again = integrated_gradients(model, ASKED, ANSWERS, steps=2)
    np.testing.assert_array_equal(found.attribution, again.attribution)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_and_attributes() -> None:
    calls = []
    found = integrated_gradients(
        shared_model("llama"), ASKED, ANSWERS, steps=2, progress=lambda done, of: calls.append((done, of))
    )
    assert calls == [(done, 10) for done in range(1, 11)]
    assert found.attrs["preset"] == CSORDAS_GRADIENTS.name
    assert found.attrs["departures"] == "data not named (paper: the paper's two questions), steps = 2 (paper: 256)"
    assert found.attribution.attrs["units"] == found.change.attrs["units"] == "probability"
    assert all(isinstance(value, (str, int)) for value in found.attrs.values())


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_in_words() -> None:
    model = shared_model("llama")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        integrated_gradients(model, ASKED, ANSWERS, steps=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        integrated_gradients(model, ASKED, ANSWERS, batch_size=0)
    with pytest.raises(ValueError, match="unknown points 'right'; choose one of 'left', 'midpoint'"):
        integrated_gradients(model, ASKED, ANSWERS, points="right")
    with pytest.raises(ValueError, match="unit is one of 'block', 'attn', 'mlp', got 'head'"):
        integrated_gradients(model, ASKED, ANSWERS, unit="head")


def test_the_model_is_left_as_it_was_also_after_an_error() -> None:
    model = tiny_model("llama")

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    model(torch.tensor([[5]]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        integrated_gradients(model, ASKED, ANSWERS, steps=2, progress=stop)
