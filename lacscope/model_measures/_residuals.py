"""The residual stream of one prompt: read whole, and read again from any layer on.

What the analyses of depth and of layer importance stand on. Prompts are read one at a time, without padding, so
that no more than one prompt's streams are held; :func:`rerun` runs only the blocks from ``start`` on, for several
variants of the stream at once. Hooks that the user has on the model fire in both. In a rerun those before
``start`` fire on blocks that do not run; what they change there is not seen. Under a plan that only skips, skipped
blocks leave the stream as it is; any other plan is refused, since its states have no place by layer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.guards._arguments import flag, hook_pairs, whole_number_or_none
from lacscope.guards._temporary import Temporary, together
from lacscope.models._checks import check_blocks, refuse_reordered, require_full, require_sublayers
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, registered, without_gradients
from lacscope.tracing._inputs import check_lengths, read_inputs

ResidualHook = tuple[str, Callable[..., Tensor | None]]
Visit = Callable[[int, Tensor], None]
_NO_PLACE = "its states have no place by layer. Leave the plan's context for this call, or take a plan that only skips."


@dataclass(frozen=True)
class Residuals:
    """One prompt's pass. ``stream[l]`` is h_l, which enters block l; ``stream[L]`` leaves the last block.

    ``left[l]`` is the output of block l-1 before the user's own hooks at ``blocks.{l}.hook_resid_pre`` change it.
    Without such hooks it equals ``stream[l]``. An intervention on the output of a block starts from ``left``, so that
    the user's hooks act on the changed stream once, as in a normal pass.
    """

    tokens: Int[Tensor, " pos"]
    stream: Float[Tensor, "state pos d_model"]
    left: Float[Tensor, "state pos d_model"]
    logits: Float[Tensor, "pos vocab"] | None = None
    attn_out: Float[Tensor, "layer pos d_model"] | None = None
    mlp_out: Float[Tensor, "layer pos d_model"] | None = None

    @property
    def n_layers(self) -> int:
        return len(self.stream) - 1

    @property
    def update(self) -> Float[Tensor, "layer pos d_model"]:
        """Delta_l = h_{l+1} - h_l."""
        return self.stream[1:] - self.stream[:-1]


def read_residuals(
    model: Model | Adapter, inputs: Any, *, sublayers: bool = False, logits: bool = False, max_tokens: int | None = None
) -> Iterator[Residuals]:
    """Each prompt's residual stream, one prompt after the other, in the model's dtype, without gradients.

    A prompt is read when it is asked for, so under the hooks and the plan that then stand: go through the result
    inside their context.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        sublayers: True to read ``attn_out`` and ``mlp_out`` of every layer too.
        logits: True to read the logits after every token too.
        max_tokens: the number of tokens that are read of each prompt, from its first.

    Raises:
        InputError: inputs that cannot be read, or do not fit the context.
        UnsupportedModelError: ``sublayers`` of a model whose hook points are not the block's parts.
        ValueError: the model is under a plan that does more than skip.

    >>> for read in read_residuals(model, ["The capital of France is"]):  # doctest: +SKIP
    ...     read.stream.norm(dim=-1)
    """
    whole_number_or_none("max_tokens", max_tokens, least=1)
    adapter = check_blocks(model, lean=True)
    if flag("sublayers", sublayers):
        require_sublayers(adapter)
    rows = [ids[:max_tokens] for ids in read_inputs(adapter, inputs)]
    check_lengths(adapter, rows, 0)
    return (_read(adapter, torch.tensor(ids, device=adapter.device), sublayers, logits) for ids in rows)


@without_gradients()
def _read(adapter: Adapter, tokens: Int[Tensor, " pos"], sublayers: bool, logits: bool) -> Residuals:
    refuse_reordered(adapter, _NO_PLACE)
    kept: dict[str, list[Tensor]] = {"resid": [], "left": [], "hook_attn_out": [], "hook_mlp_out": []}

    def keep(name: str) -> Callable[..., None]:
        return lambda activation, hook: kept[name].append(activation[0].detach().clone())

    last = adapter.n_layers - 1
    hooks: list[ResidualHook] = [(f"blocks.{layer}.hook_resid_pre", keep("resid")) for layer in range(adapter.n_layers)]
    hooks.append((f"blocks.{last}.hook_resid_post", keep("resid")))
    if sublayers:
        names = ("hook_attn_out", "hook_mlp_out")
        hooks += [(f"blocks.{layer}.{name}", keep(name)) for layer in range(adapter.n_layers) for name in names]
    before: list[ResidualHook] = []
    if adapter.user_hooked():
        before = [(f"blocks.{layer}.hook_resid_pre", keep("left")) for layer in range(adapter.n_layers)]
    with _hooked(adapter, hooks, before):
        found = _step(adapter, tokens.unsqueeze(0), None if logits else 1)
    home = adapter.device
    if before:
        kept["left"].append(kept["resid"][-1])
    stacked = {name: torch.stack([part.to(home) for part in parts]) for name, parts in kept.items() if parts}
    return Residuals(
        tokens,
        stacked["resid"],
        stacked.get("left", stacked["resid"]),
        found[0] if logits else None,
        stacked.get("hook_attn_out"),
        stacked.get("hook_mlp_out"),
    )


def rerun(
    model: Model | Adapter,
    tokens: Int[Tensor, " pos"],
    start: int,
    stream: Float[Tensor, "variant _ d_model"],
    *,
    leaving: bool = False,
    visit: Visit | None = None,
    fwd_hooks: Sequence[ResidualHook] = (),
    keep: int | None = None,
) -> Float[Tensor, "variant read vocab"]:
    """Run blocks ``start`` .. L-1 on streams that enter block ``start``; the blocks before it do not run.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        tokens: the prompt that the streams belong to.
        start: 0 .. L; at L the final norm and the head alone run.
        stream: variants of h_start, run as one batch.
        leaving: the streams are as block ``start - 1`` left them (``Residuals.left``): hooks of the user's at
            ``hook_resid_pre`` of ``start`` still act on them. Else they enter as they are.
        visit: a function that is called as ``visit(l, h_l)`` for l = start+1 .. L with h_l ``[variant, pos, d_model]``,
            in order.
        fwd_hooks: ``(name, fn)`` hooks at or after block ``start``, such as one that zeroes ``attn_out``.
        keep: logits of the last so many positions only.

    Returns:
        Logits of each variant. Gradients flow as grad mode says: put ``torch.no_grad()`` about the call where
        none are wanted.

    Raises:
        ValueError: a ``start`` or a stream that does not fit, a hook point that the model lacks, or a plan that does
            more than skip.

    >>> read = next(read_residuals(model, "The capital of France is"))  # doctest: +SKIP
    >>> rerun(model, read.tokens, 4, read.stream[3].unsqueeze(0), leaving=True)  # without block 3  # doctest: +SKIP
    """
    adapter = check_blocks(model, lean=True)
    refuse_reordered(adapter, _NO_PLACE)
    n_layers = adapter.n_layers
    whole_number_or_none("keep", keep, least=1)
    if isinstance(start, bool) or not hasattr(start, "__index__") or not 0 <= start <= n_layers:
        raise ValueError(f"start must be a layer 0 to {n_layers} ({n_layers}: the head alone), got {start}.")
    if stream.shape[1] != len(tokens):
        raise ValueError(f"stream has {stream.shape[1]} positions for {len(tokens)} tokens.")

    def enter(activation: Tensor, hook: Any) -> Tensor:
        return stream.to(activation.device)

    def seen(layer: int) -> Callable[..., None]:
        return lambda activation, hook: None if visit is None else visit(layer, activation)

    last = f"blocks.{n_layers - 1}.hook_resid_post"
    # At L every block is idle and what leaves the last one is replaced.
    entrance: list[ResidualHook] = [(last if start == n_layers else f"blocks.{start}.hook_resid_pre", enter)]
    before = entrance if leaving and start < n_layers else []
    hooks = [*([] if before else entrance), *hook_pairs(fwd_hooks)]
    if visit is not None:
        hooks += [(f"blocks.{layer}.hook_resid_pre", seen(layer)) for layer in range(start + 1, n_layers)]
        hooks += [(last, seen(n_layers))] if start < n_layers else []
    # Outside in: whether the lean path is exact is tried, once a model, with every block running.
    with _hooked(adapter, hooks, before), adapter.not_running(range(start)):
        return _step(adapter, tokens.unsqueeze(0).expand(len(stream), -1), keep)


def _hooked(adapter: Adapter, hooks: Sequence[ResidualHook], before: Sequence[ResidualHook] = ()) -> Temporary[None]:
    """These hooks after the user's, and ``before`` them, on the leanest path that has their points."""
    points = [(adapter.hook_point(name), hook) for name, hook in hooks]
    first = [(adapter.hook_point(name), hook) for name, hook in before]
    missing = [name for (point, _), (name, _) in zip(points, hooks, strict=True) if point is None]
    if missing:
        raise ValueError(
            f"{adapter.name} has no hook point {missing[0]!r}. A model loaded with hooks='residual' has the "
            "block-level ones alone: reload it with hooks='full'."
        )
    residual = all(name.endswith(("hook_resid_pre", "hook_resid_post")) for name, _ in hooks)
    lean = together()
    if residual and not adapter.user_hooked():
        lean = adapter.lean()
    else:
        require_full(adapter)
    return together(adapter.evaluating(), lean, registered(first, first=True), registered(points))


def _step(adapter: Adapter, tokens: Int[Tensor, "batch pos"], keep: int | None) -> Float[Tensor, "batch read vocab"]:
    logits, _ = adapter.step(tokens, torch.ones_like(tokens).bool(), None, use_cache=False, keep=keep)
    return logits
