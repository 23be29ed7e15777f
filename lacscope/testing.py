"""Small things to test against: synthetic traces, and tiny random models built in process."""

from typing import Any

import numpy as np
import xarray as xr

from lacscope.dataset import NORMS, SampleTrace, build
from lacscope.thresholds import lac_thresholds

_WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
_SPECIAL = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GROUPED = {**_WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 128}
_COMMON: dict[str, Any] = _SPECIAL

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**_WIDTHS, "max_position_embeddings": 128},
    "opt": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
    },
    "phi": {**_WIDTHS, "max_position_embeddings": 128},
    "falcon": {"hidden_size": 32, "num_attention_heads": 4, "new_decoder_architecture": False},
    "bloom": {"hidden_size": 32, "n_head": 4},
    "olmo2": _GROUPED,
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
}

_WORDS = (
    " the",
    " river",
    " rises",
    " in",
    " a",
    " wood",
    ".",
    " Is",
    " it",
    " deep",
    "?",
    "\n",
    "<|im_start|>",
    " y",
)


def synthetic_trace(
    n_samples: int = 3,
    n_layers: int = 12,
    prompt_tokens: int = 20,
    decode_tokens: int = 6,
    *,
    alpha: float = 0.8,
    seed: int = 0,
) -> xr.Dataset:
    """A trace that no model made, shaped like a real one: a falling middle, a sink at token 0, uneven lengths.

    Needs no torch. Norms, deltas and voids agree with each other as in an ``observe`` trace at ``alpha``.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for sample in range(n_samples):
        prompt = prompt_tokens - sample % 3
        decode = max(0, decode_tokens - sample % 2)
        length = prompt + decode
        depth = np.linspace(0, 1, n_layers)[:, None]
        step = 6 * np.exp(-8 * depth) + 5 * depth**4 + rng.normal(0.0, 0.6, (n_layers, length))
        start = rng.uniform(8, 12, (1, length))
        post = np.maximum(start + np.cumsum(step, axis=0), 1.0)
        post[1:-1, 0] *= 60  # a sink
        pre = np.concatenate([start, post[:-1]])
        pre, post = pre.astype(np.float32), post.astype(np.float32)
        delta = post - pre
        update = np.abs(delta) + rng.uniform(2, 6, delta.shape).astype(np.float32)
        ids = rng.integers(0, len(_WORDS), length)
        decoding = np.arange(length) >= prompt
        produced = np.full(length, -1)
        if decode:
            produced[prompt - 1 :] = np.append(ids[prompt:], 1)
        samples.append(
            SampleTrace(
                token_id=ids,
                next_token_id=produced,
                decode=decoding,
                layerwise=dict(zip(NORMS, (pre, post, delta, update), strict=True)),
                void=delta < lac_thresholds(delta, alpha),
            )
        )
    attrs = {
        "model": "synthetic",
        "rule": f'{{"alpha": {alpha}, "name": "L2AdaptiveComputation", "unit": "block"}}',
        "effect": "observe",
        "seed": seed,
        "cost": '{"attend": 2304.0, "block": 7077888.0, "head": 56623104.0, "kv": 442368.0}',
    }
    return build(samples, attrs, token_text=dict(enumerate(_WORDS)), special_ids=[12])


def tiny_model(
    architecture: str = "llama",
    *,
    n_layers: int = 4,
    hooks: str = "full",
    seed: int = 0,
    **config: Any,
) -> Any:
    """A tiny random ``TransformerBridge``, built in process: no download, no tokenizer.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        n_layers: number of blocks.
        hooks: ``"full"`` or ``"residual"``, as for :func:`lacscope.load_model`.
        seed: of the random weights; the caller's random state is left as it was.
        config: more options of the transformers configuration.

    Raises:
        ValueError: an unknown architecture.
    """
    from lacscope.adapters import build_bridge

    hf_model = tiny_transformers_model(architecture, n_layers=n_layers, seed=seed, **config)
    return build_bridge(hf_model, None, name=f"tiny-{architecture}", residual_only=hooks == "residual")


def tiny_transformers_model(architecture: str = "llama", *, n_layers: int = 4, seed: int = 0, **config: Any) -> Any:
    """The same as a plain transformers model in evaluation mode, float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(sorted(ARCHITECTURES))}.")
    options = {**_COMMON, **ARCHITECTURES[architecture], **config}
    depth = "n_layer" if architecture in ("gpt2", "bloom") else "num_hidden_layers"
    model_config = AutoConfig.for_model(architecture, **{depth: n_layers}, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model_config)
        # Fresh weights are too small to move a norm: scaled up, blocks differ and deltas change sign.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(4.0)
    return model.eval()
