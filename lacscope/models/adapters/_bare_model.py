"""A bridge's wrapped model run without the bridge: its own modules and weights, and nothing of TransformerLens between.

A bridge with no hook on it costs a tenth of a decode step, and eager attention twice a long prefill. Passes that read
the residual stream at the blocks alone need nothing of it.
"""

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lacscope.guards._temporary import Note, Temporary
from lacscope.models.adapters import _decode_state as decode_state
from lacscope.models.adapters import _private as private
from lacscope.models.adapters._bare_twin import bare_twin, is_of, why_not_alone
from lacscope.models.adapters._base import Adapter, registered
from lacscope.models.adapters._execution import execution_of
from lacscope.models.adapters._grad_mode import without_gradients
from lacscope.models.adapters._passes import PassInput
from lacscope.models.adapters._self_check import EQUAL, SequenceCheck, self_check, tried
from lacscope.models.adapters._unsupported import UnsupportedModelError
from lacscope.models.adapters._weights import is_subclass

Positions = Literal["of padded rows", "of all rows", "of none"]
See = Callable[[str, int, Tensor], Tensor | None]

_ATTENTION = "_lacscope_attention"


def remember_attention(hf_model: nn.Module) -> None:
    """Note on a model how it computes attention of its own accord, before a bridge has it compute it eagerly.

    On the model itself, for a copy to have it too.
    """
    vars(hf_model)[_ATTENTION] = private.attention_of(hf_model)


class BareModel:
    """The wrapped model alone.

    Args:
        twin: the modules of the wrapped model without any bridge component, in evaluation mode.
        blocks: the twin's blocks, in order.
        positions: the rows whose positions the model is to be told; it counts those of the others itself.

    ``ends_on_any_length`` is True where what comes after the last block reads fewer positions than the blocks just as
    well.
    """

    def __init__(self, twin: Any, blocks: list[nn.Module], positions: Positions) -> None:
        self.twin, self._positions = twin, positions
        self.ends_on_any_length = False
        self._see: See | None = None
        self._parameters = [module._parameters for module in twin.modules() if module._parameters]
        accepted = inspect.signature(twin.forward).parameters
        self._keeps_last = "logits_to_keep" in accepted
        for layer, block in enumerate(blocks):
            block.__dict__["forward"] = self._shown(layer, block.forward)

    @property
    def attention(self) -> str | None:
        """How attention is computed: ``"sdpa"``, ``"eager"``, ..."""
        return private.attention_of(self.twin)

    @property
    def in_subclasses(self) -> bool:
        """True where any parameter keeps its numbers in other tensors."""
        return any(one is not None and is_subclass(one) for held in self._parameters for one in held.values())

    def shown_to(self, see: See) -> Temporary[None]:
        """Each stream that enters or leaves a block is given to ``see(point, layer, stream)`` for a while.

        What it returns, where that is not None, is what the block hands on.
        """

        def show(note: Note) -> None:
            note("the bare model's blocks are watched", _put_back, self, self._see)
            self._see = see

        return Temporary(show)

    def _shown(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            see = self._see
            if see is None:
                return forward(*args, **kwargs)
            see("hook_resid_pre", layer, args[0] if args else kwargs["hidden_states"])
            output = forward(*args, **kwargs)
            whole = isinstance(output, Tensor)
            handed_on = see("hook_resid_post", layer, output if whole else output[0])
            if handed_on is None:
                return output
            return handed_on if whole else (handed_on, *output[1:])

        return run

    def call(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        keep: int | None,
        padded: bool = True,
    ) -> tuple[dict[str, Any], PassInput]:
        """What :meth:`run` is given for one (cached) pass, and what the pass is given to read.

        ``padded`` is False where no row has pads: the model then needs no mask, and ``mask`` is not looked at.
        """
        past, new = decode_state.read_by(cache) or 0, tokens.shape[1]
        given: dict[str, Any] = {"input_ids": tokens, "use_cache": use_cache}
        if keep and self._keeps_last:
            given["logits_to_keep"] = keep
        if padded:
            given["attention_mask"] = mask.long()
        if self._positions != "of none" and padded:
            given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -new:]
        elif self._positions == "of all rows":
            given["position_ids"] = torch.arange(past, past + new, device=tokens.device).expand_as(tokens)
        if cache is not None:
            given["past_key_values"] = cache
        return given, PassInput(tokens, mask if padded else None, past, decode_state.identity_of(cache))

    def run(self, given: dict[str, Any]) -> tuple[Float[Tensor, "row read vocab"], Any]:
        """One pass: the logits, and the cache."""
        output = self.twin(**given)
        cache = decode_state.state_of({}, output)
        if given["use_cache"] and cache is None:
            raise UnsupportedModelError(decode_state.NO_STATE.format(type(self.twin).__name__))
        return output.logits, cache

    def step(
        self, tokens: Tensor, mask: Tensor, cache: Any, *, use_cache: bool, keep: int | None
    ) -> tuple[Float[Tensor, "row read vocab"], Any]:
        """One pass that nobody watches, as the adapter's own ``step``."""
        padded = not bool(mask.all())
        given, _ = self.call(tokens, mask, cache, use_cache=use_cache, keep=keep, padded=padded)
        logits, cache = self.run(given)
        return (logits[:, -keep:] if keep else logits), cache


def _put_back(bare: BareModel, see: See | None) -> None:
    bare._see = see


_NOT_COPIED = set(vars(nn.Module())) | {"forward"}


class _Found:
    """A bare model, or why there is none, and how the bridge stood when it was made."""

    def __init__(self, adapter: Adapter, modules: list[nn.Module]) -> None:
        self.bare: BareModel | None = None
        self.reason = ""
        self._held = [(held, list(held.values())) for held in map(private.children, modules) if held]
        # Of some thousand modules hardly any has a hook or a forward of its own: those few are compared one by one.
        owns = list(map(vars, modules))
        self._untouched = [own for own in owns if not any(private.hooks_in(own)) and "forward" not in own]
        self._touched = [own for own in owns if any(private.hooks_in(own)) or "forward" in own]
        # The twin has copies of what a transformers module has beside its parameters.
        self._attributes = [
            (own, tuple(kept), tuple(own[name] for name in kept))
            for module, own in zip(modules, owns, strict=True)
            if not is_of("transformer_lens.", type(module)) and (kept := own.keys() - _NOT_COPIED)
        ]
        self._buffers = [(held, list(held.values())) for own in owns if (held := own["_buffers"])]
        self._state = self._standing(adapter)

    def holds(self, adapter: Adapter) -> bool:
        """True while no module, hook, forward, buffer or setting has been put in another's place."""
        return (
            self._standing(adapter) == self._state
            and not any(map(any, map(private.hooks_in, self._untouched)))
            and not any("forward" in own for own in self._untouched)
            and all(
                len(held) == len(values) and all(map(is_, held.values(), values))
                for held, values in (*self._held, *self._buffers)
            )
            and all(all(map(is_, map(own.get, names), values)) for own, names, values in self._attributes)
        )

    def _standing(self, adapter: Adapter) -> tuple[Any, ...]:
        bridge = adapter.model
        config: Any = getattr(bridge.original_model, "config", None)
        return (
            config.to_dict() if hasattr(config, "to_dict") else None,
            id(vars(bridge.original_model)),
            [(own.get("forward"), *map(len, private.hooks_in(own))) for own in self._touched],
            ["forward" in vars(bridge), *map(len, private.hooks_in(vars(bridge)))],
            bool(getattr(bridge, "compatibility_mode", False)),
            private.attention_of(bridge.original_model),
        )


_FOUND: "weakref.WeakKeyDictionary[Any, _Found]" = weakref.WeakKeyDictionary()


def bare_model(adapter: Adapter) -> tuple[BareModel | None, str]:
    """The wrapped model alone; or None, and why it would not give the bridge's numbers.

    Tried once a model, and again where a hook or a module was added since.
    """
    if not hasattr(adapter.model, "original_model"):
        return None, f"a {type(adapter.model).__name__} wraps no other model"
    if execution_of(adapter.model) is not None:
        return None, "the model runs under a plan"
    found = _FOUND.get(adapter.model)
    if found is not None and found.holds(adapter):
        return found.bare, found.reason
    if adapter.user_hooked():
        return None, "hooks of yours stand on it"
    # Without the bridge itself, which is the key that lets go of all this.
    modules = list({id(one): one for one in adapter.modules() if one is not adapter.model}.values())
    reason = why_not_alone(adapter.model, [adapter.model, *modules]) or _replaced_forward(modules)
    if reason and found is not None and found.bare is not None:
        return None, reason  # it may be as it was later
    found = _Found(adapter, modules)
    found.bare, found.reason = (None, reason) if reason else _tried(adapter)
    _FOUND[adapter.model] = found
    return found.bare, found.reason


def _replaced_forward(modules: Iterable[nn.Module]) -> str:
    for module in modules:
        forward = vars(module).get("forward")
        if forward is not None and not is_of("transformer_lens.", forward):
            return f"the forward of a {type(module).__name__} was replaced"
    return ""


def _tried(adapter: Adapter) -> tuple[BareModel | None, str]:
    original = adapter.model.original_model
    if decode_state.state_name(original) != decode_state.USUAL or decode_state.holds_state(original):
        return None, "its state is not handed on under the usual name"
    report = self_check(adapter)
    if report is None or not report.bridge == report.causal == report.decode == report.padding == EQUAL:
        return None, "the bridge itself was not found to be right"
    accepts = "position_ids" in inspect.signature(original.forward).parameters
    ways: tuple[Positions, ...] = ("of padded rows", "of all rows", "of none") if accepts else ("of none",)
    private.require_private("transformers")
    own = private.attention_of(original)
    # Of its own accord first; the way the bridge has it computed where that gives other numbers.
    wrong = ""
    for attention in dict.fromkeys((vars(original).get(_ATTENTION, own), own)):
        for positions in ways:
            with adapter.quiet(), without_gradients():
                bare = _made(adapter, attention, positions)
                found, failure = tried(functools.partial(_compared, adapter, bare))
                if found == EQUAL:
                    bare.ends_on_any_length = _ends_on_any_length(adapter, bare)
                    return bare, ""
                wrong = wrong or found or failure
    return None, f"alone the wrapped model does not give the bridge's logits and streams ({wrong})"


def _made(adapter: Adapter, attention: str | None, positions: Positions) -> BareModel:
    made: dict[int, nn.Module] = {}
    twin: Any = bare_twin(adapter.model.original_model, made)
    configs: dict[int, Any] = {}
    for module in twin.modules():
        module.training = False
        if (config := vars(module).get("config")) is not None:
            vars(module)["config"] = configs.get(id(config)) or configs.setdefault(id(config), copy.deepcopy(config))
    if attention is not None and attention != private.attention_of(twin):
        twin.set_attn_implementation(attention)
    blocks = [bare_twin(block, made) for block in adapter.model.blocks]
    return BareModel(twin, blocks, positions)


def _ends_on_any_length(adapter: Adapter, bare: BareModel) -> bool:
    """True where the last block may hand on its last position alone."""
    check = SequenceCheck(adapter, bare.step)

    def see(point: str, layer: int, stream: Tensor) -> Tensor | None:
        return stream[:, -1:] if (point, layer) == ("hook_resid_post", adapter.n_layers - 1) else None

    right = check.whole()
    with bare.shown_to(see):
        found, _ = tried(check.whole)
    return found is not None and check.compared([(found, right[:, -1:])]) == EQUAL


def _compared(adapter: Adapter, bare: BareModel) -> str:
    """``"equal"`` where the bare model has the bridge's logits and streams, with a cache and with pads too."""
    check, of_bridge = SequenceCheck(adapter, bare.step), SequenceCheck(adapter, adapter.step)
    bridged: dict[tuple[str, int], Tensor] = {}
    alone: dict[tuple[str, int], Tensor] = {}

    def see(point: str, layer: int, stream: Tensor) -> None:
        alone[point, layer] = stream.clone()

    def keep(place: tuple[str, int]) -> Callable[..., None]:
        def hook(activation: Tensor, hook: Any) -> None:
            bridged[place] = activation.clone()

        return hook

    places = [(name, k) for k in range(adapter.n_layers) for name in ("hook_resid_pre", "hook_resid_post")]
    points = [(adapter.hook_point(f"blocks.{layer}.{name}"), keep((name, layer))) for name, layer in places]
    with registered(points):
        right = of_bridge.whole()
    with bare.shown_to(see):
        found = check.whole()
    if list(alone) != places:
        return "its blocks do not run once and in order"
    verdicts = (
        check.compared([(found, right), *((alone[one], bridged[one]) for one in places)]),
        *check.of_passes(right[0]),
    )
    return next((verdict for verdict in verdicts if verdict != EQUAL), EQUAL)
