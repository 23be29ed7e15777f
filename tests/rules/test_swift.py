"""SWIFT: two sets of sublayers at once, and the search that finds them."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, bridge_of, shared_model

from lacscope import L2AdaptiveComputation, UnsupportedModelError, halting, halting_hooks, trace
from lacscope.model_measures._swift_search import posterior, search_set
from lacscope.models.adapters import adapt
from lacscope.rules import SWIFT, FixedLayers, HaltingRule, Scope, describe_rule
from lacscope.testing import tiny_model, tiny_transformers_model

IDS = torch.tensor([PROMPTS[0]])
EVERYWHERE = Scope()


def zero(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return torch.zeros_like(activation)


# --- two sublayers at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
def test_both_sets_are_zeroed(architecture: str) -> None:
    model = shared_model(architecture)
    rule = SWIFT(attn=[1], mlp=[1, 2], scope=EVERYWHERE)
    names = ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"]
    expected = model.run_with_hooks(IDS, fwd_hooks=[(name, zero) for name in names])
    with halting(model, rule, "bypass") as recorder:
        assert torch.equal(model(IDS), expected)
    found = recorder.trace.isel(sample=0)
    assert found.attn_void.values[:, 0].tolist() == [0, 1, 0, 0]
    assert found.mlp_void.values[:, 0].tolist() == [0, 1, 1, 0]
    assert found.void.values[:, 0].tolist() == [False, True, False, False]
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, rule, "bypass")), expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_both_sublayers_void_is_the_block_void(architecture: str) -> None:
    model = shared_model(architecture)
    with halting(model, FixedLayers([1, 2], "sublayers"), "bypass"):
        apart = model(IDS)
    with halting(model, FixedLayers([1, 2]), "bypass"):
        torch.testing.assert_close(apart, model(IDS), rtol=1e-4, atol=1e-4)


def test_a_rule_on_both_has_a_history_for_each() -> None:
    """Observed, it decides on attention as the rule on attention alone does, and so on MLP."""
    model = shared_model("llama")
    both = trace(model, PROMPTS, rule=L2AdaptiveComputation(0.9, "sublayers"))
    for unit in ("attn", "mlp"):
        alone = trace(model, PROMPTS, rule=L2AdaptiveComputation(0.9, unit))
        assert (both[f"{unit}_void"].fillna(0) == alone.void.fillna(0)).all()
        assert (alone.void == 1).any()
    assert ((both.void == 1) == (both.attn_void == 1) & (both.mlp_void == 1)).all()


def test_published_swift_skips_in_decode_alone() -> None:
    found = trace(shared_model("llama"), PROMPTS, rule=SWIFT(attn=[1], mlp=[2]), effect="bypass", max_new_tokens=4)
    decode = (found.phase == "decode") & found.valid
    assert (found.attn_void.fillna(0) == (decode & (found.layer == 1))).all()
    assert (found.mlp_void.fillna(0) == (decode & (found.layer == 2))).all()


def test_cached_decode_equals_reading_the_answer_again() -> None:
    model, rule = shared_model("gpt_neox"), SWIFT(attn=[1, 2], mlp=[2])
    found = trace(model, [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=6).isel(sample=0)
    with halting(model, rule, "bypass", prompt_lengths=[len(PROMPTS[0])]) as recorder:
        model(torch.tensor([found.token_id.values.tolist()]))
    np.testing.assert_allclose(found.resid_post_norm, recorder.trace.resid_post_norm[0], rtol=1e-4)


def test_two_rules_on_sublayers_are_observed_apart() -> None:
    rules: list[HaltingRule] = [L2AdaptiveComputation(a, "sublayers") for a in (0.5, 0.9)]
    with pytest.raises(ValueError, match="two masks each, of attention and of MLP: observe them one at a time"):
        trace(shared_model("llama"), PROMPTS, rule=rules)
    assert trace(shared_model("llama"), PROMPTS, rule=rules, effect="bypass").sizes["rule"] == 2


# --- the sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (SWIFT(), "has no sets yet: rule = rule.fit(model, data), or give attn= and mlp=."),
        (SWIFT(attn=[0], mlp=[]), "SWIFT keeps the first and the last layer, 0 and 3."),
        (SWIFT(attn=[], mlp=[-1]), "SWIFT keeps the first and the last layer, 0 and 3."),
        (SWIFT(attn=[9], mlp=[]), "SWIFT[9]: the model has layers 0 to 3 (or -1 to -4)."),
    ],
)
def test_sets_that_cannot_be(rule: SWIFT, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        rule.sets(4)


def test_one_set_without_the_other() -> None:
    with pytest.raises(ValueError, match=re.escape("give attn= and mlp= together")):
        SWIFT(attn=[1])
    with pytest.raises(ValueError, match="skip_ratio is a share of the sublayers, 0 to 1; got 45"):
        SWIFT(45.0)


# --- the search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_fit_finds_the_sublayers_that_write_nothing(architecture: str) -> None:
    """Attention of layer 2 and MLP of layers 1 and 3 have output weights of zero: without them nothing changes."""
    hf_model = tiny_transformers_model(architecture, n_layers=5)
    with torch.no_grad():
        if architecture == "llama":
            layers = hf_model.model.layers
            silent = [layers[2].self_attn.o_proj, layers[1].mlp.down_proj, layers[3].mlp.down_proj]
        else:
            layers = hf_model.gpt_neox.layers
            silent = [layers[2].attention.dense, layers[1].mlp.dense_4h_to_h, layers[3].mlp.dense_4h_to_h]
        for module in silent:
            for parameter in module.parameters():
                parameter.zero_()
    model = bridge_of(hf_model, "full")
    unfitted = SWIFT(0.5)
    rule = unfitted.fit(model, PROMPTS, bayes_every=3, target=0.999)
    assert (rule.attn, rule.mlp, rule.score) == ((2,), (1, 3), 1.0)
    assert unfitted.attn is None
    assert not adapt(model).user_hooked()
    assert describe_rule(rule) == (
        '{"attn": [2], "mlp": [1, 3], "name": "SWIFT", "scope": {"phase": "decode"}, "score": 1.0, "skip_ratio": 0.5}'
    )


def test_the_score_is_the_share_of_choices_that_stay() -> None:
    model = shared_model("llama")
    rule = SWIFT(0.5).fit(model, PROMPTS, trials=4, context=3, seed=1)
    same, total = 0, 0
    for prompt in PROMPTS:
        ids = torch.tensor([prompt[:3]])
        full = model(ids).argmax(-1)
        names = [f"blocks.{k}.hook_attn_out" for k in rule.attn] + [f"blocks.{k}.hook_mlp_out" for k in rule.mlp]
        skipped = model.run_with_hooks(ids, fwd_hooks=[(name, zero) for name in names]).argmax(-1)
        same, total = same + int((full == skipped).sum()), total + full.numel()
    assert rule.score == same / total
    assert len(rule.attn) + len(rule.mlp) == 2
    assert rule == SWIFT(0.5).fit(model, PROMPTS, trials=4, context=3, seed=1)


def test_fit_leaves_protected_layers_alone() -> None:
    scope = Scope(phase="decode", protect=(1,))
    rule = SWIFT(0.5, scope=scope).fit(tiny_model("llama", n_layers=5), PROMPTS, trials=6)
    assert rule.scope == scope
    assert set(rule.attn) | set(rule.mlp) <= {2, 3}
    assert len(rule.attn) + len(rule.mlp) == 2  # half of the four that are left


def test_a_search_that_is_stopped_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    fired = []
    model.add_hook("blocks.1.hook_attn_out", lambda x, hook: fired.append(1))
    expected = model(IDS)

    def stop(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("lacscope.rules._swift._zero", stop)
    with pytest.raises(KeyboardInterrupt):
        SWIFT(0.5).fit(model, PROMPTS)
    assert len(fired) == 1
    assert torch.equal(model(IDS), expected)
    assert len(fired) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "data", "options", "text"),
    [
        (("llama", "full", 4), PROMPTS, {"trials": 0}, "nothing to search: trials=0, and skip_ratio=0.45"),
        (
            ("llama", "full", 2),
            PROMPTS,
            {},
            "0 sublayers (2 layers less the first, the last and those protected) is 0.",
        ),
        (("llama", "full", 4), PROMPTS, {"context": 0}, "context must be at least 1, got 0."),
        (("llama", "full", 4), [], {}, "data must be a list of contexts, texts or lists of token ids; got []."),
        (("llama", "full", 4), [[5], []], {}, "context 1 has no tokens."),
        (("llama", "full", 4), [[5, 1.5]], {}, "context 0[1] must be a whole number, 0 or more, got 1.5."),
        (("llama", "full", 4), PROMPTS, {"trials": 2.5}, "trials must be a whole number, 0 or more, got 2.5."),
        (("llama", "full", 4), PROMPTS, {"patience": True}, "patience must be a whole number, 0 or more, got True."),
        (("llama", "full", 4), PROMPTS, {"seed": None}, "seed must be a whole number, 0 or more, got None."),
        (("llama", "full", 4), PROMPTS, {"target": "high"}, "target must be a finite number, got 'high'."),
    ],
)
def test_what_cannot_be_fitted(model: Any, data: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        SWIFT().fit(shared_model(*model), data, **options)


def test_models_whose_sublayers_are_not_the_blocks_parts_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"reload it with load_model\(\.\.\., hooks='full'\)"):
        SWIFT().fit(shared_model("llama", "residual", 4), PROMPTS)
    bloom = tiny_model("bloom", apply_residual_connection_post_layernorm=True)
    with pytest.raises(UnsupportedModelError, match=r"sublayer measures are refused for tiny-bloom: .*not resid_post"):
        SWIFT().fit(bloom, PROMPTS, trials=2)


def test_texts_are_read_by_the_models_tokenizer(tiny_with_tokenizer: Any) -> None:
    ids = tiny_with_tokenizer.to_tokens("the river rises")[0].tolist()
    by_text = SWIFT().fit(tiny_with_tokenizer, ["the river rises"], trials=3)
    assert by_text == SWIFT().fit(tiny_with_tokenizer, [ids], trials=3)


def test_the_process_finds_a_set_that_drawing_would_not() -> None:
    """A score that adds up over items: 8 of 24, of 735,471 sets, in 60 trials."""
    weights = np.random.default_rng(0).random(24)
    best = np.sort(weights)[-8:].sum()

    def score(chosen: np.ndarray) -> float:
        return float(weights[chosen].sum() / best)

    options = {"trials": 60, "patience": 60, "target": 2.0}
    asked = search_set(score, 24, 8, **options, bayes_every=2, seed=3)
    drawn = search_set(score, 24, 8, **options, bayes_every=61, seed=3)
    assert asked.score > 0.97 > drawn.score
    assert asked.chosen.sum() == 8
    assert asked.trials == 60


def test_a_search_ends_by_target_patience_and_trials() -> None:
    options = {"bayes_every": 4, "seed": 0}
    assert search_set(lambda s: 0.5, 6, 2, trials=50, patience=5, target=0.9, **options).trials == 7
    assert search_set(lambda s: 0.5, 6, 2, trials=3, patience=5, target=0.9, **options).trials == 3
    assert search_set(lambda s: 0.95, 6, 2, trials=50, patience=5, target=0.9, **options).trials == 1


def test_the_posterior_is_sure_where_it_was_tried_and_doubts_elsewhere() -> None:
    tried = np.eye(6, dtype=bool)
    scores = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    mean, deviation = posterior(tried, scores, np.concatenate([tried, ~tried]))
    assert (np.sign(mean[:6]) == [-1, 1, -1, 1, -1, 1]).all()
    assert deviation[:6].max() < 0.2
    assert deviation[6:].min() > 2 * deviation[:6].max()
