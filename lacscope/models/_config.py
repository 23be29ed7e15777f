"""What of a model's config decides its numbers: two models of equal weights and other settings are not the same."""

import json
from collections.abc import Mapping
from typing import Any

# What names a model, says where it lies or which package wrote it, and what TransformerLens or the caller switches.
# Anything not known to be of no effect counts.
_OF_NO_EFFECT = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "device",
        "dtype",
        "from_checkpoint",
        "gguf_quantization",
        "id2label",
        "init_mode",
        "init_weights",
        "initializer_range",
        "label2id",
        "model_name",
        "original_architecture",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "seed",
        "tokenizer_name",
        "torch_dtype",
        "transformers_version",
        "ungroup_grouped_query_attention",
        "use_attn_in",
        "use_attn_result",
        "use_cache",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "use_split_qkv_input",
    }
)


def deciding_settings(root: Any) -> str:
    """The settings of a model that can change its numbers, as JSON: of its config, of HookedTransformer's ``cfg``.

    Epsilons, windows, caps, rotary bases and scalings are read from there and stand in no weight.
    """
    config: Any = getattr(root, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else vars(getattr(root, "cfg", root))
    return json.dumps(_deciding(settings), sort_keys=True, default=_said)


def _deciding(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Without the names of no effect, in the parts of a config of several models too; None and absent are one."""
    return {
        str(name): _deciding(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in _OF_NO_EFFECT and value is not None
    }


def _said(value: Any) -> str:
    """What a value that JSON has no word for says of itself, without addresses in memory."""
    return str(value).partition(" at 0x")[0]
