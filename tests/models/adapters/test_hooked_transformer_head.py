"""The final norm and the head of a HookedTransformer, with and without a soft cap."""

import warnings

import pytest
import torch
from helpers import PROMPTS

from lacscope import trace
from lacscope.models._checks import require_head
from lacscope.models.adapters import adapt
from lacscope.rules import CALM, SWIFT

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    pytest.skip("TransformerLens 4.x has no HookedTransformer: run this with 3.9", allow_module_level=True)


@pytest.mark.parametrize("cap", [-1.0, 0.5])
def test_the_head_on_the_last_stream_gives_the_models_logits(cap: float) -> None:
    sizes = {"n_layers": 4, "d_model": 32, "d_head": 8, "n_heads": 4, "d_mlp": 64, "n_ctx": 64, "d_vocab": 97}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the class is deprecated
        config = HookedTransformerConfig(**sizes, act_fn="gelu", output_logits_soft_cap=cap, seed=0, device="cpu")
        model = HookedTransformer(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.25 * torch.randn_like(parameter))
    model = model.eval().requires_grad_(False)
    seen, fired = [], []
    ids = torch.tensor([PROMPTS[0]])
    logits = model.run_with_hooks(ids, fwd_hooks=[("blocks.3.hook_resid_post", lambda x, hook: seen.append(x.clone()))])
    assert bool((logits.abs() <= 0.5).all()) == (cap > 0)
    model.add_hook("ln_final.hook_normalized", lambda x, hook: fired.append(1))
    require_head(model)
    torch.testing.assert_close(adapt(model).logits_of(seen[0]), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapt(model).logits_of(seen[0][0, 1:3]), logits[0, 1:3], rtol=1e-5, atol=1e-5)
    assert not fired
    model.reset_hooks()
    rule = CALM(0.0, tau=50.0, n_steps=1)
    assert (trace(model, PROMPTS[:2], rule=rule, effect="bypass", max_new_tokens=8).void == 1).any()
    fitted = SWIFT(0.5).fit(model, PROMPTS[:2], trials=3)
    assert len(fitted.attn) + len(fitted.mlp) == 2
