"""What differs between TransformerLens's two model classes, in one place.

``TransformerBridge`` (3.x and 4.x) and ``HookedTransformer`` (up to 3.x) carry the same hook names. They
differ in where the mask, the cache and the tokens of the current pass can be seen, and in how a cached
forward pass is asked for. Everything else in lacscope goes through :func:`adapt`. Every import of
something TransformerLens does not document is in this file.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TokenHook = Callable[..., Any]
_MISSING = object()


class PartialPassError(RuntimeError):
    """A forward pass that does not run every block: its trace would be a fragment."""


@dataclass
class PassInput:
    """What one forward pass was given to read.

    ``attention_mask`` spans the cached tokens and the new ones; None where nobody gave one. ``tokens`` is
    None where the pass was started from embeddings.
    """

    tokens: Int[Tensor, "batch pos"] | None
    attention_mask: Bool[Tensor, "batch past_and_pos"] | None
    past_length: int
    cache: Any

    @property
    def first_keys(self) -> Tensor | None:
        """The first layer's cached keys, as the pass found them."""
        return first_keys(self.cache)


class PassListener(Protocol):
    """Told of every forward pass of a model, nested ones included."""

    def open_pass(self, given: PassInput) -> None: ...
    def close_pass(self, cache: Any, completed: bool) -> None: ...


class _Around:
    """A method of one object with a function around it; transparent once switched off."""

    def __init__(self, inner: Callable[..., Any], around: Callable[..., Any], previous: Any) -> None:
        functools.update_wrapper(self, inner)
        self.inner, self.around, self.previous, self.active = inner, around, previous, True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.inner, *args, **kwargs) if self.active else self.inner(*args, **kwargs)


@contextmanager
def _around(owner: nn.Module, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Put ``around(inner, *args, **kwargs)`` about one object's method.

    Module hooks would do, but they do not close on KeyboardInterrupt, and ``run_with_hooks`` of a
    HookedTransformer calls ``forward`` without them. Contexts may close in any order.
    """
    wrapper = _Around(getattr(owner, name), around, owner.__dict__.get(name, _MISSING))
    owner.__dict__[name] = wrapper
    try:
        yield
    finally:
        wrapper.active = False
        top = owner.__dict__.get(name, _MISSING)
        while isinstance(top, _Around) and not top.active:
            top = top.previous
        if top is _MISSING:
            owner.__dict__.pop(name, None)
        else:
            owner.__dict__[name] = top


class Adapter:
    """One model, seen alike whichever of TransformerLens's classes it is. See :func:`adapt`."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model
        self.n_layers = int(model.cfg.n_layers)

    @property
    def name(self) -> str:
        return str(getattr(self.model.cfg, "model_name", "") or "unnamed")

    @property
    def tokenizer(self) -> Any:
        return getattr(self.model, "tokenizer", None)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def vocab_size(self) -> int:
        return int(self.model.cfg.d_vocab)

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model takes, or None where positions are not bounded (ALiBi)."""
        raise NotImplementedError

    @property
    def parallel_blocks(self) -> bool:
        """True where attention and MLP both read the stream entering the block."""
        return bool(getattr(self.model.cfg, "parallel_attn_mlp", False))

    def stop_ids(self) -> frozenset[int]:
        """Union of the generation config's and the tokenizer's end-of-sequence ids."""
        generation = getattr(getattr(self.model, "original_model", None), "generation_config", None)
        found = [getattr(generation, "eos_token_id", None), getattr(self.tokenizer, "eos_token_id", None)]
        ids: set[int] = set()
        for value in found:
            if value is not None:
                ids.update(int(i) for i in (value if isinstance(value, (list, tuple)) else [value]))
        return frozenset(ids)

    def hook_point(self, name: str) -> Any:
        """The hook point of that name, or None."""
        raise NotImplementedError

    def hook_points(self) -> Iterator[Any]:
        raise NotImplementedError

    def hook_name(self, layer: int, point: str) -> str:
        """Name under which to register a hook at ``blocks.{layer}.{point}``.

        In compatibility mode TransformerLens calls a hook registered under an alias twice, once a name:
        there the canonical name is given.
        """
        name = f"blocks.{layer}.{point}"
        found = self.hook_point(name)
        if getattr(self.model, "compatibility_mode", False) and found is not None and found.name:
            return str(found.name)
        return name

    def user_hooked(self) -> bool:
        """True where any hook point has a hook that is not ours to judge."""
        return any(p._forward_hooks or p._backward_hooks or p._forward_pre_hooks for p in self.hook_points())

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hook points with nobody's hooks on them, for a check that must not fire the user's."""
        kept = [(p, p._forward_hooks) for p in self.hook_points() if p._forward_hooks]
        for point, _ in kept:
            point._forward_hooks = type(_)()
        try:
            yield
        finally:
            for point, hooks in kept:
                point._forward_hooks = hooks

    @contextmanager
    def lean(self) -> Iterator[None]:
        """Blocks without the hook points inside them, where the class allows it; numbers stay the same."""
        yield

    def watch(self, listener: PassListener) -> Any:
        """Context manager: tell ``listener`` of every forward pass."""
        raise NotImplementedError

    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        last_only: bool,
    ) -> tuple[Float[Tensor, "batch read vocab"], Any]:
        """One (cached) forward pass: logits (of the last position alone if ``last_only``) and the cache."""
        raise NotImplementedError

    def select_rows(self, cache: Any, rows: Int[Tensor, " rows"]) -> Any:
        """The cache with its batch rows picked, repeated or dropped as ``rows`` says."""
        raise NotImplementedError


class BridgeAdapter(Adapter):
    """``TransformerBridge``: the wrapped transformers model sees mask and cache on every path."""

    @property
    def context_length(self) -> int | None:
        config = getattr(self.model.original_model, "config", None)
        config = getattr(config, "text_config", None) or config
        for field in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(value := getattr(config, field, None), int):
                return value
        return None

    def hook_point(self, name: str) -> Any:
        return self.model.get_hook_point(name)

    def hook_points(self) -> Iterator[Any]:
        return iter(self.model._hook_registry.values())

    @contextmanager
    def lean(self) -> Iterator[None]:
        if getattr(self.model, "compatibility_mode", False):
            yield  # processed weights live in the bridged submodules
            return
        swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for block in self.model.blocks:
            for parent in list(block.original_component.modules()):
                for name, child in parent._modules.items():
                    original = getattr(child, "original_component", None) if child is not None else None
                    if original is not None and parent is not child and hasattr(child, "hook_out"):
                        swapped.append((parent, name, child))
        try:
            for parent, name, child in swapped:
                parent._modules[name] = child.original_component  # type: ignore[assignment]
            yield
        finally:
            for parent, name, child in swapped:
                parent._modules[name] = child

    @contextmanager
    def watch(self, listener: PassListener) -> Iterator[None]:
        def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            block = self.model.blocks[0]
            if getattr(block, "_start_at_layer_idx", None) is not None:
                raise PartialPassError(_PARTIAL.format("start_at_layer"))
            if getattr(block, "_stop_at_layer_idx", None) is not None:
                raise PartialPassError(_PARTIAL.format("stop_at_layer"))
            listener.open_pass(_read_transformers_call(forward, args, kwargs))
            output, completed = None, False
            try:
                output = forward(*args, **kwargs)
                completed = True
            finally:
                listener.close_pass(getattr(output, "past_key_values", None), completed)
            return output

        with _around(self.model.original_model, "forward", around):
            yield

    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        last_only: bool,
    ) -> tuple[Float[Tensor, "batch read vocab"], Any]:
        extra: dict[str, Any] = {"logits_to_keep": 1} if last_only and self._keeps_last else {}
        if cache is not None:
            extra["past_key_values"] = cache
        logits, cache = self.model(
            tokens, attention_mask=mask.long(), return_type="logits_and_cache", use_cache=use_cache, **extra
        )
        return (logits[:, -1:] if last_only else logits), cache

    @functools.cached_property
    def _keeps_last(self) -> bool:
        return "logits_to_keep" in inspect.signature(self.model.original_model.forward).parameters

    def select_rows(self, cache: Any, rows: Int[Tensor, " rows"]) -> Any:
        cache.batch_select_indices(rows)
        return cache


class HookedTransformerAdapter(Adapter):
    """``HookedTransformer`` of TransformerLens 3.9: mask and tokens are seen where it embeds them."""

    @property
    def context_length(self) -> int | None:
        return None if self.model.cfg.positional_embedding_type == "alibi" else int(self.model.cfg.n_ctx)

    def hook_point(self, name: str) -> Any:
        return self.model.hook_dict.get(name)

    def hook_points(self) -> Iterator[Any]:
        return iter(self.model.hook_dict.values())

    @contextmanager
    def watch(self, listener: PassListener) -> Iterator[None]:
        opened: list[bool] = []

        def around_forward(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            for option in ("start_at_layer", "stop_at_layer"):
                if kwargs.get(option) is not None:
                    raise PartialPassError(_PARTIAL.format(option))
            opened.append(False)
            completed = False
            try:
                output = forward(*args, **kwargs)
                completed = True
            finally:
                if opened.pop():
                    bound = inspect.signature(forward).bind(*args, **kwargs)
                    listener.close_pass(bound.arguments.get("past_kv_cache"), completed)
            return output

        def around_embed(embed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            cache = inspect.signature(embed).bind(*args, **kwargs).arguments.get("past_kv_cache")
            past_length = 0 if cache is None else cache[0].past_keys.shape[1]
            result = embed(*args, **kwargs)
            _, tokens, _, mask = result
            if opened and not opened[-1]:
                opened[-1] = True
                listener.open_pass(PassInput(tokens, None if mask is None else mask.bool(), past_length, cache))
            return result

        with _around(self.model, "forward", around_forward), _around(self.model, "input_to_embed", around_embed):
            yield

    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        last_only: bool,
    ) -> tuple[Float[Tensor, "batch read vocab"], Any]:
        if cache is None and use_cache:
            from transformer_lens import TransformerLensKeyValueCache

            cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, self.device, tokens.shape[0])
        # The cache keeps the mask of what it holds: only the new tokens' part is passed.
        logits = self.model(
            tokens, attention_mask=mask[:, -tokens.shape[1] :].int(), past_kv_cache=cache, return_type="logits"
        )
        return (logits[:, -1:] if last_only else logits), cache

    def select_rows(self, cache: Any, rows: Int[Tensor, " rows"]) -> Any:
        for entry in cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
        cache.previous_attention_mask = cache.previous_attention_mask[rows]
        return cache


_PARTIAL = (
    "{} runs a part of the model: a halting rule compares each layer with all before it, so a partial pass "
    "has no trace. Run the whole model, or leave the lacscope context for this call."
)


def _read_transformers_call(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassInput:
    if args:
        kwargs = inspect.signature(forward).bind(*args, **kwargs).arguments | kwargs
    tokens: Any = kwargs.get("input_ids")
    embeds: Any = kwargs.get("inputs_embeds")
    n_rows, n_new = (embeds if tokens is None else tokens).shape[:2]
    cache: Any = kwargs.get("past_key_values")
    past_length = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
    mask: Any = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != (n_rows, past_length + n_new):
        return PassInput(tokens, None, past_length, cache)
    return PassInput(tokens, mask.bool(), past_length, cache)


def first_keys(cache: Any) -> Tensor | None:
    """The first layer's cached keys. A cache that was reordered or cropped between passes has others."""
    if hasattr(cache, "layers"):
        return getattr(cache.layers[0], "keys", None) if cache.layers else None
    return cache[0].past_keys if hasattr(cache, "entries") else None


def adapt(model: Any) -> Adapter:
    """The adapter of a ``TransformerBridge`` or a ``HookedTransformer``; TypeError for anything else."""
    if isinstance(model, Adapter):
        return model
    if hasattr(model, "original_model") and hasattr(model, "blocks") and hasattr(model, "get_hook_point"):
        return BridgeAdapter(model)
    if hasattr(model, "input_to_embed") and hasattr(model, "hook_dict") and hasattr(model, "blocks"):
        return HookedTransformerAdapter(model)
    raise TypeError(
        f"expected a TransformerLens TransformerBridge or HookedTransformer, got {type(model).__name__}. "
        "lacscope.load_model(name) boots one; a transformers model can be wrapped with "
        "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)."
    )


def build_bridge(hf_model: Any, tokenizer: Any, *, name: str, residual_only: bool) -> Any:
    """Wrap a transformers model, in place, as a ``TransformerBridge``.

    ``residual_only`` leaves the blocks' insides unhooked and the attention implementation as it is: an
    order of magnitude fewer hook points, and the speed of the plain model.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    if not residual_only:
        # Attention patterns exist only under eager attention; the public boot path sets this too.
        hf_model.set_attn_implementation("eager")

    def keep_block_points(adapter: Any) -> None:
        blocks = adapter.component_mapping["blocks"]
        blocks.submodules.clear()
        blocks.hook_aliases = {"hook_resid_pre": "hook_in", "hook_resid_post": "hook_out"}

    return build_bridge_from_module(
        hf_model,
        type(hf_model).__name__,
        hf_config=hf_model.config,
        tokenizer=tokenizer,
        model_name=name,
        post_adapter_hook=keep_block_points if residual_only else None,
    )


@contextmanager
def registered(points: list[tuple[Any, TokenHook]]) -> Iterator[None]:
    """Hooks on hook points, each taken off again by its own handle and no other."""
    with ExitStack() as stack:
        for point, hook in points:
            handle = point.add_hook(hook)
            if handle is None:  # TransformerLens 3.9 returns nothing
                handle = point.fwd_hooks[-1]
            stack.callback(_take_off, point, handle)
        yield


def _take_off(point: Any, handle: Any) -> None:
    handle.hook.remove()
    point.fwd_hooks[:] = [kept for kept in point.fwd_hooks if kept is not handle]
