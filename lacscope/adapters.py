"""What differs between TransformerLens's two model classes, in one place.

``TransformerBridge`` (3.x and 4.x) and ``HookedTransformer`` (up to 3.x) carry the same hook names. They
differ in where the mask, the cache and the tokens of the current pass can be seen, and in how a cached
forward pass is asked for. Everything else in lacscope goes through :func:`adapt`. Every import of
something TransformerLens does not document is in this file.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
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


@contextmanager
def _unwatched(owner: nn.Module, name: str) -> Iterator[None]:
    """One object's method without anything that :func:`_around` put about it."""
    top = bottom = owner.__dict__.get(name, _MISSING)
    while isinstance(bottom, _Around):
        bottom = bottom.previous
    if bottom is top:
        yield
        return
    del owner.__dict__[name]
    if bottom is not _MISSING:
        owner.__dict__[name] = bottom
    try:
        yield
    finally:
        owner.__dict__[name] = top


def _machinery(point: Any) -> Any:
    """The forward hooks by which TransformerLens itself makes a hook point fire (OPT's MLP hangs on such)."""
    own = {
        handle.hook.id
        for handle in point.fwd_hooks
        if handle.is_permanent and str(getattr(handle.user_hook, "__module__", "")).startswith("transformer_lens.")
    }
    hooks = point._forward_hooks
    return type(hooks)((id_, hook) for id_, hook in hooks.items() if id_ in own)


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
        """True where any hook point has a hook that is not TransformerLens's own."""
        return any(
            p._backward_hooks or p._forward_pre_hooks or len(p._forward_hooks) > len(_machinery(p))
            for p in self.hook_points()
        )

    def watched(self) -> list[tuple[nn.Module, str]]:
        """The methods that :meth:`watch` puts a function around, as (owner, name)."""
        raise NotImplementedError

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody's hooks and nobody watching, for a check that must neither fire nor be recorded."""
        kept = [(point, point._forward_hooks) for point in self.hook_points() if point._forward_hooks]
        with ExitStack() as stack:
            for owner, name in self.watched():
                stack.enter_context(_unwatched(owner, name))
            for point, hooks in kept:
                stack.callback(setattr, point, "_forward_hooks", hooks)
                point._forward_hooks = _machinery(point)
            yield

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
        if getattr(config, "alibi", False) is True:
            return None  # Falcon names a length that its ALiBi positions do not have
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
        # In compatibility mode the processed weights live in the bridged submodules.
        if getattr(self.model, "compatibility_mode", False) or not self._lean_is_exact():
            yield
            return
        with self._unhooked_blocks():
            yield

    def _lean_is_exact(self) -> bool:
        """True where the blocks' own submodules give the bridged ones' logits, bit for bit; tried once a model.

        Some bridged attentions (Falcon's) compute by themselves, and differ in the last bits.
        """
        if self.model not in _LEAN_IS_EXACT:
            ids = torch.arange(min(16, self.context_length or 16), device=self.device).unsqueeze(0) % self.vocab_size
            mask = torch.ones_like(ids).bool()
            with self.quiet(), torch.no_grad():
                bridged, _ = self.step(ids, mask, None, use_cache=False, last_only=False)
                with self._unhooked_blocks():
                    plain, _ = self.step(ids, mask, None, use_cache=False, last_only=False)
            _LEAN_IS_EXACT[self.model] = torch.equal(bridged, plain)
        return _LEAN_IS_EXACT[self.model]

    @contextmanager
    def _unhooked_blocks(self) -> Iterator[None]:
        swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for block in self.model.blocks:
            for parent in list(block.original_component.modules()):
                for name, child in parent._modules.items():
                    original = getattr(child, "original_component", None) if child is not None else None
                    if original is not None and hasattr(child, "hook_out") and _runs_the_original(child):
                        swapped.append((parent, name, child))
        try:
            for parent, name, child in swapped:
                parent._modules[name] = child.original_component  # type: ignore[assignment]
            yield
        finally:
            for parent, name, child in swapped:
                parent._modules[name] = child

    def watched(self) -> list[tuple[nn.Module, str]]:
        return [(self.model.original_model, "forward")]

    @contextmanager
    def watch(self, listener: PassListener) -> Iterator[None]:
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # The bridge tells its blocks where to start and stop; 0 starts with all of them to run.
            block = self.model.blocks[0]
            if getattr(block, "_start_at_layer_idx", None) not in (None, 0):
                raise PartialPassError(_PARTIAL.format("start_at_layer"))
            if getattr(block, "_stop_at_layer_idx", None) is not None:
                raise PartialPassError(_PARTIAL.format("stop_at_layer"))
            listener.open_pass(_read_transformers_call(forward, args, kwargs))
            output, completed = None, False
            try:
                output = forward(*args, **kwargs)
                completed = True
            except StopAtLayerException:
                # run_with_cache stops by a hook of its own, which tells no block.
                raise PartialPassError(_PARTIAL.format("stop_at_layer")) from None
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


class _HookedTransformerReading:
    """What the forward passes and generations of a ``HookedTransformer`` read, told to one listener.

    Each of its methods goes around the model's method of that name (``embed``: the embedding's ``forward``).
    """

    def __init__(self, model: Any, listener: PassListener) -> None:
        self.n_layers = int(model.cfg.n_layers)
        self.listener = listener
        self.passes: list[bool] = []  # of the passes now running: told to the listener?
        self.generations: list[tuple[int, list[Tensor]]] = []  # passes around it, and what it has embedded

    def forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(forward).bind(*args, **kwargs).arguments
        start = given.get("start_at_layer")
        if start is not None and start not in (0, -self.n_layers):
            raise PartialPassError(_PARTIAL.format("start_at_layer"))
        if given.get("stop_at_layer") is not None:
            raise PartialPassError(_PARTIAL.format("stop_at_layer"))
        tokens = None if start is None else self._embedded(given["input"].shape[1])
        self.passes.append(False)
        completed = False
        try:
            if start is not None:
                self._open(tokens, given["input"], given.get("attention_mask"), given.get("past_kv_cache"))
            output = forward(*args, **kwargs)
            completed = True
        finally:
            if self.passes.pop():
                self.listener.close_pass(given.get("past_kv_cache"), completed)
        return output

    def input_to_embed(self, input_to_embed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = input_to_embed(*args, **kwargs)
        residual, tokens, _, mask = result
        if self.passes and not self.passes[-1]:
            given = inspect.signature(input_to_embed).bind(*args, **kwargs).arguments
            self._open(tokens, residual, mask, given.get("past_kv_cache"))
        return result

    def generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.generations.append((len(self.passes), []))
        try:
            return generate(*args, **kwargs)
        finally:
            self.generations.pop()

    def embed(self, embed: Callable[..., Any], tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.generations and self.generations[-1][0] == len(self.passes):
            self.generations[-1][1].append(tokens)
        return embed(tokens, *args, **kwargs)

    def _embedded(self, n_new: int) -> Tensor | None:
        """The last tokens that the innermost generation embedded; None where it began from streams."""
        if not self.generations or self.generations[-1][0] != len(self.passes) or not self.generations[-1][1]:
            return None
        tokens = torch.cat(self.generations[-1][1], dim=1)
        return tokens[:, -n_new:] if tokens.shape[1] >= n_new else None

    def _open(self, tokens: Tensor | None, stream: Tensor, mask: Any, cache: Any) -> None:
        past_length = 0 if cache is None else int(cache[0].past_keys.shape[1])
        fits = isinstance(mask, Tensor) and mask.shape == (stream.shape[0], past_length + stream.shape[1])
        self.listener.open_pass(PassInput(tokens, mask.bool() if fits else None, past_length, cache))
        self.passes[-1] = True  # last: a pass that was refused is not closed


class HookedTransformerAdapter(Adapter):
    """``HookedTransformer`` of TransformerLens 3.9: mask and tokens are seen where it embeds them."""

    @property
    def context_length(self) -> int | None:
        return None if self.model.cfg.positional_embedding_type == "alibi" else int(self.model.cfg.n_ctx)

    def hook_point(self, name: str) -> Any:
        return self.model.hook_dict.get(name)

    def hook_points(self) -> Iterator[Any]:
        return iter(self.model.hook_dict.values())

    def watched(self) -> list[tuple[nn.Module, str]]:
        model = self.model
        return [(model, "forward"), (model, "input_to_embed"), (model, "generate"), (model.embed, "forward")]

    @contextmanager
    def watch(self, listener: PassListener) -> Iterator[None]:
        # ``forward`` finds tokens and mask in ``input_to_embed``; ``generate`` embeds them by itself and calls
        # ``forward`` with streams, so there the tokens are those that it embedded.
        reading = _HookedTransformerReading(self.model, listener)
        arounds: tuple[Callable[..., Any], ...] = (
            reading.forward,
            reading.input_to_embed,
            reading.generate,
            reading.embed,
        )
        with ExitStack() as stack:
            for (owner, name), around in zip(self.watched(), arounds, strict=True):
                stack.enter_context(_around(owner, name, around))
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


_LEAN_IS_EXACT: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def _runs_the_original(component: Any) -> bool:
    """False for a bridged LayerNorm that computes by itself: its last bits differ from the original's."""
    folded = getattr(getattr(component, "config", None), "layer_norm_folding", False)
    return bool(getattr(component, "use_native_layernorm_autograd", True) or folded)


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


def _takes_any_keyword(block: Any) -> bool:
    parameters = inspect.signature(block.original_component.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _keep_all(kwargs: dict[str, Any], num_positional_args: int = 0) -> dict[str, Any]:
    return kwargs


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
