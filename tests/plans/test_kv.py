"""Keys and values under a plan: what the cache holds, plans that change after prefill, the authors' mean K/V."""

import copy

import pytest
import torch
from helpers import PROMPTS, left_padded, shared_model, without_layers
from rebuilt import rebuilt
from transformers import DynamicCache, StaticCache

from lacscope.plans import Plan, PlanError, plan
from lacscope.testing import tiny_transformers_model

IDS, MASK = left_padded(PROMPTS)
NEXT = torch.tensor([[3], [4], [5], [6]])
LONGER = torch.cat([MASK, torch.ones_like(NEXT)], dim=1)


def close(a, b):
    return float((a - b).abs().max()) < 1e-5 * max(1.0, float(b.abs().max()))


@torch.no_grad()
def prefill(model, cache=None):
    given = {} if cache is None else {"past_key_values": cache}
    return model(IDS, attention_mask=MASK, return_type="logits_and_cache", use_cache=True, **given)


@torch.no_grad()
def step(model, cache):
    return model(NEXT, attention_mask=LONGER, past_key_values=cache, return_type="logits_and_cache", use_cache=True)[0]


def test_the_first_block_that_runs_is_the_first_of_the_cache():
    model, reference = shared_model("llama"), without_layers("llama", {0, 2})
    with torch.no_grad():
        wanted = reference(input_ids=IDS, attention_mask=MASK, use_cache=True).past_key_values
    with plan(model, Plan.skip(4, [0, 2])):
        _, cache = prefill(model)
        assert len(cache.layers) == 2
        assert cache.get_seq_length() == IDS.shape[1]
        step(model, cache)
        assert cache.get_seq_length() == IDS.shape[1] + 1
    for mine, theirs in zip(cache.layers, wanted.layers, strict=True):
        # Values: the plain model turns its keys by positions that count the padding.
        assert close(mine.values[:, :, :-1].transpose(1, 2)[MASK.bool()], theirs.values.transpose(1, 2)[MASK.bool()])


@pytest.mark.parametrize("kind", ["bare", "of the config", "static"])
def test_caches_of_the_callers_own(kind):
    model = shared_model("llama", "residual")
    config = model.original_model.config
    reference = rebuilt("llama", [1, 1, 3])
    cache = {
        "bare": lambda: DynamicCache(),
        "of the config": lambda: DynamicCache(config=config),
        "static": lambda: StaticCache(config=config, max_cache_len=16),
    }[kind]()
    with plan(model, Plan.of(4, [1, 1, 3])), torch.no_grad():
        prefill(model, cache)
        mine = step(model, cache)
        theirs = reference(input_ids=IDS, attention_mask=MASK, use_cache=True).past_key_values
        assert close(mine, reference(input_ids=NEXT, attention_mask=LONGER, past_key_values=theirs).logits)


def test_a_cache_that_was_reset_takes_another_plan():
    model, cache = shared_model("llama"), DynamicCache()
    with plan(model, Plan.repeat(4, [1])):
        prefill(model, cache)
        cache.reset()
    with plan(model, Plan.skip(4, [0])):
        prefill(model, cache)
        again = step(model, cache)
        assert close(again, step(model, prefill(model)[1]))
    assert len(cache.layers) == 3


# --- once after prefill, and only to skip more ----------------------------------------------------------


def skipped_in_decode(first, dropped, kept):
    """Plain transformers: prefill with one list of blocks, go on with the cache of some of them."""
    reader, writer = rebuilt("llama", first), without_layers("llama", dropped)
    with torch.no_grad():
        cache = reader(input_ids=IDS, attention_mask=MASK, use_cache=True).past_key_values
        cache.layers = [cache.layers[i] for i in kept]
        return writer(input_ids=NEXT, attention_mask=LONGER, past_key_values=cache).logits


def test_decode_may_skip_more():
    """Layer 0 too, whose length transformers asks for."""
    model = shared_model("llama")
    wanted = skipped_in_decode([0, 1, 2, 3], {0, 2}, [1, 3])
    with plan(model, Plan.full(4), decode=Plan.skip(4, [0, 2])):
        _, cache = prefill(model)
        assert close(step(model, cache), wanted)
    with plan(model, Plan.full(4)) as running:
        _, cache = prefill(model)
        running.change(Plan.skip(4, [0, 2]))
        assert close(step(model, cache), wanted)
        assert cache.get_seq_length() == IDS.shape[1] + 1


def test_a_cache_that_the_model_filled_may_go_on_with_a_skip():
    model = shared_model("llama")
    _, cache = prefill(model)
    kept = copy.deepcopy(cache)
    with plan(model, Plan.skip(4, [0, 2])):
        assert close(step(model, cache), skipped_in_decode([0, 1, 2, 3], {0, 2}, [1, 3]))
    with plan(model, Plan.swap(4, 1)), pytest.raises(PlanError, match=r"\[0-3\] and cannot go on with \[0, 2, 1, 3\]"):
        step(model, kept)


@pytest.mark.parametrize("given", [Plan.swap(4, 1), Plan.skip(4, [1]), Plan.repeat(4, [1])], ids=Plan.describe)
def test_a_cache_that_a_plan_filled_is_refused_outside_it(given):
    model = shared_model("llama")
    with plan(model, given):
        _, cache = prefill(model)
        wanted = step(model, copy.deepcopy(cache))
    copied = copy.deepcopy(cache)
    for one in (cache, copied):
        with pytest.raises(PlanError, match=r"cache was filled under the plan \[0.*3\].* go on inside lacscope.plan"):
            step(model, one)
    with plan(model, given):
        assert torch.equal(step(model, copied), wanted), "what was refused left no trace"


def test_a_cache_that_changed_to_a_skip_is_refused_outside_it():
    model = shared_model("llama")
    with plan(model, Plan.full(4), decode=Plan.skip(4, [2])):
        _, cache = prefill(model)
        step(model, cache)
    with pytest.raises(PlanError, match=r"filled under the plan \[0-1, 3\]"):
        step(model, cache)


def test_a_cache_of_the_full_plan_is_the_models_own():
    model = shared_model("llama")
    with plan(model, Plan.skip(4, [1])):
        _, cache = prefill(model)
        cache.reset()
    with plan(model, Plan.full(4)):
        prefill(model, cache)
    assert close(step(model, cache), step(model, prefill(model)[1]))


def test_a_block_cannot_be_taken_up_again():
    model = shared_model("llama")
    with plan(model, Plan.skip(4, [1, 2])) as running:
        _, cache = prefill(model)
        running.change(Plan.skip(4, [1]))
        with pytest.raises(PlanError, match=r"read with the plan \[0, 3\].*\[0, 2-3\].*holes in its keys and values"):
            step(model, cache)
        assert len(prefill(model)[1].layers) == 3, "another sequence takes the new plan"


def test_a_plan_changes_once_a_sequence():
    model = shared_model("llama")
    with plan(model, Plan.full(4)) as running:
        _, cache = prefill(model)
        running.change(Plan.skip(4, [1]))
        step(model, cache)
        running.change(Plan.skip(4, [1, 2]))
        with pytest.raises(PlanError, match=r"changed its plan once already, to \[0, 2-3\].*\[0, 3\]"):
            step(model, cache)


def test_decode_that_runs_more_is_refused_on_entering():
    with pytest.raises(PlanError, match=r"decode=\[0-3\] does not only skip more than \[0, 2-3\]"):
        plan(shared_model("llama"), Plan.skip(4, [1]), decode=Plan.full(4)).__enter__()
    with pytest.raises(PlanError, match="one of 5 layers"):
        plan(shared_model("llama"), Plan.skip(4, [1]), decode=Plan.full(5)).__enter__()


def test_a_cache_of_another_model_is_refused():
    other = without_layers("llama", {1})
    with torch.no_grad():
        cache = other(input_ids=IDS, attention_mask=MASK, use_cache=True).past_key_values
    model = shared_model("llama")
    with plan(model, Plan.skip(4, [1])), pytest.raises(PlanError, match="7 tokens in 3 layers, the model has 4"):
        step(model, cache)
    with plan(model, Plan.skip(4, [1])), pytest.raises(PlanError, match="empty cache has 3 layers, the model 4"):
        prefill(model, DynamicCache(config=other.config))


# --- the authors' K/V -------------------------------------------------------------------------------------


def mean_of(layers):
    return [torch.stack([getattr(one, name) for one in layers]).mean(0) for name in ("keys", "values")]


def test_authors_kv_by_hand():
    """Prefill is that of a slot per block; each iteration keeps the mean, which every block then attends to."""
    plain, model = tiny_transformers_model("llama"), shared_model("llama")
    ids, following = IDS[:1], NEXT[:1]
    each, mean = (Plan.looped_parallel(4, [1, 2], times=2, kv=kv) for kv in ("each", "authors_kv"))

    def read(given):
        with plan(model, given), torch.no_grad():
            logits, cache = model(ids, return_type="logits_and_cache", use_cache=True)
            held = copy.deepcopy(cache)
            after = model(following, past_key_values=cache, return_type="logits_and_cache", use_cache=True)[0]
        return logits, held, after

    wanted, apart, exact = read(each)
    logits, cache, after = read(mean)
    assert torch.equal(logits, wanted), "prefill does not read the cache"
    kept = [[0], [1, 2], [3, 4], [5]]
    assert len(cache.layers) == len(kept)
    for layer, places in zip(cache.layers, kept, strict=True):
        keys, values = mean_of([apart.layers[place] for place in places])
        assert close(layer.keys, keys)
        assert close(layer.values, values)

    def run(block, h, place):
        held = DynamicCache()
        for _ in range(block + 1):
            held.update(*mean_of([apart.layers[i] for i in place]), len(held.layers))
        position = torch.tensor([[ids.shape[1]]])
        return plain.model.layers[block](
            h,
            position_ids=position,
            past_key_values=held,
            position_embeddings=plain.model.rotary_emb(h, position_ids=position),
        )

    with torch.no_grad():
        h = run(0, plain.model.embed_tokens(following), [0])
        h = (run(1, h, [1, 2]) + run(2, h, [1, 2])) / 2
        h = (run(1, h, [3, 4]) + run(2, h, [3, 4])) / 2
        by_hand = plain.lm_head(plain.model.norm(run(3, h, [5])))
    assert close(after, by_hand)
    assert float((after - exact).abs().max()) > 1e-3, "the authors' cache is an approximation"


def test_authors_kv_of_a_single_block_is_exact():
    model = shared_model("llama")
    found = []
    for kv in ("each", "authors_kv"):
        with plan(model, Plan.looped_parallel(4, [2], times=2, kv=kv)):
            found.append(step(model, prefill(model)[1]))
    assert torch.equal(*found)


def test_authors_kv_needs_a_cache_that_grows():
    model = shared_model("llama")
    cache = StaticCache(config=model.original_model.config, max_cache_len=16)
    with (
        plan(model, Plan.parallel(4, [1, 2], kv="authors_kv")),
        pytest.raises(PlanError, match=r"needs a cache that grows \(DynamicCache\), this one has StaticLayer"),
    ):
        prefill(model, cache)
