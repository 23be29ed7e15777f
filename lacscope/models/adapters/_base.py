"""What lacscope asks of a model, whichever of TransformerLens's classes it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lacscope.guards._temporary import Note, Temporary, temporary, together
from lacscope.models.adapters import _private as private
from lacscope.models.adapters._eval_mode import evaluating, random_in_training
from lacscope.models.adapters._offloading import running_device
from lacscope.models.adapters._passes import PassListener, unwatched
from lacscope.models.adapters._uncopied import Ours
from lacscope.models.adapters._unsupported import UnsupportedModelError as UnsupportedModelError

TokenHook = Callable[..., Any]


class Adapter(ABC):
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
        """Where token ids go: where the first weights are, or run where accelerate lends them for each call."""
        first = next(self.model.parameters()).device
        return running_device(self.model, torch.device("cpu")) if first.type == "meta" else first

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def vocab_size(self) -> int:
        return int(self.model.cfg.d_vocab)

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """Longest sequence the model takes, or None where positions are not bounded (ALiBi)."""

    @property
    def ends_on_any_length(self) -> bool:
        """True where what comes after the last block reads fewer positions than the blocks did just as well."""
        return False

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

    @abstractmethod
    def hook_point(self, name: str) -> Any:
        """The hook point of that name, or None."""

    @abstractmethod
    def hook_points(self) -> Iterator[Any]: ...

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
            private.backward_hooks(p)
            or private.forward_pre_hooks(p)
            or len(private.forward_hooks(p)) > len(_machinery(p))
            for p in self.hook_points()
        )

    def trunk(self) -> nn.Module | None:
        """The module inside the model that calls the blocks, where it can be called on its own."""
        return None

    def modules(self) -> Iterator[nn.Module]:
        """Every module that a pass may run, TransformerLens's own included; some more than once."""
        yield from self.model.modules()

    def evaluating(self) -> Temporary[None]:
        """The model in evaluation mode; each module has its own flag back afterwards."""
        return evaluating(self.modules())

    def random_in_training(self) -> str:
        """What each pass draws anew because the model is in training mode; "" for nothing."""
        return random_in_training(self.modules())

    def reference(self) -> tuple[Callable[..., Any] | None, str]:
        """The wrapped model's own logits, by what no bridge has touched; or None, and why there is no such thing."""
        return None, "there is no other model to compare with"

    def give_positions(self, given: bool) -> bool:
        """From now on tell cached steps where their tokens stand, or not; False where the model does not take it."""
        return False

    def prefer_lean(self) -> None:  # noqa: B027 - a class may have no lean path
        """Have :meth:`lean` take the lean path whether or not it equals the other."""

    @abstractmethod
    def watched(self) -> list[tuple[nn.Module, str]]:
        """The methods that :meth:`watch` puts a function around, as (owner, name)."""

    def quiet(self) -> Temporary[None]:
        """Nobody's hooks, nobody watching and no dropout, for a check that must neither fire nor be recorded."""
        return together(self.evaluating(), unwatched(self.watched()), _hooks_off(list(self.hook_points())))

    def lean(self, *, forced: bool = False) -> Temporary[None]:
        """Blocks without the hook points inside them, where the class allows it; numbers stay the same.

        ``forced`` is for whoever wants to know whether they do.
        """
        return together()

    def not_running(self, layers: Iterable[int]) -> Temporary[None]:
        """These blocks give back the stream that they are given, without running; their residual hooks still fire.

        Without a KV cache, to which such a block adds nothing.
        """
        return _in_place_of_forward([self._idle(layer) for layer in layers])

    def returned(self, layer: int, stream: Tensor) -> Any:
        """A stream as the block returns it: on the block's device, and in a tuple, where the model expects one."""
        return self._at_home(layer, stream)

    def _at_home(self, layer: int, stream: Tensor) -> Tensor:
        # Some bridged norms (GPT-2's) take the stream as it comes, and nothing moves it to where their weights are.
        return stream.to(self._home_of(self.model.blocks[layer]))

    @abstractmethod
    def _idle(self, layer: int) -> tuple[nn.Module, Callable[..., Any]]:
        """The module that runs a block, and the ``forward`` that leaves the stream as it is."""

    def logits_of(self, stream: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token vocab"]:
        """The final norm and the head on any stream, or on some of its tokens; no hook fires.

        That this is what the model does after its last block is for :func:`lacscope.models._checks.require_head` to
        find out.
        """
        flat = stream.reshape(1, -1, stream.shape[-1])
        norm, head = self.model.ln_final, self.model.unembed
        with _hooks_off([*norm.modules(), *head.modules()]):
            normed = norm(flat.to(self._home_of(norm)))
            logits = self._after_head(head(normed.to(self._home_of(head))))
        return logits.reshape(*stream.shape[:-1], -1)

    def final_norm(self, stream: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
        """The model's final norm on any stream; no hook fires, and ``logits_of`` holds for it too."""
        flat, norm = stream.reshape(1, -1, stream.shape[-1]), self.model.ln_final
        with _hooks_off(list(norm.modules())):
            return norm(flat.to(self._home_of(norm))).reshape(stream.shape)

    def _home_of(self, module: nn.Module) -> torch.device:
        """Where a module runs."""
        device = next((tensor.device for tensor in module.parameters()), self.device)
        return running_device(module, self.device) if device.type == "meta" else device

    @abstractmethod
    def _after_head(self, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch pos vocab"]:
        """What the model does to the head's logits: soft-capping, scaling."""

    @abstractmethod
    def watch(self, listener: PassListener) -> Temporary[None]:
        """Tell ``listener`` of every forward pass."""

    @abstractmethod
    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        keep: int | None,
    ) -> tuple[Float[Tensor, "row read vocab"], Any]:
        """One (cached) forward pass: logits (of the last ``keep`` positions; None: all) and the cache.

        The logits have as many rows as the stream had that a hook returned after the last block.
        """

    @abstractmethod
    def select_rows(self, cache: Any, rows: Int[Tensor, " row"]) -> None:
        """Make these rows of the cache, in this order, all that it holds; a row may stand several times."""


@temporary
def _hooks_off(note: Note, modules: list[nn.Module]) -> None:
    """Hook points among these modules without any hook but TransformerLens's own."""
    for point in modules:
        if hasattr(point, "fwd_hooks") and private.forward_hooks(point):
            note("hooks put aside", private.set_forward_hooks, point, private.forward_hooks(point))
            private.set_forward_hooks(point, _machinery(point))


@temporary
def _in_place_of_forward(note: Note, forwards: list[tuple[nn.Module, Callable[..., Any]]]) -> None:
    for owner, forward in forwards:
        set_forward(note, owner, Ours(forward))


def set_forward(note: Note, owner: nn.Module, forward: Ours) -> None:
    """Have a module run ``forward`` in place of its own."""
    # Into __dict__: a bridge would hand an assigned attribute on to the layer that it wraps.
    note("forward", _put_back_forward, owner, forward, owner.__dict__.get("forward"))
    owner.__dict__["forward"] = forward


def _put_back_forward(owner: nn.Module, ours: Ours, before: Any) -> None:
    if owner.__dict__.get("forward") is not ours:
        return
    if before is None:
        del owner.__dict__["forward"]
    else:
        owner.__dict__["forward"] = before


def _machinery(point: Any) -> Any:
    """The forward hooks by which TransformerLens itself makes a hook point fire (OPT's MLP hangs on such)."""
    own = {
        handle.hook.id
        for handle in point.fwd_hooks
        if handle.is_permanent and str(getattr(handle.user_hook, "__module__", "")).startswith("transformer_lens.")
    }
    hooks = private.forward_hooks(point)
    return type(hooks)((id_, hook) for id_, hook in hooks.items() if id_ in own)


@temporary
def registered(note: Note, points: list[tuple[Any, TokenHook]], *, first: bool = False) -> None:
    """Hooks on hook points, after those that stand there or ``first``; none but they are taken off."""
    for point, hook in points:
        ours = Ours(hook)
        note("hook", _take_off, point, ours)
        point.add_hook(ours, prepend=first)


@temporary
def users_hooks(note: Note, model: Any, points: list[Any], fwd_hooks: list[tuple[Any, TokenHook]]) -> None:
    """A user's ``(name or filter, fn)`` hooks, which may stand on any of the model's hook points.

    TransformerLens's own context leaves them there where Ctrl-C comes as it is entered or left.
    """
    ours = [(name, Ours(hook)) for name, hook in fwd_hooks]
    note("hooks of a call", _take_off_all, model, points, [hook for _, hook in ours])
    for name, hook in ours:
        model.add_hook(name, hook)


def _take_off_all(model: Any, points: list[Any], hooks: list[Ours]) -> None:
    for point in points:
        if private.forward_hooks(point) or point.fwd_hooks:
            _take_off(point, *hooks)


def _take_off(point: Any, *hooks: Ours) -> None:
    # Also one that TransformerLens was interrupted in adding: PyTorch has it, and the point no handle yet.
    ids = {id_ for id_, made in private.forward_hooks(point).items() if any(_is_made_of(made, hook) for hook in hooks)}
    handles = [one for one in point.fwd_hooks if one.hook.id in ids or any(one.user_hook is hook for hook in hooks)]
    for handle in handles:
        handle.hook.remove()
    for id_ in ids:
        private.forward_hooks(point).pop(id_, None)
    point.fwd_hooks[:] = [kept for kept in point.fwd_hooks if not any(kept is handle for handle in handles)]


def _is_made_of(made: Any, hook: Ours) -> bool:
    """True for what TransformerLens registers with PyTorch for this hook: a function that closes over it."""
    names = getattr(getattr(made, "__code__", None), "co_freevars", ())
    return "hook" in names and made.__closure__[names.index("hook")].cell_contents is hook
