"""What differs between TransformerLens's two model classes, in one place.

``TransformerBridge`` (3.x and 4.x) and ``HookedTransformer`` (up to 3.x) carry the same hook names. They
differ in where the mask, the cache and the tokens of the current pass can be seen, and in how a cached
forward pass is asked for. Everything else in lacscope goes through :func:`adapt`. Every import of
something TransformerLens does not document is in this folder.
"""

from typing import Any

from lacscope.adapters.base import Adapter as Adapter
from lacscope.adapters.base import UnsupportedModelError as UnsupportedModelError
from lacscope.adapters.base import registered as registered
from lacscope.adapters.bridge import BridgeAdapter as BridgeAdapter
from lacscope.adapters.bridge import bridged_class as bridged_class
from lacscope.adapters.bridge import build_bridge as build_bridge
from lacscope.adapters.decode_state import identity_of as identity_of
from lacscope.adapters.execution import Execution as Execution
from lacscope.adapters.execution import executing as executing
from lacscope.adapters.execution import execution_of as execution_of
from lacscope.adapters.execution import reordering_plan as reordering_plan
from lacscope.adapters.hooked_transformer import HookedTransformerAdapter as HookedTransformerAdapter
from lacscope.adapters.passes import PartialPassError as PartialPassError
from lacscope.adapters.passes import PassInput as PassInput
from lacscope.adapters.passes import PassListener as PassListener
from lacscope.adapters.passes import around as around
from lacscope.adapters.passes import first_keys as first_keys
from lacscope.adapters.self_check import SelfCheck as SelfCheck
from lacscope.adapters.self_check import known_self_check as known_self_check
from lacscope.adapters.self_check import self_check as self_check


def adapt(model: Any) -> Adapter:
    """The adapter of a ``TransformerBridge`` or a ``HookedTransformer``; TypeError for anything else.

    Raises:
        UnsupportedModelError: a bridge without one stack of blocks, such as an encoder and a decoder.
    """
    if isinstance(model, Adapter):
        return model
    if hasattr(model, "original_model") and hasattr(model, "blocks") and hasattr(model, "get_hook_point"):
        return BridgeAdapter(model)
    if hasattr(model, "input_to_embed") and hasattr(model, "hook_dict") and hasattr(model, "blocks"):
        return HookedTransformerAdapter(model)
    if hasattr(model, "original_model") and hasattr(model, "get_hook_point"):
        raise UnsupportedModelError(_without_blocks(model))
    raise TypeError(
        f"expected a TransformerLens TransformerBridge or HookedTransformer, got {type(model).__name__}. "
        "lacscope.load_model(name) boots one; a transformers model can be wrapped with "
        "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)."
    )


def _without_blocks(bridge: Any) -> str:
    kind = type(bridge.original_model).__name__
    if getattr(getattr(bridge.original_model, "config", None), "is_encoder_decoder", False):
        return (
            f"{kind} is an encoder and a decoder, with a residual stream in each. lacscope reads models that are a "
            "decoder alone, such as Llama or GPT-2."
        )
    return f"{kind} has no single stack of blocks in TransformerLens, so its layers have no order to be read in."
