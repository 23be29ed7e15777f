"""Causal ablation against plain models with a block deleted, a bypass under trace, and cases with a known answer."""

from typing import Any

import numpy as np
import pytest
import torch
from deleted_layers import amplify, logits_of, mean_kl, mean_loss, plain, silence, without

import lacscope
from lacscope.model_measures._ablation import causal_ablation
from lacscope.model_measures._ablation_accuracy import ablation_accuracy
from lacscope.model_measures._choices import score_choices
from lacscope.models.adapters import adapt, build_bridge
from lacscope.rules import GivenVoids
from lacscope.tasks._base import Question
from lacscope.testing import tiny_model
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once

PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [11, 4, 70, 2, 33]]
ANSWERS = [[20, 21, 7], [90, 6]]
# The second reads its streams the same way: with the slow tests.
ARCHITECTURES = ("llama", pytest.param("gpt_neox", marks=pytest.mark.slow))


def bridge(hf_model: Any) -> Any:
    return build_bridge(hf_model, None, name="tiny", residual_only=False)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return tiny_model(request.param), plain(request.param)


def test_equals_models_with_the_layer_deleted(both: tuple[Any, Any]) -> None:
    model, hf_model = both
    found = causal_ablation(model, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        full = logits_of(hf_model, prompt)
        assert found["full_loss"].values[i] == pytest.approx(mean_loss(full, prompt), rel=1e-5)
        for layer in range(4):
            cut = logits_of(without(hf_model, [layer]), prompt)
            change = mean_loss(cut, prompt) - mean_loss(full, prompt)
            assert found["loss"].values[i, layer] == pytest.approx(change, abs=1e-4)
            assert found["kl"].values[i, layer] == pytest.approx(mean_kl(full, cut), rel=1e-3, abs=1e-5)
    assert found["n_tokens"].values.tolist() == [6, 4]


def test_given_responses_are_all_that_is_scored(both: tuple[Any, Any]) -> None:
    model, hf_model = both
    found = causal_ablation(model, PROMPTS, responses=ANSWERS)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        whole, first = prompt + answer, len(prompt) - 1
        full, cut = logits_of(hf_model, whole), logits_of(without(hf_model, [2]), whole)
        change = mean_loss(cut, whole, first) - mean_loss(full, whole, first)
        assert found["loss"].values[i, 2] == pytest.approx(change, abs=1e-4)
        assert found["kl"].values[i, 2] == pytest.approx(mean_kl(full, cut, first), rel=1e-3, abs=1e-5)
    assert found["n_tokens"].values.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("asked", "bypassed"),
    [
        ({"phase": "prefill"}, lambda position, n_prompt: position < n_prompt),
        ({"phase": "decode"}, lambda position, n_prompt: position >= n_prompt),
        ({"window": (1, 4)}, lambda position, n_prompt: (position >= 1) & (position < 4)),
        ({"window": (3, 99)}, lambda position, n_prompt: position >= 3),
    ],
    ids=["prefill", "decode", "window", "window to the end"],
)
def test_phase_and_window_equal_a_traced_bypass(both: tuple[Any, Any], asked: Any, bypassed: Any) -> None:
    model, _ = both
    found = causal_ablation(model, PROMPTS, responses=ANSWERS, **asked)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        whole, first = prompt + answer, len(prompt) - 1
        for layer in range(4):
            mask = np.zeros((4, len(whole)), dtype=bool)
            mask[layer] = bypassed(np.arange(len(whole)), len(prompt))
            traced = [
                lacscope.trace(model, [prompt], responses=[answer], logits="all", rule=rule, effect=effect)
                for rule, effect in ((None, "observe"), (GivenVoids({0: mask}), "bypass"))
            ]
            full, other = (torch.tensor(one["logits"].values[0]).double() for one in traced)
            change = mean_loss(other, whole, first) - mean_loss(full, whole, first)
            assert found["loss"].values[i, layer] == pytest.approx(change, abs=1e-4)
            assert found["kl"].values[i, layer] == pytest.approx(mean_kl(full, other, first), rel=1e-3, abs=1e-5)


def test_prefill_and_decode_are_apart(both: tuple[Any, Any]) -> None:
    model, _ = both
    everywhere, prefill, decode = (
        causal_ablation(model, PROMPTS, responses=ANSWERS, phase=phase)["kl"].values
        for phase in ("all", "prefill", "decode")
    )
    assert (np.abs(everywhere - prefill) > 1e-4).all()
    # The last block writes for its own token alone.
    one = causal_ablation(model, PROMPTS, responses=[[20], [90]], phase="decode")["kl"].values
    np.testing.assert_allclose(one, 0, atol=1e-5)
    assert (decode[:, :-1] > 1e-4).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_that_writes_nothing_has_no_effect(architecture: str) -> None:
    hf_model = plain(architecture)
    silence(hf_model, 2)
    found = causal_ablation(bridge(hf_model), PROMPTS)
    np.testing.assert_allclose(found["loss"].sel(layer=2), 0, atol=1e-5)
    np.testing.assert_allclose(found["kl"].sel(layer=2), 0, atol=1e-5)
    assert (found["kl"].drop_sel(layer=2) > 1e-3).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_that_dominates_has_the_largest(architecture: str) -> None:
    hf_model = plain(architecture)
    amplify(hf_model, 1, 50.0)
    found = causal_ablation(bridge(hf_model), PROMPTS)
    assert found["kl"].values.mean(0).argmax() == 1


def test_attributes_say_what_was_done() -> None:
    seen = []
    model = tiny_model()
    found = causal_ablation(
        model, PROMPTS, max_tokens=4, window=(1, 3), data="numbers", progress=lambda *at: seen.append(at)
    )
    assert found.attrs["positions"] == "bypassed at positions 1 to 2; predicted: the prompt's tokens"
    assert (found.attrs["data"], found.attrs["n_samples"], found.attrs["preset"]) == ("numbers", 2, "")
    assert found["n_tokens"].values.tolist() == [3, 3]
    assert seen == [(1, 2), (2, 2)]
    assert not adapt(model).user_hooked()


def test_what_does_not_go_together_is_refused_in_words() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"phase='decode' bypasses the responses' tokens: give responses="):
        causal_ablation(model, PROMPTS, phase="decode")
    with pytest.raises(ValueError, match=r"window=\(1, 2\) and phase='prefill' both choose positions"):
        causal_ablation(model, PROMPTS, phase="prefill", window=(1, 2))
    with pytest.raises(ValueError, match=r"0 <= start < stop, got \(3, 3\)"):
        causal_ablation(model, PROMPTS, window=(3, 3))
    with pytest.raises(ValueError, match="max_tokens cuts prompts, whose ends the responses follow"):
        causal_ablation(model, PROMPTS, responses=ANSWERS, max_tokens=3)
    with pytest.raises(InputError, match="prompt 1 has one token, so no next token"):
        causal_ablation(model, [[3, 4], [5]])
    with pytest.raises(InputError, match=r"prompt 1 has 5 tokens, none of them in the window \(6, 7\)"):
        causal_ablation(model, PROMPTS, window=(6, 7))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_phase_is_refused_with_the_known_ones(tiny: Any) -> None:
    with pytest.raises(ValueError, match="phase must be 'all', 'prefill' or 'decode', got 'answer'"):
        causal_ablation(tiny, PROMPTS, phase="answer")


QUESTIONS = [
    Question(4, "a", "the river is", False, ("deep", "cold"), 0, "deep"),
    Question(2, "b", "the wood rises in", False, ("a wood", "the cold river", "it"), 1, "the cold river"),
    Question(9, "c", "is it", False, ("deep",), 0, "deep"),
]


def test_accuracy_without_a_layer_is_that_of_the_bypassed_model(tiny_with_tokenizer: Any) -> None:
    found = ablation_accuracy(tiny_with_tokenizer, QUESTIONS, batch_size=2, data="three questions")
    full = score_choices(tiny_with_tokenizer, QUESTIONS)
    assert found["sample"].values.tolist() == [4, 2, 9]
    assert found["full_correct"].values.tolist() == full["correct"].tolist()
    for layer in range(4):
        entered = {}

        def remember(activation: torch.Tensor, hook: Any, entered: Any = entered) -> None:
            entered["pre"] = activation

        def undo(activation: torch.Tensor, hook: Any, entered: Any = entered) -> torch.Tensor:
            return entered["pre"]

        names = (f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post")
        with tiny_with_tokenizer.hooks(fwd_hooks=list(zip(names, (remember, undo), strict=True))):
            expected = score_choices(tiny_with_tokenizer, QUESTIONS)
        assert found["correct"].sel(layer=layer).values.tolist() == expected["correct"].tolist()
        change = expected["target_logp"] - full["target_logp"]
        np.testing.assert_allclose(found["target_logp"].sel(layer=layer), change, atol=1e-4)
    assert found["correct"].values.any() != found["correct"].values.all()


@pytest.mark.parametrize(
    ("asked", "bypassed"),
    [
        ({"phase": "prefill"}, lambda position, n_prompt: position < n_prompt),
        ({"phase": "decode"}, lambda position, n_prompt: position >= n_prompt),
        ({"window": (1, 3)}, lambda position, n_prompt: (position >= 1) & (position < 3)),
    ],
    ids=["prefill", "decode", "window"],
)
def test_accuracy_by_phase_and_window_equals_a_traced_bypass(
    tiny_with_tokenizer: Any, asked: Any, bypassed: Any
) -> None:
    model = tiny_with_tokenizer
    found = ablation_accuracy(model, QUESTIONS, **asked)
    assert found["sample"].values.tolist() == [4, 2, 9]
    for row, one in enumerate(QUESTIONS):
        prompt = model.to_tokens(one.prompt)[0].tolist()
        for layer in range(4):
            scores = []  # of each choice: full, bypassed; whether all bypassed tokens are the likeliest
            for choice in one.choices:
                answer = model.tokenizer(choice, add_special_tokens=False)["input_ids"]
                mask = np.zeros((4, len(prompt) + len(answer)), dtype=bool)
                mask[layer] = bypassed(np.arange(mask.shape[1]), len(prompt))
                traced = [
                    lacscope.trace(model, [prompt], responses=[answer], logits="all", rule=rule, effect=effect)
                    for rule, effect in ((None, "observe"), (GivenVoids({0: mask}), "bypass"))
                ]
                read = [torch.tensor(t["logits"].values[0, len(prompt) - 1 : -1]).double() for t in traced]
                picks = [torch.log_softmax(each, -1)[range(len(answer)), answer].sum().item() for each in read]
                scores.append((*picks, read[1].argmax(-1).tolist() == answer))
            full, other, greedy = zip(*scores, strict=True)
            change = other[one.target] - full[one.target]
            assert float(found["target_logp"][row, layer]) == pytest.approx(change, abs=1e-4)
            right = int(np.argmax(other)) == one.target if len(scores) > 1 else greedy[0]
            assert bool(found["correct"][row, layer]) == right


def test_accuracy_says_where_the_block_was_bypassed(tiny_with_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    found = ablation_accuracy(
        tiny_with_tokenizer, QUESTIONS[:1], phase="decode", progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 2), (2, 2)]
    assert found.attrs["positions"] == "bypassed at the choice's tokens; predicted: the choices"
    assert '"phase": "decode"' in found.attrs["settings"]
    # One token, predicted by the prompt's last.
    np.testing.assert_allclose(found["target_logp"], 0, atol=1e-5)
    with pytest.raises(ValueError, match=r"window=\(1, 2\) and phase='prefill' both choose positions"):
        ablation_accuracy(tiny_with_tokenizer, QUESTIONS, phase="prefill", window=(1, 2))
    with pytest.raises(InputError, match=r"with its choice, none of them in the window \(50, 60\)"):
        ablation_accuracy(tiny_with_tokenizer, QUESTIONS, window=(50, 60))


def test_the_model_is_as_before_after_an_error(tiny_with_tokenizer: Any) -> None:
    before = score_choices(tiny_with_tokenizer, QUESTIONS)

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablation_accuracy(tiny_with_tokenizer, QUESTIONS, progress=fail)
    assert score_choices(tiny_with_tokenizer, QUESTIONS).equals(before)
    with pytest.raises(ValueError, match="sample 0 has no choices to score"):
        ablation_accuracy(tiny_with_tokenizer, [Question(0, "", "the river", False, (), -1, "x")])
