"""What a GGUF file says of its model that transformers does not read: applied to the config, or refused by its key."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNQUANTISED = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


class GgufError(ValueError):
    """Something in a GGUF file that cannot be computed as the file says; the message names it."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's metadata, and its tensors by name.

    Args:
        fields: every key and its value.
        kinds: the storage of each tensor, as ggml names it (``"Q4_1"``).
        values: the small tensors that stand for settings, by name.
    """

    fields: Mapping[str, Any]
    kinds: Mapping[str, str]
    values: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.fields["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """The value of one of the architecture's own keys (``"rope.freq_base"``)."""
        return self.fields.get(f"{self.architecture}.{key}", default)

    @property
    def own(self) -> dict[str, Any]:
        """The architecture's own keys, without its name before them."""
        start = f"{self.architecture}."
        return {key.removeprefix(start): value for key, value in self.fields.items() if key.startswith(start)}

    @property
    def quantization(self) -> str:
        """How many tensors are stored how, most first: ``"Q4_1 x 210, F32 x 61"``; "" where none is quantised."""
        counts = Counter(self.kinds.values())
        if set(counts) <= set(UNQUANTISED):
            return ""
        return ", ".join(f"{kind} x {n}" for kind, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def read_gguf(path: Path) -> GgufFile:
    """Metadata and tensor names of a file; GgufError where it is damaged, cut short, or not one whole model."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {name: found.contents() for name, found in reader.fields.items()}
        kinds = {str(tensor.name): tensor.tensor_type.name for tensor in reader.tensors}
        values = {t.name: [float(v) for v in t.data] for t in reader.tensors if t.name in ROPE_TENSORS}
    except Exception as error:
        raise GgufError(f"it is damaged, cut short, or no GGUF at all ({type(error).__name__}: {error})") from error
    if "general.architecture" not in fields:
        raise GgufError("it has no general.architecture")
    if (kind := fields.get("general.type", "model")) != "model":
        raise GgufError(f"general.type is {kind!r}: it holds no whole model")
    if (parts := fields.get("split.count", 0)) > 1:
        raise GgufError(f"split.count is {parts}: it is one of {parts} parts; merge them with `gguf-split --merge`")
    return GgufFile(fields, kinds, values)


# Where a config keeps what a key says, the first name that it has. A key whose names it has none of must say what
# the model does anyway (the function behind it), or the file is refused.
SIZES: dict[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd", "d_model"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "residual_scale": ("residual_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "use_parallel_residual": ("use_parallel_residual",),
}
# Keys that change nothing which is computed, or that the weights' own shapes hold to.
HARMLESS = ("block_count", "tensor_data_layout", "rope.scaling.finetuned", "pooling_type", "nextn_predict_layers")
# Architectures whose config transformers builds from these keys by a function of its own.
BUILT_WHOLE: dict[str, tuple[str, ...]] = {
    "qwen35": ("ssm.", "full_attention_interval", "rope.", "attention.", "expert_", "feed_forward_length"),
    "qwen35moe": ("ssm.", "full_attention_interval", "rope.", "attention.", "expert_", "feed_forward_length"),
    "lfm2": ("shortconv.l_cache", "attention.head_count_kv"),
    "mamba": ("ssm.conv_kernel", "ssm.state_size", "ssm.time_step_rank", "ssm.inner_size", "attention.head_count",
              "feed_forward_length"),
}  # fmt: skip


def apply_metadata(file: GgufFile, config: Any) -> None:
    """Make a transformers config say what the file says; GgufError names the key that it cannot say."""
    read = BUILT_WHOLE.get(file.architecture, ())
    for key, value in file.own.items():
        if key in HARMLESS or key.startswith((*read, "rope.")):
            continue
        if key in SIZES:
            _set(file, config, key, value)
        elif key in SPECIAL_TYPES:
            SPECIAL_TYPES[key](file, config, value)
        else:
            raise _refused(file, key, value, "which is not known here and may change what the model computes")
    _apply_gemma_scale(file, config)
    _apply_no_window(file, config)
    _apply_biases(file, config)
    if file.architecture not in ("qwen35", "qwen35moe") or file.get("rope.scaling.type", "none") != "none":
        _apply_rope(file, config)


def _refused(file: GgufFile, key: str, value: Any, why: str) -> GgufError:
    return GgufError(f"{file.architecture}.{key} is {value!r}, {why}")


def _set(file: GgufFile, config: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        if len(set(value)) > 1:
            raise _refused(file, key, value, "one value a layer, and this config has one for all")
        value = value[0]
    name = next((name for name in SIZES[key] if hasattr(config, name)), None)
    if name is None:
        if value not in _ANYWAY.get(key, lambda config: (value, 0, None))(config):
            raise _refused(file, key, value, f"and {type(config).__name__} cannot say so")
    elif (now := getattr(config, name)) is None or not _same(now, value):
        if key == "expert_count" and value == 0:
            return
        setattr(config, name, type(now)(value) if isinstance(now, (int, float, bool)) else value)


def _same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float) and abs(one - other) <= 1e-6 * abs(other))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


_ANYWAY: dict[str, Any] = {
    "attention.head_count_kv": lambda config: (1 if getattr(config, "multi_query", False) else _heads(config),),
    "attention.key_length": lambda config: (_head_dim(config),),
    "attn_logit_softcapping": lambda config: (0, 0.0),
    "final_logit_softcapping": lambda config: (0, 0.0),
    "logit_scale": lambda config: (0, 0.0, 1.0),
    "residual_scale": lambda config: (0, 0.0, 1.0),
    "embedding_scale": lambda config: (0, 0.0, 1.0),
    "expert_count": lambda config: (0,),
    "expert_used_count": lambda config: (0,),
    "expert_feed_forward_length": lambda config: (0,),
    "expert_shared_feed_forward_length": lambda config: (0,),
    "expert_weights_norm": lambda config: (False,),
    "expert_weights_scale": lambda config: (0, 0.0, 1.0),
    "use_parallel_residual": lambda config: (bool(getattr(config, "parallel_attn", False)),),
    "attention.layer_norm_rms_epsilon": lambda config: (),
    "attention.layer_norm_epsilon": lambda config: (),
}


def _heads(config: Any) -> int:
    return int(getattr(config, "num_attention_heads", None) or config.n_head)


def _value_length(file: GgufFile, config: Any, value: Any) -> None:
    if value != file.get("attention.key_length", _head_dim(config)):
        raise _refused(file, "attention.value_length", value, "another size than that of the keys")


def _causal(file: GgufFile, config: Any, value: Any) -> None:
    if not value:
        raise _refused(file, "attention.causal", value, "and lacscope reads decoders, whose attention is causal")


def _scale(file: GgufFile, config: Any, value: Any) -> None:
    if hasattr(config, "attention_multiplier"):
        config.attention_multiplier = value
    elif hasattr(config, "query_pre_attn_scalar"):
        config.query_pre_attn_scalar = value**-2
    elif value and not _same(float(value), _head_dim(config) ** -0.5):
        raise _refused(file, "attention.scale", value, f"and {type(config).__name__} cannot say so")


def _window(file: GgufFile, config: Any, value: Any) -> None:
    """A window on every layer, or on those that the config's own pattern names."""
    if hasattr(config, "use_sliding_window") or not hasattr(config, "sliding_window"):
        if value and value < file.get("context_length", 0):
            raise _refused(file, "attention.sliding_window", value, "and which layers have it, the file does not say")
    else:
        config.sliding_window = value or None


def _pattern(file: GgufFile, config: Any, value: Any) -> None:
    types = getattr(config, "layer_types", None)
    n = file.get("block_count")
    said = value if isinstance(value, list) else [bool((i + 1) % value) for i in range(n)]
    if types is None or [bool(one) for one in said] != [one == "sliding_attention" for one in types]:
        raise _refused(file, "attention.sliding_window_pattern", value, "another pattern than the config's")


def _gating(file: GgufFile, config: Any, value: Any) -> None:
    wanted = {"softmax": 1, "sigmoid": 2}.get(str(getattr(config, "scoring_func", "softmax")))
    if value != wanted:
        raise _refused(file, "expert_gating_func", value, f"and {type(config).__name__} has {wanted}")


def _must_be_off(key: str) -> Any:
    def check(file: GgufFile, config: Any, value: Any) -> None:
        if value:
            raise _refused(file, key, value, "which transformers does not compute from a GGUF")

    return check


SPECIAL_TYPES: dict[str, Any] = {
    "attention.value_length": _value_length,
    "attention.causal": _causal,
    "attention.scale": _scale,
    "attention.sliding_window": _window,
    "attention.sliding_window_pattern": _pattern,
    "expert_gating_func": _gating,
    **{
        key: _must_be_off(key)
        for key in (
            "attention.max_alibi_bias", "attention.clamp_kqv", "ssm.dt_b_c_rms", "expert_shared_count",
            "expert_group_count", "expert_group_used_count", "leading_dense_block_count", "swin_norm",
            "router_logit_softcapping", "attention.output_scale", "attention.temperature_length",
            "attention.temperature_scale", "attention.shared_kv_layers", "interleave_moe_layer_step",
        )
    },
}  # fmt: skip


def _apply_gemma_scale(file: GgufFile, config: Any) -> None:
    """llama.cpp scales Gemma's queries by their own size, but in the 27B models by embedding over heads."""
    if file.architecture not in ("gemma2", "gemma3") or file.get("attention.scale"):
        return
    largest = {"gemma2": 46, "gemma3": 62}[file.architecture]
    whole = file.get("block_count") == largest
    config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if whole else _head_dim(config)


def _apply_no_window(file: GgufFile, config: Any) -> None:
    """A config's default window is no part of a file that names none."""
    named = file.get("attention.sliding_window") is not None or getattr(config, "layer_types", None) is not None
    if not named and getattr(config, "sliding_window", None) is not None:
        config.sliding_window = None


def _apply_biases(file: GgufFile, config: Any) -> None:
    """Biases that a config leaves out by default are there where the file has them."""
    for name, tensors in (
        ("attention_bias", r"blk\.\d+\.attn_(q|output)\.bias"),
        ("mlp_bias", r"blk\.\d+\.ffn_(up|down|gate)\.bias"),
    ):
        if getattr(config, name, None) is False and any(re.fullmatch(tensors, kind) for kind in file.kinds):
            setattr(config, name, True)


def _apply_rope(file: GgufFile, config: Any) -> None:
    """Rotary base, size and scaling, the tensors of divisors included."""
    rope = {key.removeprefix("rope."): value for key, value in file.own.items() if key.startswith("rope.")}
    if getattr(config, "rope_parameters", None) is None:
        if rope.get("scaling.type", "none") != "none" or file.values:
            raise GgufError(f"it scales rotary positions, which {type(config).__name__} has not")
        return
    unknown = set(rope) - set(_ROPE_KEYS)
    if unknown:
        key = sorted(unknown)[0]
        raise _refused(file, f"rope.{key}", rope[key], "which is not known here and changes what the model computes")
    _check_rotary_size(file, config, rope.get("dimension_count"))
    parameters = config.rope_parameters
    by_type = {name: one for name, one in parameters.items() if isinstance(one, dict)}
    scaled = _scaling(file, rope)
    if by_type:  # Gemma 3: layers with a window have a base of their own, and are not scaled
        full, local = by_type.get("full_attention"), by_type.get("sliding_attention")
        if full is None:
            raise GgufError(f"{type(config).__name__} has rotary positions by kind of layer, which are not known here")
        full.update({"rope_theta": rope.get("freq_base", full["rope_theta"]), **scaled})
        if local is not None and "freq_base_swa" in rope:
            local["rope_theta"] = rope["freq_base_swa"]
        return
    if "freq_base_swa" in rope:
        raise _refused(file, "rope.freq_base_swa", rope["freq_base_swa"], "and this config has one base for all layers")
    kept = {key: parameters[key] for key in ("partial_rotary_factor",) if key in parameters}
    base = {"rope_type": "default", "rope_theta": rope.get("freq_base", 10000.0)}
    config.rope_parameters = {**base, **kept, **scaled}
    if scaled.get("rope_type") == "longrope" and hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = scaled["original_max_position_embeddings"]


_ROPE_KEYS = (
    "dimension_count", "freq_base", "freq_base_swa", "scale_linear", "scaling.type", "scaling.factor",
    "scaling.attn_factor", "scaling.original_context_length", "scaling.finetuned", "scaling.yarn_ext_factor",
    "scaling.yarn_attn_factor", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow",
)  # fmt: skip


def _check_rotary_size(file: GgufFile, config: Any, size: int | None) -> None:
    if size is None:
        return
    head = _head_dim(config)
    if isinstance(rotary := getattr(config, "rotary_dim", None), int):
        now = rotary
    else:
        shares = [config.rope_parameters, *config.rope_parameters.values()]
        share = next((one["partial_rotary_factor"] for one in shares if _partial(one)), 1.0)
        now = int(head * share)
    if size == now:
        return
    if not _partial(config.rope_parameters):
        raise _refused(file, "rope.dimension_count", size, f"and {type(config).__name__} turns {now} of {head}")
    config.rope_parameters["partial_rotary_factor"] = size / head
    if hasattr(config, "partial_rotary_factor"):
        config.partial_rotary_factor = size / head


def _partial(parameters: Any) -> bool:
    return isinstance(parameters, dict) and "partial_rotary_factor" in parameters


def _scaling(file: GgufFile, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling in transformers' words; {} where there is none.

    Tensors of divisors become "longrope" with those divisors, whatever rule they came from: transformers divides by
    them one by one, as llama.cpp does.
    """
    kind = rope.get("scaling.type") or ("linear" if rope.get("scale_linear", 1.0) != 1.0 else "none")
    factor = float(rope.get("scaling.factor") or rope.get("scale_linear") or 1.0)
    attention = float(rope.get("scaling.attn_factor") or 1.0) * float(rope.get("scaling.yarn_attn_factor") or 1.0)
    trained = int(file.get("context_length", 0))
    original = int(rope.get("scaling.original_context_length") or trained)
    long, short = (file.values.get(f"rope_factors_{which}.weight") for which in ("long", "short"))
    divisors = file.values.get("rope_freqs.weight")
    if (long is None) != (short is None):
        raise GgufError("of rope_factors_long.weight and rope_factors_short.weight it has one alone")
    if kind == "longrope" and long is None:
        raise _refused(file, "rope.scaling.type", kind, "without the rope_factors tensors that belong to it")
    if kind == "yarn" and (divisors or long):
        raise _refused(file, "rope.scaling.type", kind, "together with a tensor of rope factors")
    if kind == "yarn":
        return _yarn(file, rope, factor, attention, original)
    if kind not in ("none", "linear", "longrope"):
        raise _refused(file, "rope.scaling.type", kind, "which is not known here")
    stretch = factor if kind == "linear" else 1.0
    if long is not None and short is not None:
        return _divided(short, long, stretch, attention, original)
    if divisors is not None:
        return _divided(divisors, divisors, stretch, attention, trained)
    if attention != 1.0:
        raise _refused(file, "rope.scaling.attn_factor", attention, f"with rope.scaling.type {kind!r}")
    return {"rope_type": "linear", "factor": factor} if stretch != 1.0 else {}


def _divided(
    short: Sequence[float], long: Sequence[float], stretch: float, attention: float, original: int
) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": [stretch * one for one in short],
        "long_factor": [stretch * one for one in long],
        "attention_factor": attention,
        "factor": 1.0,
        "original_max_position_embeddings": original,
    }


def _yarn(file: GgufFile, rope: Mapping[str, Any], factor: float, attention: float, original: int) -> dict[str, Any]:
    if (mixed := rope.get("scaling.yarn_ext_factor", 1.0)) not in (1.0, -1.0):
        raise _refused(file, "rope.scaling.yarn_ext_factor", mixed, "and transformers computes 1 alone")
    if factor < 1.0:
        raise _refused(file, "rope.scaling.factor", factor, "and transformers stretches positions alone")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": float(rope.get("scaling.yarn_beta_fast") or 32.0),
        "beta_slow": float(rope.get("scaling.yarn_beta_slow") or 1.0),
        "attention_factor": attention * (1.0 + 0.1 * math.log(factor)),
    }


# Tokens that end a turn, by their spelling: older files name none of them in a key of its own.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<end_of_utterance>", "<|eom_id|>", "<turn|>")
CONTROL = 3


def stop_ids(file: GgufFile) -> list[int]:
    """Ids after which generation ends: end of text, of turn and of message."""
    ids = [file.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    found = {int(i) for i in ids if i is not None}
    template = str(file.fields.get("tokenizer.chat_template", ""))
    tokens = file.fields.get("tokenizer.ggml.tokens", [])
    return sorted(found | {i for i in control_ids(file) if tokens[i] in TURN_ENDS and tokens[i] in template})


def control_ids(file: GgufFile) -> list[int]:
    """Ids of the tokens that the file calls control tokens."""
    return [i for i, kind in enumerate(file.fields.get("tokenizer.ggml.token_type") or ()) if kind == CONTROL]
