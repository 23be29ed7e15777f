"""The language model inside a model that also reads images or sound."""

import copy
from typing import Any

import torch
from torch import nn

from lacscope.models._checks import nearly_equal
from lacscope.models.adapters import attention_of, evaluating, without_gradients

# Text models that transformers ships inside a wrapper alone, and the causal model that computes the same on text:
# a token's three positions are then one.
SAME_ON_TEXT = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
PROBE = 12  # tokens on which the language model must give the wrapper's logits


def is_wrapper(hf_model: Any) -> bool:
    """True where a model keeps a config of its own for its text part."""
    try:
        return hf_model.config.get_text_config() is not hf_model.config
    except (AttributeError, ValueError):  # a config of somebody's own, or several text parts
        return False


def language_model(hf_model: Any) -> Any | None:
    """The wrapper's language model as transformers' own class for text, over the wrapper's weights.

    None where transformers has no such class, or where it does not give the wrapper's logits on text.
    """
    decoder, head = hf_model.get_decoder(), hf_model.get_output_embeddings()
    if head is None or decoder is hf_model or not hasattr(decoder, "config"):
        return None
    found = _around(decoder, head) or _rebuilt(decoder, head)
    if found is None:
        return None
    found.generation_config, found.name_or_path = hf_model.generation_config, hf_model.name_or_path
    for name in ("hf_device_map", "hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit"):
        if name in vars(hf_model):
            setattr(found, name, vars(hf_model)[name])
    if hasattr(hf_model.config, "quantization_config"):
        found.config.quantization_config = hf_model.config.quantization_config
    found.train(hf_model.training)
    if _same_logits(hf_model, found):
        return found
    if hasattr(found, "logit_scale"):  # Cohere's wrappers leave the scale of the logits out
        found.config = copy.deepcopy(found.config)
        found.logit_scale = found.config.logit_scale = 1.0
    return found if _same_logits(hf_model, found) else None


def _around(decoder: Any, head: nn.Module) -> Any | None:
    """transformers' causal class for this very decoder, with the decoder and the head in their places."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config: Any = decoder.config
    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in classes:
        return None
    with torch.device("meta"):
        model = classes[type(config)](copy.deepcopy(config))
    name = model.base_model_prefix
    if type(getattr(model, name, None)) is not type(decoder):
        return None
    setattr(model, name, decoder)
    model.set_output_embeddings(head)
    model.config = config
    return model


def _rebuilt(decoder: Any, head: nn.Module) -> Any | None:
    """The causal model that computes the same on text, over the decoder's weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = decoder.config
    if config.model_type not in SAME_ON_TEXT:
        return None
    given = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures", "rope_scaling")}
    given["rope_parameters"] = {k: v for k, v in config.rope_parameters.items() if not k.startswith("mrope")}
    given["rope_parameters"]["rope_type"] = given["rope_parameters"].get("rope_type", "default")
    text = AutoConfig.for_model(SAME_ON_TEXT[config.model_type], **given)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text, attn_implementation=attention_of(decoder))
    try:
        model.model.load_state_dict(decoder.state_dict(), assign=True)
    except RuntimeError:
        return None
    model.model.rotary_emb = type(model.model.rotary_emb)(config=text).to(next(decoder.parameters()).device)
    model.set_output_embeddings(head)
    return model


def _same_logits(wrapper: Any, text: Any) -> bool:
    """Whether both give the same logits on a few tokens of text, none of which stands for an image or a sound."""
    vocab = text.config.vocab_size
    special = {v for k, v in wrapper.config.to_dict().items() if k.endswith(("_token_id", "_token_index"))}
    ids = [i for i in range(vocab) if i not in special][: 4 * PROBE : 4] or [0]
    tokens = torch.tensor([ids], device=text.get_input_embeddings().weight.device)
    try:
        with evaluating([*wrapper.modules(), *text.modules()]), without_gradients():
            return nearly_equal(text(input_ids=tokens).logits, wrapper(input_ids=tokens).logits)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return False
