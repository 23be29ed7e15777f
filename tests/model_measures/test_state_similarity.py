"""Similarity of every pair of states, by hand."""

from typing import Any

import numpy as np
import pytest
from plain_streams import ARCHITECTURES, PROMPTS, cosine, counted, scaled_block, states, twins

from lacscope.model_measures import state_similarity

pytestmark = pytest.mark.once


@pytest.mark.parametrize("exclude_sinks", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_cosine_of_flattened_states_of_a_plain_model(architecture: str, exclude_sinks: bool) -> None:
    plain, model = twins(architecture)
    long = [int(i) for i in np.random.default_rng(0).integers(0, 97, 100)]  # more than is taken at once
    found = state_similarity(model, [PROMPTS[0], long], exclude_sinks=exclude_sinks)
    expected = np.empty((2, 5, 5))
    for sample, ids in enumerate((PROMPTS[0], long)):
        h = states(plain, ids)
        h = h[:, counted(h, exclude_sinks)]
        for i in range(5):
            for j in range(5):
                expected[sample, i, j] = cosine(h[i].ravel(), h[j].ravel())
    np.testing.assert_allclose(found.similarity, expected, atol=1e-5)
    np.testing.assert_allclose(found.mean_similarity, expected.mean(0), atol=1e-5)


def test_states_about_a_silent_block_are_alike_and_the_map_is_symmetric() -> None:
    _, model = twins("llama", scaled_block(1, 0.0))
    found = state_similarity(model, PROMPTS).similarity
    np.testing.assert_allclose(found.sel(state=1, other_state=2), 1.0, atol=1e-6)
    np.testing.assert_allclose(found, found.transpose("sample", "other_state", "state").values, atol=1e-6)


def test_a_state_turned_round_is_opposite() -> None:
    _, model = twins("llama")
    turned: list[Any] = [("blocks.3.hook_resid_post", lambda activation, hook: -activation)]
    plain = state_similarity(model, PROMPTS).similarity
    with model.hooks(fwd_hooks=turned):
        found = state_similarity(model, PROMPTS).similarity
    np.testing.assert_allclose(found.sel(state=4, other_state=0), -plain.sel(state=4, other_state=0), atol=1e-6)


def test_a_prompt_of_a_sink_alone_has_no_value() -> None:
    _, model = twins("llama", n_layers=2)
    found = state_similarity(model, [[5], [5, 17]], exclude_sinks=True)
    assert np.isnan(found.similarity[0]).all()
    np.testing.assert_allclose(found.mean_similarity, found.similarity[1])
