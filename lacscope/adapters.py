"""The old name of ``lacscope.models.adapters``, until 1.0."""

import sys

from lacscope.models.adapters import Adapter as Adapter
from lacscope.models.adapters import BridgeAdapter as BridgeAdapter
from lacscope.models.adapters import Execution as Execution
from lacscope.models.adapters import HookedTransformerAdapter as HookedTransformerAdapter
from lacscope.models.adapters import PartialPassError as PartialPassError
from lacscope.models.adapters import PassInput as PassInput
from lacscope.models.adapters import PassListener as PassListener
from lacscope.models.adapters import SelfCheck as SelfCheck
from lacscope.models.adapters import UnsupportedModelError as UnsupportedModelError
from lacscope.models.adapters import (
    _bare_twin,
    _base,
    _bridge,
    _decode_state,
    _evaluation,
    _execution,
    _gguf_tensors,
    _grad_mode,
    _hooked_transformer,
    _offloading,
    _ours,
    _passes,
    _rounding,
    _self_check,
    _stream,
    _weights,
)
from lacscope.models.adapters import adapt as adapt
from lacscope.models.adapters import adapter_of as adapter_of
from lacscope.models.adapters import around as around
from lacscope.models.adapters import around_each as around_each
from lacscope.models.adapters import bridged_class as bridged_class
from lacscope.models.adapters import build_bridge as build_bridge
from lacscope.models.adapters import dual_level as dual_level
from lacscope.models.adapters import evaluating as evaluating
from lacscope.models.adapters import executing as executing
from lacscope.models.adapters import execution_of as execution_of
from lacscope.models.adapters import first_keys as first_keys
from lacscope.models.adapters import identity_of as identity_of
from lacscope.models.adapters import inference as inference
from lacscope.models.adapters import known_self_check as known_self_check
from lacscope.models.adapters import registered as registered
from lacscope.models.adapters import reordering_plan as reordering_plan
from lacscope.models.adapters import self_check as self_check
from lacscope.models.adapters import users_hooks as users_hooks
from lacscope.models.adapters import with_gradients as with_gradients
from lacscope.models.adapters import without_gradients as without_gradients

# Its modules can be imported by their old names too.
sys.modules.update(
    {
        f"{__name__}.bare_twin": _bare_twin,
        f"{__name__}.base": _base,
        f"{__name__}.bridge": _bridge,
        f"{__name__}.decode_state": _decode_state,
        f"{__name__}.evaluation": _evaluation,
        f"{__name__}.execution": _execution,
        f"{__name__}.gguf_tensors": _gguf_tensors,
        f"{__name__}.grad_mode": _grad_mode,
        f"{__name__}.hooked_transformer": _hooked_transformer,
        f"{__name__}.offloading": _offloading,
        f"{__name__}.ours": _ours,
        f"{__name__}.passes": _passes,
        f"{__name__}.rounding": _rounding,
        f"{__name__}.self_check": _self_check,
        f"{__name__}.stream": _stream,
        f"{__name__}.weights": _weights,
    }
)
