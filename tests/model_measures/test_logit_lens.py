"""The logit lens, against a plain model's own norm and head."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, bridge_of, shared_model, unchanged
from plain_transformers import whole_pass

from lacscope.model_measures import CSORDAS_LOGIT_LENS, logit_lens
from lacscope.testing import tiny_model, tiny_transformers_model

pytestmark = pytest.mark.once

NORMS: dict[str, Any] = {
    "llama": lambda model: model.model.norm,
    "gpt2": lambda model: model.transformer.ln_f,
    "gpt_neox": lambda model: model.gpt_neox.final_layer_norm,
}


def slow_lens(architecture: str, ids: list[int], top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """KL and overlap by (state, token)."""
    model = tiny_transformers_model(architecture)
    streams, out = whole_pass(model, architecture, ids)
    kl, overlap = np.zeros((len(streams), len(ids))), np.zeros((len(streams), len(ids)))
    for state, stream in enumerate(streams):
        with torch.no_grad():
            lens = torch.softmax(model.get_output_embeddings()(NORMS[architecture](model)(stream)), dim=-1)
        for t in range(len(ids)):
            p, q = lens[t].double().tolist(), out[t].double().tolist()
            kl[state, t] = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
            likeliest = [set(sorted(range(len(r)), key=r.__getitem__)[-top_k:]) for r in (p, q)]
            overlap[state, t] = len(likeliest[0] & likeliest[1]) / top_k
    return kl, overlap


@pytest.mark.parametrize("architecture", sorted(NORMS))
@pytest.mark.parametrize("top_k", [5, 1])
def test_equals_the_slow_direct_implementation(architecture: str, top_k: int) -> None:
    found = logit_lens(shared_model(architecture), PROMPTS, top_k=top_k)
    assert found.sizes == {"sample": 4, "state": 5}
    for sample, ids in enumerate(PROMPTS):
        kl, overlap = slow_lens(architecture, ids, top_k)
        np.testing.assert_allclose(found.kl[sample], kl.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.overlap[sample], overlap.mean(1), rtol=1e-6)
        assert int(found.n_tokens[sample]) == len(ids)


def test_the_last_state_is_the_output() -> None:
    found = logit_lens(shared_model("llama"), PROMPTS).isel(state=-1)
    np.testing.assert_allclose(found.kl, 0, atol=1e-6)
    assert (found.overlap == 1).all()


def test_blocks_with_zero_output_say_all_there_is_to_say_from_the_start() -> None:
    hf_model = tiny_transformers_model("llama")
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found = logit_lens(bridge_of(hf_model), PROMPTS)
    np.testing.assert_allclose(found.kl, 0, atol=1e-6)
    assert (found.overlap == 1).all()


def test_the_whole_vocabulary_always_overlaps() -> None:
    assert (logit_lens(shared_model("llama"), PROMPTS, top_k=97).overlap == 1).all()


def test_sinks_can_be_left_out() -> None:
    found = logit_lens(shared_model("llama"), PROMPTS[:1], exclude_sinks=True)
    kl, _ = slow_lens("llama", PROMPTS[0], 5)
    np.testing.assert_allclose(found.kl[0], kl[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    assert int(found.n_tokens[0]) == len(PROMPTS[0]) - 1


def test_max_tokens_progress_and_attributes() -> None:
    calls = []
    found = logit_lens(
        shared_model("llama"), PROMPTS, max_tokens=2, data="words", progress=lambda done, of: calls.append((done, of))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.n_tokens.values.tolist() == [2, 2, 1, 2]
    assert found.attrs["preset"] == CSORDAS_LOGIT_LENS.name
    assert found.attrs["departures"].split(", ") == [
        "data = words (paper: GSM8K)",
        "prompt_format not named (paper: raw text in style csordas)",
        "samples = 4 (paper: 20)",
        "max_tokens = 2 (paper: null)",
    ]
    assert found.kl.attrs["units"] == "nats"


@pytest.mark.parametrize("top_k", [0, 98])
def test_an_impossible_top_k_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"top_k must lie between 1 and 97, the size of the vocabulary; got {top_k}"):
        logit_lens(shared_model("llama"), PROMPTS, top_k=top_k)


def test_the_model_is_left_as_it_was_also_after_an_error() -> None:
    model = tiny_model("llama")

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    model(torch.tensor(PROMPTS[:1]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        logit_lens(model, PROMPTS, progress=stop)
