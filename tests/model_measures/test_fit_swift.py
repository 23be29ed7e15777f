"""SWIFT fitted to a model: the sublayers whose removal changes fewest choices."""

import re
from typing import Any

import pytest
import torch
from helpers import PROMPTS, bridge_of, shared_model

from lacscope import UnsupportedModelError
from lacscope.models.adapters import adapt
from lacscope.rules import SWIFT, Scope, describe_rule
from lacscope.testing import tiny_model, tiny_transformers_model

IDS = torch.tensor([PROMPTS[0]])


def zero(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return torch.zeros_like(activation)


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

    monkeypatch.setattr("lacscope.model_measures._fit_swift._zero", stop)
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
