"""Block Influence and LIM against loops over a plain transformers model."""

from typing import Any

import numpy as np
import pytest
import torch
from plain_streams import ARCHITECTURES, PROMPTS, cosine, counted, scaled_block, states, twins

from lacscope.model_measures import angular_distance, block_influence, depth_variance, lim, state_similarity
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Any:
    return twins(request.param)


@pytest.mark.parametrize("exclude_sinks", [False, True])
def test_it_is_one_less_the_mean_cosine_of_a_plain_model(pair: Any, exclude_sinks: bool) -> None:
    plain, model = pair
    found = block_influence(model, PROMPTS, exclude_sinks=exclude_sinks)
    for sample, ids in enumerate(PROMPTS):
        h = states(plain, ids)
        kept = counted(h, exclude_sinks)
        assert int(found.n_tokens[sample]) == len(kept)
        for layer in range(4):
            expected = 1 - np.mean([cosine(h[layer, t], h[layer + 1, t]) for t in kept])
            assert float(found.block_influence[sample, layer]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("exclude_sinks", [False, True])
def test_lim_is_the_negative_cosine_of_flattened_states(pair: Any, exclude_sinks: bool) -> None:
    plain, model = pair
    found = lim(model, PROMPTS, exclude_sinks=exclude_sinks)
    for sample, ids in enumerate(PROMPTS):
        h = states(plain, ids)
        kept = counted(h, exclude_sinks)
        for layer in range(4):
            flat = -cosine(h[layer, kept].ravel(), h[layer + 1, kept].ravel())
            by_token = -np.mean([cosine(h[layer, t], h[layer + 1, t]) for t in kept])
            assert float(found.lim[sample, layer]) == pytest.approx(flat, abs=1e-5)
            assert float(found.lim_token_mean[sample, layer]) == pytest.approx(by_token, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_state_after_the_final_norm_is_transformers_own(architecture: str) -> None:
    """As code has it that reads ``hidden_states``, whose last entry is normed: the last layer alone differs."""

    def uneven(hf_model: Any) -> None:
        inner = hf_model.base_model
        norm = inner.norm if hasattr(inner, "norm") else inner.final_layer_norm
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.1, 3.0, len(norm.weight)))

    plain, model = twins(architecture, uneven)
    ids = PROMPTS[0]
    with torch.no_grad():
        hidden = plain(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    h = torch.stack(hidden)[:, 0].double().numpy()
    normed = {"last_state": "normed"}
    found = block_influence(model, ids, **normed)
    expected = [1 - np.mean([cosine(h[k, t], h[k + 1, t]) for t in range(len(ids))]) for k in range(4)]
    np.testing.assert_allclose(found.block_influence[0], expected, rtol=1e-3, atol=1e-6)
    raw = block_influence(model, ids).block_influence[0].values
    np.testing.assert_array_equal(raw[:3], found.block_influence[0, :3])
    assert abs(raw[3] - expected[3]) > 1e-2
    assert found.attrs["departures"] == "data not named (paper: PG19), last_state = normed (paper: raw)"
    flat = [-cosine(h[k].ravel(), h[k + 1].ravel()) for k in range(4)]
    np.testing.assert_allclose(lim(model, ids, **normed).lim[0], flat, atol=1e-5)
    angles = angular_distance(model, ids, **normed).distance[0]
    for n in range(1, 5):
        wanted = [np.arccos(np.clip(cosine(h[k, -1], h[k + n, -1]), -1, 1)) / np.pi for k in range(5 - n)]
        np.testing.assert_allclose(angles[: 5 - n, n - 1], wanted, atol=1e-4)
    similar = state_similarity(model, ids, **normed).similarity[0]
    np.testing.assert_allclose(similar[4, :4], [cosine(h[4].ravel(), h[k].ravel()) for k in range(4)], atol=1e-5)
    spread = depth_variance(model, ids, exclude_sinks=False, **normed).variance[0]
    np.testing.assert_allclose(spread, h.reshape(5, -1).var(1), rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_last_state_is_refused(pair: Any) -> None:
    with pytest.raises(ValueError, match="last_state must be 'raw' or 'normed', got 'norm'"):
        block_influence(pair[1], PROMPTS, last_state="norm")  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_that_writes_nothing_has_exactly_none_and_one_that_dominates_has_most(architecture: str) -> None:
    _, silent = twins(architecture, scaled_block(2, 0.0))
    found = block_influence(silent, PROMPTS).block_influence
    assert (found.sel(layer=2) == 0).all()
    assert (found.sel(layer=[0, 1, 3]) > 1e-4).all()
    assert (lim(silent, PROMPTS).lim.sel(layer=2) == -1).all()
    _, loud = twins(architecture, scaled_block(2, 1000.0))
    assert (block_influence(loud, PROMPTS).block_influence.argmax("layer") == 2).all()
    assert (lim(loud, PROMPTS).lim.argmax("layer") == 2).all()


def test_the_results_say_what_they_are(pair: Any) -> None:
    _, model = pair
    seen: list[tuple[int, int]] = []
    found = block_influence(model, PROMPTS, data="PG19", max_tokens=5, progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]
    assert found.n_tokens.values.tolist() == [5, 5]
    assert found.attrs["importance"] == "block_influence"
    assert found.attrs["orientation"] == found.block_influence.attrs["orientation"] == "larger = more important"
    assert found.attrs["departures"] == ""
    departures = block_influence(model, PROMPTS, data="GSM8K", exclude_sinks=True).attrs["departures"]
    assert departures == "data = GSM8K (paper: PG19), exclude_sinks = true (paper: false)"
    assert lim(model, PROMPTS).attrs["importance"] == "lim"


def test_a_prompt_of_a_sink_alone_has_no_value(pair: Any) -> None:
    _, model = pair
    found = block_influence(model, [[5], [5, 17]], exclude_sinks=True)
    assert found.n_tokens.values.tolist() == [0, 1]
    assert np.isnan(found.block_influence[0]).all()
    assert np.isfinite(found.block_influence[1]).all()
    assert np.isnan(lim(model, [[5]], exclude_sinks=True).lim).all()


def test_inputs_that_cannot_be_read_are_refused(pair: Any) -> None:
    _, model = pair
    with pytest.raises(InputError, match="token id 97"):
        block_influence(model, [[5, 97]])


def test_the_users_hooks_count_and_stay(pair: Any) -> None:
    _, model = pair
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda activation, hook: -activation)]):
        assert float(block_influence(model, PROMPTS).block_influence.sel(layer=1).min()) > 1.5
    assert float(block_influence(model, PROMPTS).block_influence.sel(layer=1).max()) < 1.5
