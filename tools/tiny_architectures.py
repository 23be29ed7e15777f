"""Every architecture of transformers' causal language models, tiny and random; for ``architectures.py``."""

from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

N_LAYERS = 4
LARGEST = 2_000_000

# What a configuration calls its sizes, and what they are here; one that has no such name goes without.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), N_LAYERS),
    "num_decoder_layers": N_LAYERS,
    "encoder_layers": 2,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_inner", "dff", "dim_ff", "decoder_ffn_dim"), 64),
    "encoder_ffn_dim": 64,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "lm_head_hidden"), 32),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group", "n_groups"), 1),
    "zero_expert_num": 2,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "swa_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim", "mamba_headdim"), 8),
    "mamba_expand": 2,
    "n_mamba_heads": 2,
    "mamba_dt_rank": 4,
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups"), 1),
    "conv_kernel": 4,
    "lru_width": 32,
    "attention_hidden_size": 32,
    "context_length": 128,
    **dict.fromkeys(("attention_window_size", "sliding_window", "rel_extent"), 64),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("query_pre_attn_scalar", "rotary_dim"), 8),
    "index_n_heads": 2,
    **dict.fromkeys(("index_head_dim", "index_dim"), 8),
    "index_topk": 64,  # random scores have ties, which transformers breaks otherwise in a longer text
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), 97),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
}

# What else a tiny one of this kind needs; None takes a size away.
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": None},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"position_embedding_type": "rope", "layer_types": ["mamba", "attention"] * 2},
    "kimi_linear": {
        "linear_attn_config": {
            "kda_layers": [1, 2, 3],
            "full_attn_layers": [4],
            "num_heads": 4,
            "head_dim": 8,
            "short_conv_kernel_size": 4,
        }
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"head_dim": 16, "num_heads": 4},
    "reformer": {
        "attention_head_size": 8,
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 16),
        "attn_layers": ["local", "lsh"] * 2,
        "feed_forward_size": 64,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 20,
        "shape_embed_dim": 8,
        "shape_vocab_size": 20,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "head_dim": 16, "attention_hidden_size": 64},
    "zamba2": {
        "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 8,
        "hybrid_layer_ids": [1, 3],
        "head_dim": 16,
        "attention_hidden_size": 64,
    },
    "zaya": {"num_experts_per_tok": 1},
}

# Pictures, sound or bytes about a language model that has a row of its own, or parts that transformers cannot build.
OTHER: dict[str, str] = {
    **dict.fromkeys(
        (
            "gemma3",
            "gemma3n",
            "gemma4",
            "gemma4_unified",
            "llama4",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen4_exp",
            "dots3_note",
        ),
        "pictures about a language model that has a row of its own (its `_text` kind)",
    ),
    **dict.fromkeys(
        ("emu3", "fuyu", "git", "got_ocr2", "mllama", "phi4_multimodal", "cohere_compass"),
        "reads pictures, and has no text-only configuration",
    ),
    **dict.fromkeys(("musicgen", "musicgen_melody", "moshi"), "writes sound"),
    "moss_transcribe_diarize": "reads sound",
    "blt": "reads bytes through three models of its own",
}


# Kinds of which another configuration is another architecture.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert, bidirectional": ("bert", {"is_decoder": False}),
    "bloom, residual after its norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "falcon, ALiBi": ("falcon", {"alibi": True}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": ("falcon", {"parallel_attn": False}),
    "gpt_bigcode, many heads of keys": ("gpt_bigcode", {"multi_query": False}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "stablelm, parallel": ("stablelm", {"use_parallel_residual": True}),
}


class CannotBuildError(RuntimeError):
    """transformers builds no tiny model of this kind; the message says why."""


def kinds() -> list[str]:
    """The model types that transformers has a causal language model of, and variants of some."""
    return sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS])


def build(kind: str, seed: int = 0) -> Any:
    """A tiny random model of the kind, in evaluation mode, float32.

    Raises:
        CannotBuildError: there is none.
    """
    if kind in OTHER:
        raise CannotBuildError(OTHER[kind])
    try:
        config = _config(kind)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    except Exception as error:
        raise CannotBuildError(f"{type(error).__name__}: {' '.join(str(error).split())[:140]}") from error
    if size > LARGEST:
        raise CannotBuildError(f"its smallest has {size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float().eval()
    _grow(model, 4.0)
    with torch.no_grad():
        try:
            logits = model(torch.tensor([[5, 17, 60, 9, 33]]), use_cache=False).logits
        except Exception as error:
            raise CannotBuildError(f"{type(error).__name__}: {' '.join(str(error).split())[:140]}") from error
        if not bool(torch.isfinite(logits).all()):
            _grow(model, 0.25)
    return model


def _config(kind: str) -> Any:
    kind, variant = VARIANTS.get(kind, (kind, {}))
    kind_of_config = CONFIG_MAPPING[kind]
    names = set(getattr(kind_of_config, "attribute_map", {}))
    for each in kind_of_config.__mro__:
        names |= set(getattr(each, "__annotations__", {}))
    try:
        names |= set(vars(kind_of_config()))
    except Exception:  # some have no default; what they declare is enough
        names |= set()
    same = getattr(kind_of_config, "attribute_map", {})
    sizes = {
        name: value
        for name, value in SIZES.items()
        if name in names and not (name in same and same[name] in SIZES and same[name] in names)
    }
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = 4  # latent attention has keys and values of every head
    return kind_of_config(**sizes | MORE.get(kind, {}) | variant)


@torch.no_grad()
def _grow(model: nn.Module, by: float) -> None:
    """Fresh weights are too small to move a norm: scaled up, blocks differ and deltas change sign."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.mul_(by)
