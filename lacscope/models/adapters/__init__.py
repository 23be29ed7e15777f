"""What differs between TransformerLens's two model classes, in one place.

``TransformerBridge`` (3.x and 4.x) and ``HookedTransformer`` (up to 3.x) carry the same hook names. They
differ in where the mask, the cache and the tokens of the current pass can be seen, and in how a cached
forward pass is asked for. Everything else in lacscope goes through :func:`adapt`. Every import of
something TransformerLens does not document is in this folder.
"""

from typing import Any

from lacscope.guards._temporary import finish
from lacscope.models.adapters._bare_model import BareModel as BareModel
from lacscope.models.adapters._bare_model import bare_model as bare_model
from lacscope.models.adapters._base import Adapter as Adapter
from lacscope.models.adapters._base import UnsupportedModelError as UnsupportedModelError
from lacscope.models.adapters._base import registered as registered
from lacscope.models.adapters._base import users_hooks as users_hooks
from lacscope.models.adapters._bridge import BridgeAdapter as BridgeAdapter
from lacscope.models.adapters._bridge import bridged_class as bridged_class
from lacscope.models.adapters._bridge import build_bridge as build_bridge
from lacscope.models.adapters._decode_state import identity_of as identity_of
from lacscope.models.adapters._eval_mode import evaluating as evaluating
from lacscope.models.adapters._execution import Execution as Execution
from lacscope.models.adapters._execution import executing as executing
from lacscope.models.adapters._execution import execution_of as execution_of
from lacscope.models.adapters._execution import reordering_plan as reordering_plan
from lacscope.models.adapters._grad_mode import dual_level as dual_level
from lacscope.models.adapters._grad_mode import inference as inference
from lacscope.models.adapters._grad_mode import with_gradients as with_gradients
from lacscope.models.adapters._grad_mode import without_gradients as without_gradients
from lacscope.models.adapters._hooked_transformer import HookedTransformerAdapter as HookedTransformerAdapter
from lacscope.models.adapters._passes import PartialPassError as PartialPassError
from lacscope.models.adapters._passes import PassInput as PassInput
from lacscope.models.adapters._passes import PassListener as PassListener
from lacscope.models.adapters._passes import around as around
from lacscope.models.adapters._passes import around_each as around_each
from lacscope.models.adapters._passes import first_keys as first_keys
from lacscope.models.adapters._private import attention_of as attention_of
from lacscope.models.adapters._private import require_private as require_private
from lacscope.models.adapters._self_check import SelfCheck as SelfCheck
from lacscope.models.adapters._self_check import known_self_check as known_self_check
from lacscope.models.adapters._self_check import self_check as self_check


def adapt(model: Any) -> Adapter:
    """The adapter of a ``TransformerBridge`` or a ``HookedTransformer``; TypeError for anything else.

    What an interrupted context left on a model is undone first.

    Raises:
        UnsupportedModelError: a bridge without one stack of blocks, such as an encoder and a decoder.
    """
    if isinstance(model, Adapter):
        return model
    finish()
    return adapter_of(model)


def adapter_of(model: Any) -> Adapter:
    """The same, with the model left as it is."""
    if hasattr(model, "original_model") and hasattr(model, "blocks") and hasattr(model, "get_hook_point"):
        require_private("torch", "transformer-lens")
        return BridgeAdapter(model)
    if hasattr(model, "input_to_embed") and hasattr(model, "hook_dict") and hasattr(model, "blocks"):
        require_private("torch")
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
