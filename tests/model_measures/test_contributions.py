"""Relative contributions and cosines, against plain hooks and token-by-token sums."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, bridge_of, shared_model, unchanged
from plain_transformers import ATTENTION, layers_of, whole_pass

from lacscope.model_measures import (
    CSORDAS_CONTRIBUTIONS,
    CSORDAS_COSINES,
    CSORDAS_PROMPT_FORMAT,
    pool_tokens,
    relative_contributions,
    residual_cosines,
)
from lacscope.models._checks import UnsupportedModelError
from lacscope.testing import tiny_model, tiny_transformers_model

pytestmark = pytest.mark.once

ARCHITECTURES = ("llama", "gpt2", "gpt_neox")
LONG = [[5, 17, 60, 9, 33, 71, 8, 44, 3, 90, 12, 7]]


def length(vector: np.ndarray) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def parts_of(architecture: str, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h (state), a and m (layer) of a plain transformers model, by hooks on its own modules."""
    model = tiny_transformers_model(architecture)
    kept: dict[str, list[np.ndarray]] = {"attn": [], "mlp": []}

    def keep(name: str) -> Any:
        return lambda module, args, out: kept[name].append((out[0] if isinstance(out, tuple) else out)[0].numpy())

    for layer in layers_of(model, architecture):
        getattr(layer, ATTENTION[architecture]).register_forward_hook(keep("attn"))
        layer.mlp.register_forward_hook(keep("mlp"))
    streams, _ = whole_pass(model, architecture, ids)
    return torch.stack(streams).numpy(), np.stack(kept["attn"]), np.stack(kept["mlp"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_slow_direct_implementation(architecture: str) -> None:
    model = shared_model(architecture)
    sizes, angles = relative_contributions(model, PROMPTS), residual_cosines(model, PROMPTS)
    for sample, ids in enumerate(PROMPTS):
        h, a, m = parts_of(architecture, ids)
        for layer in range(4):
            want: defaultdict[str, list[float]] = defaultdict(list)
            for t in range(len(ids)):
                pre = h[layer, t]
                mid = pre if architecture == "gpt_neox" else pre + a[layer, t]
                update = a[layer, t] + m[layer, t]
                want["attn_contribution"].append(length(a[layer, t]) / length(pre))
                want["mlp_contribution"].append(length(m[layer, t]) / length(mid))
                want["block_contribution"].append(length(update) / length(pre))
                want["cos_attn_resid"].append(cosine(a[layer, t], pre))
                want["cos_mlp_resid"].append(cosine(m[layer, t], mid))
                want["cos_update_resid"].append(cosine(update, pre))
                want["cos_pre_post"].append(cosine(pre, h[layer + 1, t]))
            assert len(want) == 7
            for name, values in want.items():
                found = (sizes if name in sizes else angles)[name]
                assert float(found[sample, layer]) == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5), name
        assert int(sizes.n_tokens[sample]) == len(ids)


@pytest.mark.parametrize(
    ("factor", "contribution", "update", "post"), [(3, 2, 1, 1), (0.5, 0.5, -1, 1), (-1, 2, -1, -1)]
)
def test_a_block_that_scales_the_stream_by_hand(factor: float, contribution: float, update: float, post: float) -> None:
    model, entered = tiny_model("llama"), {}

    def remember(activation: torch.Tensor, hook: Any) -> None:
        entered["pre"] = activation

    hooks = [
        ("blocks.2.hook_resid_pre", remember),
        ("blocks.2.hook_resid_post", lambda activation, hook: factor * entered["pre"]),
    ]
    with model.hooks(fwd_hooks=hooks):
        sizes = relative_contributions(model, PROMPTS).sel(layer=2)
        angles = residual_cosines(model, PROMPTS).sel(layer=2)
    np.testing.assert_allclose(sizes.block_contribution, contribution, rtol=1e-5)
    np.testing.assert_allclose(angles.cos_update_resid, update, rtol=1e-5)
    np.testing.assert_allclose(angles.cos_pre_post, post, rtol=1e-5)


def test_a_block_with_zero_output_adds_nothing_and_a_scaled_one_the_most() -> None:
    hf_model = tiny_transformers_model("llama")
    with torch.no_grad():
        for part in (hf_model.model.layers[1].self_attn.o_proj, hf_model.model.layers[1].mlp.down_proj):
            part.weight.zero_()
        hf_model.model.layers[2].mlp.down_proj.weight.mul_(30)
    model = bridge_of(hf_model, "full")
    sizes, angles = relative_contributions(model, PROMPTS), residual_cosines(model, PROMPTS)
    assert not any(sizes[name].sel(layer=1).any() for name in sizes.data_vars)
    assert not angles[["cos_attn_resid", "cos_mlp_resid", "cos_update_resid"]].sel(layer=1).to_array().any()
    np.testing.assert_allclose(angles.cos_pre_post.sel(layer=1), 1, rtol=1e-5)
    assert (sizes.mlp_contribution.argmax("layer") == 2).all()
    assert (sizes.block_contribution.argmax("layer") == 2).all()


def test_sinks_can_be_left_out() -> None:
    model = tiny_model("llama")

    def swell(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        scale = torch.ones(activation.shape[1], 1)
        scale[5] = 100.0
        return activation * scale

    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", swell)]):
        found = relative_contributions(model, LONG, exclude_sinks=True)
        _, cache = model.run_with_cache(torch.tensor(LONG))
    assert int(found.n_tokens[0]) == len(LONG[0]) - 2
    kept = [t for t in range(len(LONG[0])) if t not in (0, 5)]
    attn, pre = (cache[f"blocks.2.hook_{name}"][0, kept].detach().norm(dim=-1) for name in ("attn_out", "resid_pre"))
    assert float(found.attn_contribution[0, 2]) == pytest.approx(float((attn / pre).mean()), rel=1e-5)
    assert found.attrs["positions"] == "all tokens but sinks"
    assert "exclude_sinks = true (paper: false)" in found.attrs["departures"]


def test_a_sample_of_sinks_alone_is_nan() -> None:
    found = residual_cosines(shared_model("llama"), [[12], PROMPTS[0]], exclude_sinks=True)
    assert found.n_tokens.values.tolist() == [0, 6]
    assert found.cos_pre_post[0].isnull().all()
    assert found.cos_pre_post[1].notnull().all()


def test_block_level_hook_points_suffice_without_sublayers() -> None:
    lean, full = shared_model("llama", "residual"), shared_model("llama")
    for function, name in ((relative_contributions, "block_contribution"), (residual_cosines, "cos_update_resid")):
        found = function(lean, PROMPTS, sublayers=False)
        assert not any("attn" in str(variable) or "mlp" in str(variable) for variable in found.data_vars)
        np.testing.assert_allclose(found[name], function(full, PROMPTS)[name], rtol=1e-4, atol=1e-6)
        with pytest.raises(UnsupportedModelError, match="hooks='full'"):
            function(lean, PROMPTS)


def test_max_tokens_reads_the_beginning() -> None:
    model = shared_model("llama")
    short = relative_contributions(model, [ids[:3] for ids in PROMPTS])
    np.testing.assert_allclose(
        relative_contributions(model, PROMPTS, max_tokens=3).mlp_contribution, short.mlp_contribution, rtol=1e-5
    )


def test_the_attributes_say_what_was_measured() -> None:
    said = {"data": "GSM8K", "prompt_format": CSORDAS_PROMPT_FORMAT}
    found = relative_contributions(shared_model("llama"), PROMPTS, **said)
    assert found.attrs["preset"] == CSORDAS_CONTRIBUTIONS.name
    assert found.attrs["departures"] == "samples = 4 (paper: 20)"
    other = relative_contributions(shared_model("llama"), PROMPTS, data="GSM8K", prompt_format="chat template")
    form = "prompt_format = chat template (paper: raw text in style csordas)"
    assert other.attrs["departures"] == f"{form}, samples = 4 (paper: 20)"
    assert (found.attrs["n_samples"], found.attrs["data"]) == (4, "GSM8K")
    assert found.mlp_contribution.attrs == {"long_name": "MLP: ||m|| / ||h + a||", "units": "1"}
    angles = residual_cosines(shared_model("gpt_neox"), PROMPTS)
    assert angles.attrs["preset"] == CSORDAS_COSINES.name
    assert angles.cos_mlp_resid.attrs["long_name"] == "MLP: cos(m, h) (parallel blocks)"
    assert all(isinstance(value, (str, int)) for value in angles.attrs.values())


def test_values_per_sample_pool_to_the_authors_mean_over_all_tokens() -> None:
    uneven = [LONG[0], LONG[0][:3]]
    found = relative_contributions(shared_model("llama"), uneven)
    by_token = []
    for ids in uneven:
        h, a, m = parts_of("llama", ids)
        by_token += [length(a[2, t] + m[2, t]) / length(h[2, t]) for t in range(len(ids))]
    pooled = pool_tokens(found)
    assert float(pooled.block_contribution[2]) == pytest.approx(np.mean(by_token), rel=1e-4)
    assert pooled.attrs["aggregation"] == "pooled over tokens"
    with pytest.raises(ValueError, match=r"no coordinate n_tokens \(sample\)"):
        pool_tokens(found.drop_vars("n_tokens"))


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("llama")
    model(torch.tensor(PROMPTS[:1]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model):
        relative_contributions(model, PROMPTS)
        residual_cosines(model, PROMPTS)
