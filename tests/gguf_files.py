"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTES = tuple(bytes_to_unicode().values())
SPECIAL = ("<pad>", "<s>", "</s>", "<|end|>", "<|user|>")
VOCABULARY = len(SPECIAL) + len(BYTES) + 1
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order: the two halves of a head interleaved."""
    size = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, size, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    hf_model: Any,
    more: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    *,
    special: Sequence[str] = SPECIAL,
    without: Sequence[str] = (),
    stored: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """Write a tiny Llama as GGUF.

    Args:
        more: called with the writer, for further keys and tensors.
        special: spelling of the first five tokens, which are control tokens.
        without: names of tensors to leave out.
        stored: how the matrices are quantised.
    """
    config, state = hf_model.config, hf_model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens = [*special, *BYTES, "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in LAYER.items()}
    for ours, theirs in names.items():
        if f"{ours}.weight" in without:
            continue
        weight = state[f"{theirs}.weight"].numpy().copy()
        if ours.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if ours.endswith("q") else config.num_key_value_heads
            weight = rotated(weight, heads)
        if stored is not None and weight.ndim == 2 and ours.startswith("blk"):
            writer.add_tensor(f"{ours}.weight", gguf.quants.quantize(weight, stored), raw_dtype=stored)
        else:
            writer.add_tensor(f"{ours}.weight", weight)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
