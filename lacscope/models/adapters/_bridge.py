"""``TransformerBridge`` (TransformerLens 3.x and 4.x)."""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lacscope.guards._temporary import Note, Temporary, together
from lacscope.models.adapters import _decode_state as decode_state
from lacscope.models.adapters import _private as private
from lacscope.models.adapters._bare_model import remember_attention
from lacscope.models.adapters._bare_twin import reference_of
from lacscope.models.adapters._base import Adapter, UnsupportedModelError, set_forward
from lacscope.models.adapters._grad_mode import without_gradients
from lacscope.models.adapters._passes import (
    PARTIAL_PASS,
    PartialPassError,
    PassInput,
    PassListener,
    around,
    around_each,
)
from lacscope.models.adapters._rounding import repeats
from lacscope.models.adapters._uncopied import Ours

_NEEDS_POSITIONS: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
NO_POSITIONS = (
    "{} reads a cached token as if it stood at the beginning unless it is told where it stands, and this call does not "
    "say (position_ids). Generate with lacscope.trace, or with transformers' own model.original_model.generate."
)
_OUTPUT_SIZES: "weakref.WeakKeyDictionary[Any, list[int | None]]" = weakref.WeakKeyDictionary()
_LEAN_IS_EXACT: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


class BridgeAdapter(Adapter):
    """``TransformerBridge``: the wrapped transformers model sees mask and cache on every path."""

    @property
    def context_length(self) -> int | None:
        config = getattr(self.model.original_model, "config", None)
        config = getattr(config, "text_config", None) or config
        if getattr(config, "alibi", False) is True:
            return None  # Falcon names a length that its ALiBi positions do not have
        for field in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(value := getattr(config, field, None), int):
                return value
        return None

    def hook_point(self, name: str) -> Any:
        return self.model.get_hook_point(name)

    def hook_points(self) -> Iterator[Any]:
        return iter(private.hook_registry(self.model).values())

    def lean(self, *, forced: bool = False) -> Temporary[None]:
        # In compatibility mode the processed weights live in the bridged submodules.
        if getattr(self.model, "compatibility_mode", False) or not (forced or self._lean_is_exact()):
            return together()
        return Temporary(self._unhook_blocks, self._make_blocks_direct)

    def _lean_is_exact(self) -> bool:
        """True where the blocks' own submodules give the bridged ones' logits, bit for bit; tried once a model.

        Some bridged attentions (Falcon's) compute by themselves, and differ in the last bits. On a GPU rounding is let
        pass: one kernel that adds in another order would choose the slow way for good.
        """
        if self.model not in _LEAN_IS_EXACT:
            ids = torch.arange(min(16, self.context_length or 16), device=self.device).unsqueeze(0) % self.vocab_size
            mask = torch.ones_like(ids).bool()
            with self.quiet(), without_gradients():
                bridged, _ = self.step(ids, mask, None, use_cache=False, keep=None)
                with self.lean(forced=True):
                    plain, _ = self.step(ids, mask, None, use_cache=False, keep=None)
            _LEAN_IS_EXACT[self.model] = repeats(bridged, plain)
        return _LEAN_IS_EXACT[self.model]

    def prefer_lean(self) -> None:
        _LEAN_IS_EXACT[self.model] = True

    def give_positions(self, given: bool) -> bool:
        accepted = "position_ids" in inspect.signature(self.model.original_model.forward).parameters
        _NEEDS_POSITIONS[self.model] = given and accepted
        return accepted

    def modules(self) -> Iterator[nn.Module]:
        # The bridge does not list the wrapped model among its modules, nor that model what a component wraps.
        yield from self.model.modules()
        for module in self.model.original_model.modules():
            yield module
            if (original := getattr(module, "original_component", None)) is not None:
                yield from original.modules()

    def reference(self) -> tuple[Callable[..., Any] | None, str]:
        return reference_of(self.model)

    def _unhook_blocks(self, note: Note) -> None:
        swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for block in self.model.blocks:
            for parent in list(block.original_component.modules()):
                for name, child in private.children(parent).items():
                    original = getattr(child, "original_component", None) if child is not None else None
                    if original is not None and hasattr(child, "hook_out") and _runs_the_original(child):
                        swapped.append((parent, name, child))
        for parent, name, child in swapped:
            note("submodule", _put_back, parent, name, child)
            private.children(parent)[name] = child.original_component

    def _make_blocks_direct(self, note: Note) -> None:
        """Blocks that fire their two residual points about the layer and do nothing else.

        The bridge's own forward looks at the layer's signature, at captures and at stop flags on every call: half
        the overhead of a decode step.
        """
        # What something else put about a block's forward, such as a plan, stays.
        for block in self.model.blocks:
            if _is_plain(block) and "forward" not in block.__dict__:
                set_forward(note, block, Ours(_forward_directly, block))

    def returned(self, layer: int, stream: Tensor) -> Any:
        return _give_back(self._output_sizes()[layer], self._at_home(layer, stream))

    def _idle(self, layer: int) -> tuple[nn.Module, Callable[..., Any]]:
        self._output_sizes()  # tried before a block is idle

        def give_back(*args: Any, **kwargs: Any) -> Any:
            return self.returned(layer, args[0] if args else kwargs["hidden_states"])

        return self.model.blocks[layer].original_component, give_back

    def _output_sizes(self) -> list[int | None]:
        """How many things each layer returns, in a tuple; None for one that returns its stream. Tried once a model."""
        if self.model not in _OUTPUT_SIZES:
            sizes: list[int | None] = []

            def look(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                output = forward(*args, **kwargs)
                sizes.append(len(output) if isinstance(output, tuple) else None)
                return output

            ids = torch.zeros((1, 1), dtype=torch.long, device=self.device)
            layers = [(block.original_component, "forward", look) for block in self.model.blocks]
            with self.quiet(), without_gradients(), around_each(layers):
                self.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=1)
            _OUTPUT_SIZES[self.model] = sizes
        return _OUTPUT_SIZES[self.model]

    def _after_head(self, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch pos vocab"]:
        return self.model.adapter.apply_output_logits_transform(logits)

    def trunk(self) -> nn.Module | None:
        original = self.model.original_model
        inside: nn.Module = getattr(original, "base_model", original)
        return None if inside is original else inside

    def watched(self) -> list[tuple[nn.Module, str]]:
        return [(self.model.original_model, "forward")]

    def watch(self, listener: PassListener) -> Temporary[None]:
        stopped = private.stop_exception()

        def outer(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # The bridge tells its blocks where to start and stop; 0 starts with all of them to run.
            block = self.model.blocks[0]
            if private.start_of(block) not in (None, 0):
                raise PartialPassError(PARTIAL_PASS.format("start_at_layer"))
            if private.stop_of(block) is not None:
                raise PartialPassError(PARTIAL_PASS.format("stop_at_layer"))
            given, n_read = _read_transformers_call(forward, args, kwargs)
            listener.open_pass(given)
            state, completed = None, False
            try:
                if given.past_length and _NEEDS_POSITIONS.get(self.model) and kwargs.get("position_ids") is None:
                    raise UnsupportedModelError(NO_POSITIONS.format(self.name))
                output = forward(*args, **kwargs)
                state = decode_state.state_of(kwargs, output)
                if state is None and kwargs.get("use_cache") and not self.model.original_model.training:
                    raise UnsupportedModelError(decode_state.NO_STATE.format(self.name))
                decode_state.count(state, n_read)
                completed = True
            except stopped:
                # run_with_cache stops by a hook of its own, which tells no block.
                raise PartialPassError(PARTIAL_PASS.format("stop_at_layer")) from None
            finally:
                listener.close_pass(decode_state.identity_of(state), completed)
            return output

        return around(self.model.original_model, "forward", outer)

    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        keep: int | None,
    ) -> tuple[Float[Tensor, "row read vocab"], Any]:
        extra: dict[str, Any] = {"logits_to_keep": keep} if keep and self._keeps_last else {}
        if self._has_usual_state:
            if cache is not None:
                extra["past_key_values"] = cache
                if _NEEDS_POSITIONS.get(self.model):
                    extra["position_ids"] = (mask.long().cumsum(-1) - 1)[:, -tokens.shape[1] :]
            logits, cache = self.model(
                tokens, attention_mask=mask.long(), return_type="logits_and_cache", use_cache=use_cache, **extra
            )
        else:
            logits, cache = self._step_of_another_state(tokens, mask, cache, use_cache, extra)
        if use_cache and cache is None:
            raise UnsupportedModelError(decode_state.NO_STATE.format(self.name))
        return (logits[:, -keep:] if keep else logits), cache

    def _step_of_another_state(
        self, tokens: Tensor, mask: Tensor, cache: Any, use_cache: bool, extra: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """A pass of a model whose state the bridge does not hand on."""
        original, name = self.model.original_model, decode_state.state_name(self.model.original_model)
        if use_cache and cache is None and decode_state.holds_state(original):
            from transformers import DynamicCache

            cache = decode_state.HeldState(DynamicCache(config=original.config))
        held = cache if isinstance(cache, decode_state.HeldState) else None
        if cache is not None:
            extra[name] = cache if held is None else held.cache
        # A recurrent state has its pads behind it, and its layers take a mask of the new tokens alone.
        if cache is None or held is not None:
            extra["attention_mask"] = mask.long()
        seen: list[Any] = []

        def look(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            seen.append(decode_state.state_of(kwargs, output))
            return output

        with around(original, "forward", look), together() if held is None else held.lent(original):
            logits = self.model(tokens, return_type="logits", use_cache=use_cache, **extra)
            if held is not None:
                held.keep(original)
        return logits, held if held is not None else seen[-1] if use_cache else None

    def select_rows(self, cache: Any, rows: Int[Tensor, " row"]) -> None:
        decode_state.select_rows(cache, rows)

    @functools.cached_property
    def _has_usual_state(self) -> bool:
        original = self.model.original_model
        return decode_state.state_name(original) == decode_state.USUAL and not decode_state.holds_state(original)

    @functools.cached_property
    def _keeps_last(self) -> bool:
        return "logits_to_keep" in inspect.signature(self.model.original_model.forward).parameters


def _read_transformers_call(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[PassInput, int | None]:
    """What a pass is given to read, and how many tokens its state will have read after it, where that is known."""
    if args:
        kwargs = inspect.signature(forward).bind(*args, **kwargs).arguments | kwargs
    tokens: Any = kwargs.get("input_ids")
    embeds: Any = kwargs.get("inputs_embeds")
    n_rows, n_new = (embeds if tokens is None else tokens).shape[:2]
    state: Any = decode_state.state_of(kwargs, None)
    read = decode_state.read_by(state)
    cache, past_length = decode_state.identity_of(state), read or 0
    mask: Any = kwargs.get("attention_mask")
    fits = isinstance(mask, Tensor) and mask.shape == (n_rows, past_length + n_new)
    given = PassInput(tokens, mask.bool() if fits else None, past_length, cache, read is None)
    return given, None if read is None else read + int(n_new)


def _put_back(parent: nn.Module, name: str, child: nn.Module) -> None:
    if private.children(parent).get(name) is child.original_component:
        private.children(parent)[name] = child


def _runs_the_original(component: Any) -> bool:
    """False for a bridged LayerNorm that computes by itself: its last bits differ from the original's."""
    folded = getattr(getattr(component, "config", None), "layer_norm_folding", False)
    return bool(getattr(component, "use_native_layernorm_autograd", True) or folded)


def _is_plain(block: Any) -> bool:
    """True for a block with the bridge's common forward, whose layer takes whatever keywords it is given."""
    return type(block).forward is private.block_class().forward and _takes_any_keyword(type(block.original_component))  # type: ignore[arg-type]


@functools.cache
def _takes_any_keyword(layer: type[nn.Module]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(layer.forward).parameters.values())


def _forward_directly(block: Any, *args: Any, **kwargs: Any) -> Any:
    if args:
        args = (block.hook_in(args[0]), *args[1:])
    else:
        kwargs["hidden_states"] = block.hook_in(kwargs["hidden_states"])
    output = block.original_component(*args, **kwargs)
    if isinstance(output, tuple):
        return (block.hook_out(output[0]), *output[1:])
    return block.hook_out(output)


def _give_back(size: int | None, stream: Tensor) -> Any:
    return stream if size is None else (stream, *[None] * (size - 1))


def bridged_class(hf_model: Any) -> str | None:
    """The name under which TransformerLens knows a transformers model's class; None where it does not.

    It spells some in its own way: ``PhiMoEForCausalLM`` is transformers' ``PhimoeForCausalLM``.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory as Factory

    def spelled(name: str) -> str:
        return name.replace("_", "").casefold()

    if hasattr(Factory, "discover_entry_points"):  # 4.x: packages may bring more
        Factory.discover_entry_points()
    name = type(hf_model).__name__
    known_names = private.known_architectures()
    if name in known_names:
        return name
    return next((known for known in known_names if spelled(known) == spelled(name)), None)


def build_bridge(hf_model: Any, tokenizer: Any, *, name: str, residual_only: bool) -> Any:
    """Wrap a transformers model, in place, as a ``TransformerBridge``.

    ``residual_only`` leaves the blocks' insides unhooked and the attention implementation as it is: an
    order of magnitude fewer hook points, and the speed of the plain model.

    Raises:
        UnsupportedModelError: TransformerLens cannot wrap it.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    private.require_private("torch", "transformer-lens")

    remember_attention(hf_model)
    if not residual_only:
        # Attention patterns exist only under eager attention; the public boot path sets this too.
        hf_model.set_attn_implementation("eager")

    _keep_one_scale(hf_model)

    try:
        return build_bridge_from_module(
            hf_model,
            bridged_class(hf_model) or type(hf_model).__name__,
            hf_config=hf_model.config,
            tokenizer=tokenizer,
            model_name=name,
            post_adapter_hook=private.keep_block_points if residual_only else None,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UnsupportedModelError(_cannot_wrap(name, type(hf_model).__name__, error, residual_only)) from error


def _keep_one_scale(hf_model: Any) -> None:
    """RWKV halves its stream, and some weights with it, every few layers in evaluation: for float16, and to no effect.

    A layer's norms could not be compared with another's. Without it the model computes the same.
    """
    scaled = next((module for module in hf_model.modules() if hasattr(module, "layers_are_rescaled")), None)
    if scaled is None or not hf_model.config.rescale_every:
        return
    if scaled.layers_are_rescaled:
        training = scaled.training
        scaled.training = True
        scaled._rescale_layers()  # back to the weights that were loaded
        scaled.training = training
    hf_model.config.rescale_every = scaled.config.rescale_every = 0


def _cannot_wrap(name: str, kind: str, error: Exception, residual_only: bool) -> str:
    said = (str(error).splitlines() or [""])[0].rstrip(".")
    if "nsupported architecture" in said:
        return f"TransformerLens cannot wrap {name} ({kind}): it has no adapter for that architecture."
    way_out = "" if residual_only else " With hooks='residual' less has to be wrapped, and it may go."
    return f"TransformerLens cannot wrap {name} ({kind}): {type(error).__name__}: {said[:200]}.{way_out}"
