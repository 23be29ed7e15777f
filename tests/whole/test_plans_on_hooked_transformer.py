"""Plans on TransformerLens 3.9's ``HookedTransformer``: uncached; 4.x has no such class."""

import warnings

import pytest
import torch

from lacscope import L2AdaptiveComputation, PartialPassError, trace
from lacscope.plans import Plan, PlanError, plan

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    pytest.skip("TransformerLens 4.x has no HookedTransformer: run this with 3.9", allow_module_level=True)

IDS = torch.tensor([[1, 5, 9, 12, 7, 30], [1, 8, 3, 21, 4, 2]])


@pytest.fixture(scope="module")
def model():
    config = HookedTransformerConfig(
        n_layers=4,
        d_model=32,
        n_ctx=64,
        d_head=8,
        n_heads=4,
        d_vocab=44,
        act_fn="gelu",
        normalization_type="LN",
        seed=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the class itself
        return HookedTransformer(config)


def by_hand(model, slots):
    """The blocks called in a loop of our own."""
    h = model.embed(IDS) + model.pos_embed(IDS)
    for slot in slots:
        found = [model.blocks[block](h) for block in (slot if isinstance(slot, tuple) else (slot,))]
        h = sum(found) / len(found)
    return model.unembed(model.ln_final(h))


@pytest.mark.parametrize(
    ("given", "slots"),
    [
        (Plan.skip(4, [0, 2]), [1, 3]),
        (Plan.reverse(4, range(4)), [3, 2, 1, 0]),
        (Plan.repeat(4, [1, 2]), [0, 1, 2, 1, 2, 3]),
        (Plan.looped_parallel(4, [1, 2], times=2), [0, (1, 2), (1, 2), 3]),
    ],
)
def test_logits_are_those_of_the_blocks_called_by_hand(model, given, slots):
    with torch.no_grad():
        before, wanted = model(IDS), by_hand(model, slots)
        with plan(model, given):
            assert torch.allclose(model(IDS), wanted, atol=1e-5)
            assert torch.allclose(model.run_with_cache(IDS)[0], wanted, atol=1e-5)
            options = {"do_sample": False, "stop_at_eos": False, "verbose": False}
            made = model.generate(IDS, max_new_tokens=3, use_past_kv_cache=False, **options)
        assert torch.equal(made[:, IDS.shape[1]], wanted[:, -1].argmax(-1))
        assert torch.equal(model(IDS), before)
    assert not any("forward" in block.__dict__ for block in model.blocks)


def test_hooks_fire_once_a_run_and_in_a_skipped_blocks_place(model):
    names = []
    hooks = [
        (f"blocks.{layer}.hook_resid_post", lambda x, hook, layer=layer: names.append(layer)) for layer in range(4)
    ]
    with plan(model, Plan.of(4, [0, 2, 2, 1])):
        model.run_with_hooks(IDS, fwd_hooks=hooks)
    with plan(model, Plan.skip(4, [2])):
        model.run_with_hooks(IDS, fwd_hooks=hooks)
    assert names == [0, 2, 2, 1, 0, 1, 2, 3]


def test_a_cached_pass_is_refused_in_words(model):
    with plan(model, Plan.skip(4, [2])):
        with pytest.raises(PlanError, match=r"without its cache.*use_past_kv_cache=False.*TransformerBridge"):
            model.generate(IDS, max_new_tokens=3, stop_at_eos=False, verbose=False)
        with pytest.raises(PlanError, match="without its cache"):
            trace(model, IDS, max_new_tokens=3)


def test_a_trace_without_decode(model):
    with plan(model, Plan.skip(4, [2])):
        found = trace(model, IDS, rule=L2AdaptiveComputation(0.5), attention_mask=torch.ones_like(IDS), logits="all")
    assert bool(found.void.sel(layer=2).all())
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found.logits.values), by_hand(model, [0, 1, 3]), atol=1e-5)


def test_partial_passes_are_refused(model):
    with plan(model, Plan.swap(4, 1)):
        with pytest.raises(PartialPassError, match="stop_at_layer runs a part"):
            model(IDS, stop_at_layer=2)
        with pytest.raises(PartialPassError, match="start_at_layer runs a part"):
            model(model.embed(IDS), start_at_layer=2)
