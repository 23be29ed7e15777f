"""CALM against a slow, direct implementation on a plain transformers model; and the head that it reads."""

import functools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask
from helpers import PROMPTS, layers_of, rows_of, shared_model
from torch import Tensor

from lacscope import UnsupportedModelError, halting, trace
from lacscope.models._checks import require_head
from lacscope.models.adapters import BridgeAdapter, adapt
from lacscope.rules import CALM, Scope
from lacscope.testing import ARCHITECTURES, tiny_model, tiny_transformers_model

BOTH = ["llama", "gpt_neox"]


class SlowCalm:
    """One prompt at a time: before each block a generated token's stream is unembedded; once it is sure, it stays."""

    def __init__(self, hf_model: Any, rule: CALM, effect: str) -> None:
        self.model, self.rule, self.effect = hf_model, rule, effect
        inner = hf_model.base_model
        self.norm = inner.norm if hasattr(inner, "norm") else inner.final_layer_norm
        self.head = hf_model.get_output_embeddings()
        self.step, self.void = -1, []
        self.exit: Tensor | None = None
        self.last: Tensor | None = None
        for index, block in enumerate(layers_of(hf_model)):
            block.forward = functools.partial(self._block, index, block.forward)
        self.depth = len(layers_of(hf_model))

    def _block(self, index: int, forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(hidden, *args, **kwargs)
        after = output[0] if isinstance(output, tuple) else output
        if self.step >= 0:
            if index == 0:
                self.exit = self.last = None
                self.void.append([])
            elif self.exit is None and self._sure(hidden[0, 0]):
                self.exit = hidden
            self.last = hidden[0, 0]
            self.void[-1].append(self.exit is not None)
            if self.exit is not None and (self.effect == "bypass" or index == self.depth - 1):
                after = self.exit
        return (after, *output[1:]) if isinstance(output, tuple) else after

    def _sure(self, hidden: Tensor) -> bool:
        if self.rule.confidence != "cosine":
            first, second = sorted(torch.softmax(self.head(self.norm(hidden)), -1).tolist())[:-3:-1]
            confidence = first - second if self.rule.confidence == "softmax" else first
        else:
            assert self.last is not None
            confidence = float(hidden @ self.last) / math.sqrt(float(hidden @ hidden) * float(self.last @ self.last))
        decay = math.exp(-self.rule.tau * self.step / self.rule.n_steps)
        if self.rule.schedule == "code":
            return confidence >= 9 * self.rule.threshold / 10 + self.rule.threshold * decay / 10
        decayed = 0.9 * self.rule.threshold + 0.1 * decay
        return confidence > min(max(decayed, 0.0), 1.0)

    def generate(self, prompt: list[int], max_new_tokens: int) -> list[int]:
        tokens: list[int] = []
        with torch.no_grad():
            output = self.model(torch.tensor([prompt]), use_cache=True)
            tokens.append(int(output.logits[0, -1].argmax()))
            for step in range(max_new_tokens - 1):
                self.step = step
                output = self.model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
                tokens.append(int(output.logits[0, -1].argmax()))
        return tokens


@pytest.mark.parametrize("effect", ["readout", "bypass"])
@pytest.mark.parametrize("confidence", ["softmax", "cosine"])
@pytest.mark.parametrize("architecture", BOTH)
def test_calm_equals_the_slow_direct_implementation(architecture: str, confidence: Any, effect: Any) -> None:
    # The margins of random weights are under 0.02: the threshold must decay to let anyone leave.
    rule = CALM(0.0 if confidence == "softmax" else 0.85, tau=4.0, n_steps=8, confidence=confidence)
    slow = SlowCalm(tiny_transformers_model(architecture), rule, effect)
    expected = slow.generate(PROMPTS[0], 12)
    found = trace(shared_model(architecture), [PROMPTS[0]], rule=rule, effect=effect, max_new_tokens=12).isel(sample=0)
    produced = found.next_token_id.values[len(PROMPTS[0]) - 1 :]
    assert produced.tolist() == expected[: len(produced)]
    void = np.array(slow.void)[: len(produced) - 1].T
    np.testing.assert_array_equal(found.void.values[:, len(PROMPTS[0]) :], void)
    assert not found.void.values[:, : len(PROMPTS[0])].any()
    assert void[:-1].any()
    assert not void[1:].all()


def test_the_published_codes_threshold_and_confidence() -> None:
    """t5x: 9 lambda / 10 + lambda exp(-tau i / N) / 10, met is enough, the likeliest token's probability."""
    paper, code = CALM(0.5, confidence="softmax_max"), CALM(0.5, schedule="code", confidence="softmax_max")
    start = torch.zeros(1)
    assert (paper.bar(start).item(), code.bar(start).item()) == (pytest.approx(0.55), pytest.approx(0.5))
    rule = CALM(0.03, n_steps=8, confidence="softmax_max", schedule="code")
    slow = SlowCalm(tiny_transformers_model("llama"), rule, "readout")
    expected = slow.generate(PROMPTS[0], 12)
    found = trace(shared_model("llama"), [PROMPTS[0]], rule=rule, effect="readout", max_new_tokens=12).isel(sample=0)
    produced = found.next_token_id.values[len(PROMPTS[0]) - 1 :]
    assert produced.tolist() == expected[: len(produced)]
    void = np.array(slow.void)[: len(produced) - 1].T
    np.testing.assert_array_equal(found.void.values[:, len(PROMPTS[0]) :], void)
    assert void.any()
    assert not void.all()


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule must be 'paper' or 'code', got 'mine'"):
        CALM(schedule="mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", BOTH)
def test_later_layers_are_given_the_exit_state(architecture: str) -> None:
    """With lambda 0 and the decay over, every generated token leaves before block 1, and its stream stays."""
    rule = CALM(0.0, tau=1e6, n_steps=1)
    found = trace(shared_model(architecture), [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=5).isel(sample=0)
    decode = found.isel(token=slice(len(PROMPTS[0]) + 1, None))
    assert decode.void.values[1:].all()
    assert not decode.void.values[0].any()
    assert (decode.resid_pre_norm.values[1:] == decode.resid_post_norm.values[0]).all()


@pytest.mark.parametrize("confidence", ["softmax", "cosine"])
def test_cached_decode_equals_reading_the_answer_again_and_batches_agree(confidence: Any) -> None:
    model, rule = (
        shared_model("llama"),
        CALM(0.0 if confidence == "softmax" else 0.85, n_steps=8, confidence=confidence),
    )
    batch = trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=12)
    assert (batch.void == 1).any()
    for sample, prompt in enumerate(PROMPTS):
        row = rows_of(batch, sample)
        with halting(model, rule, "bypass", prompt_lengths=[len(prompt)]) as recorder:
            model(torch.tensor([row.token_id.values.tolist()]))
        np.testing.assert_array_equal(row.void.values, recorder.trace.void.values[0])


def test_the_bar_falls_with_the_step() -> None:
    bar = CALM(0.8, tau=4.0, n_steps=10).bar(torch.tensor([0.0, 5.0, 10.0]))
    assert bar.tolist() == pytest.approx([0.82, 0.72 + 0.1 * math.exp(-2), 0.72 + 0.1 * math.exp(-4)], abs=1e-6)
    assert CALM(1.0, tau=0.0).bar(torch.tensor([3.0])).tolist() == [1.0]


def test_cosine_by_hand_and_a_scope_elsewhere() -> None:
    stream = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.1, 2.0], [-2.0, 0.0], [-2.0, 0.0]]).reshape(5, 1, 1, 2)
    rule = CALM(0.9, confidence="cosine", min_layer=1)
    # Block 0 turns by 90 degrees, block 1 hardly: out before block 2, and out for good.
    assert ask(rule, stream).flatten().int().tolist() == [0, 0, 1, 1]
    assert not ask(rule, stream, prompt=1).any()
    everywhere = CALM(0.9, confidence="cosine", scope=Scope(protect=[-1]))
    assert ask(everywhere, stream, prompt=1).flatten().int().tolist() == [0, 0, 1, 0]
    assert ask(CALM(0.9, confidence="cosine", min_layer=3), stream).flatten().int().tolist() == [0, 0, 0, 0]


def test_a_prompt_costs_no_head() -> None:
    asked = []

    def head(stream: Tensor) -> Tensor:
        asked.append(stream.shape)
        return torch.tensor([9.0, 0.0, 0.0]).expand(*stream.shape[:-1], 3)

    stream = torch.ones(4, 1, 100, 2)
    assert not ask(CALM(0.5), stream, prompt=100, head=head).any()
    assert asked == []
    assert ask(CALM(0.5), stream, prompt=30, head=head)[:, 0].any(1).tolist() == [False, True, True]
    assert asked == [(64, 2), (6, 2)] * 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threshold": 1.1}, "threshold (lambda) must be 0 to 1, got 1.1."),
        ({"tau": -1}, "tau must be a finite number >= 0, got -1."),
        ({"confidence": "entropy"}, "confidence must be one of 'softmax', 'softmax_max', 'cosine', got 'entropy'."),
        ({"min_layer": 0}, "min_layer must be at least 1, got 0."),
    ],
)
def test_options_that_are_none(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        CALM(**options)


# --- the head ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_head_on_the_last_stream_gives_the_models_logits(architecture: str) -> None:
    model = tiny_model(architecture, hooks="residual") if architecture == "mixtral" else shared_model(architecture)
    seen = []
    with torch.no_grad():
        logits = model.run_with_hooks(
            torch.tensor([PROMPTS[0]]), fwd_hooks=[("blocks.3.hook_resid_post", lambda x, hook: seen.append(x.clone()))]
        )
        require_head(model)
        found = adapt(model).logits_of(seen[0])
        part = adapt(model).logits_of(seen[0][0, 2:4])
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part, logits[0, 2:4], rtol=1e-4, atol=1e-4)


def test_the_head_fires_no_hook_and_leaves_those_there_are() -> None:
    model = tiny_model("llama")
    fired = []
    for name in ("ln_final.hook_normalized", "ln_final.hook_in", "unembed.hook_out"):
        model.add_hook(name, lambda x, hook: fired.append(hook.name))
    rule = CALM(0.0, tau=50.0, n_steps=1)
    with halting(model, rule, "bypass", prompt_lengths=[1]) as recorder, torch.no_grad():
        model(torch.tensor([PROMPTS[0]]))
    assert len(recorder.runs) == 1
    assert len(fired) == 3
    assert (recorder.trace.void == 1).any()


def test_a_head_that_raises_leaves_the_hooks() -> None:
    model = tiny_model("llama")
    model.add_hook("ln_final.hook_normalized", lambda x, hook: None)
    before = dict(model.ln_final.hook_normalized._forward_hooks)
    with pytest.raises(RuntimeError):
        adapt(model).logits_of(torch.ones(1, 2, 7))
    assert model.ln_final.hook_normalized._forward_hooks == before


def test_a_model_whose_head_is_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(BridgeAdapter, "_after_head", lambda self, logits: logits * 2)
    with pytest.raises(UnsupportedModelError, match="final norm and head on the stream that leaves the last block"):
        trace(model, [PROMPTS[0]], rule=CALM(0.5), effect="bypass", max_new_tokens=2)
    assert not trace(model, [PROMPTS[0]], rule=CALM(0.5, confidence="cosine")).void.any()
