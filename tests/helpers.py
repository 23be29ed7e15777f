"""Slow, direct implementations to test against, and small things several test files need.

Nothing here uses lacscope's hooks or TransformerLens: the references run the plain transformers model and
apply the rule in a plain Python loop, token by token, as docs/concepts/voids.md words it.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_model, tiny_transformers_model

PROMPTS = [[5, 17, 60, 9, 33, 71, 8], [44, 3, 90], [12], [7, 7, 65, 21, 80]]


@functools.cache
def shared_model(architecture: str = "llama", hooks: str = "full", n_layers: int = 4) -> Any:
    """A tiny model that many tests read and none may change."""
    return tiny_model(architecture, hooks=hooks, n_layers=n_layers)


def bridge_of(hf_model: Any, hooks: str = "residual") -> Any:
    return build_bridge(hf_model, None, name="tiny", residual_only=hooks == "residual")


def layers_of(hf_model: nn.Module) -> nn.ModuleList:
    """The list of blocks of a plain transformers model."""
    depth = hf_model.config.num_hidden_layers
    return next(m for m in hf_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)


def without_layers(architecture: str, deleted: set[int], **options: Any) -> Any:
    """The plain transformers model with these blocks taken out and the others renumbered."""
    model = tiny_transformers_model(architecture, **options)
    blocks = layers_of(model)
    kept = [i for i in range(len(blocks)) if i not in deleted]
    for new, old in enumerate(kept):
        for module in blocks[old].modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new
    parent = next(m for m in model.modules() if blocks in m._modules.values())
    name = next(n for n, child in parent._modules.items() if child is blocks)
    setattr(parent, name, nn.ModuleList([blocks[old] for old in kept]))
    if isinstance(kinds := getattr(model.config, "layer_types", None), list):
        model.config.layer_types = [kinds[old] for old in kept]
    model.config.num_hidden_layers = len(kept)
    return model


def left_padded(prompts: list[list[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask of a batch, as the model reads it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def slow_void(before: list[float], delta: float, alpha: float) -> bool:
    """The paper's rule for one token at one layer, given the deltas of the layers before it."""
    threshold = alpha * (max(before) - min(before)) if before else 0.0
    return delta < threshold


def length(vector: Tensor) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in vector))


class SlowLac:
    """The rule on a plain transformers model, one prompt at a time, layer by layer and token by token.

    Replaces ``forward`` of each block. ``rows`` has, per token read, lists over layers of resid_pre_norm,
    resid_post_norm, delta_norm, update_norm and void.
    """

    def __init__(self, hf_model: Any, alpha: float, effect: str) -> None:
        self.model, self.alpha, self.effect = hf_model, alpha, effect
        self.rows: list[SimpleNamespace] = []
        for index, block in enumerate(layers_of(hf_model)):
            block.forward = functools.partial(self._block, index, block.forward)
        self.depth = len(layers_of(hf_model))

    def _block(self, index: int, forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(hidden, *args, **kwargs)
        candidate = output[0] if isinstance(output, tuple) else output
        assert candidate.shape[0] == 1, "one prompt at a time"
        result = candidate.clone()
        for token in range(candidate.shape[1]):
            before, after = hidden[0, token], candidate[0, token]
            if index == 0:
                self.rows.append(SimpleNamespace(pre=[], post=[], delta=[], update=[], void=[], exit=before.clone()))
            row = self.rows[token - candidate.shape[1]] if index else self.rows[-1]
            delta = length(after) - length(before)
            void = slow_void(row.delta, delta, self.alpha)
            if void and self.effect == "bypass":
                result[0, token] = before
            if not void:
                row.exit = after.clone()
            if index == self.depth - 1 and self.effect == "readout":
                result[0, token] = row.exit
            row.pre.append(length(before))
            realised = before if void and self.effect == "bypass" else after
            row.post.append(length(realised))
            row.delta.append(delta)
            row.update.append(length(after - before))
            row.void.append(void)
        return (result, *output[1:]) if isinstance(output, tuple) else result

    def generate(self, prompt: list[int], max_new_tokens: int, stop_ids: frozenset[int] = frozenset()) -> list[int]:
        """Greedy tokens with a cache. ``rows`` then holds all tokens read, ``logits`` one vector for each."""
        tokens: list[int] = []
        with torch.no_grad():
            output = self.model(torch.tensor([prompt]), use_cache=True)
            self.logits = list(output.logits[0])
            for step in range(max_new_tokens):
                tokens.append(int(self.logits[-1].argmax()))
                if tokens[-1] in stop_ids or step == max_new_tokens - 1:
                    break
                output = self.model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
                self.logits += list(output.logits[0])
        return tokens

    def array(self, name: str) -> np.ndarray:
        """[layer, token]."""
        return np.array([getattr(row, name) for row in self.rows]).T


class SlowSublayers:
    """The rule on attention or MLP of a plain transformers model, each with its own history."""

    def __init__(self, hf_model: Any, unit: str, alpha: float, effect: str, *, parallel: bool) -> None:
        self.model, self.alpha, self.effect, self.unit, self.parallel = hf_model, alpha, effect, unit, parallel
        self.pre: Tensor | None = None
        self.attn: Tensor | None = None
        self.delta: list[list[float]] = []
        self.void: list[list[bool]] = []
        for block in layers_of(hf_model):
            attention = next(
                getattr(block, n) for n in ("self_attn", "attention", "attn", "self_attention") if hasattr(block, n)
            )
            attention.forward = functools.partial(self._attention, attention.forward)
            block.mlp.forward = functools.partial(self._mlp, block.mlp.forward)
            block.forward = functools.partial(self._block, block.forward)

    def _block(self, forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.pre = hidden
        return forward(hidden, *args, **kwargs)

    def _attention(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        written, *rest = forward(*args, **kwargs)
        if self.unit == "attn":
            written = self._decide(self.pre, written)
        self.attn = written
        return (written, *rest)

    def _mlp(self, forward: Any, *args: Any, **kwargs: Any) -> Tensor:
        written = forward(*args, **kwargs)
        if self.unit == "mlp":
            written = self._decide(self.pre if self.parallel else self.pre + self.attn, written)
        return written

    def _decide(self, base: Tensor, written: Tensor) -> Tensor:
        kept = written.clone()
        deltas, voids = [], []
        for token in range(written.shape[1]):
            delta = length((base + written)[0, token]) - length(base[0, token])
            void = slow_void([layer[token] for layer in self.delta], delta, self.alpha)
            if void and self.effect == "bypass":
                kept[0, token] = 0
            deltas.append(delta)
            voids.append(void)
        self.delta.append(deltas)
        self.void.append(voids)
        return kept

    def read(self, prompt: list[int]) -> Tensor:
        with torch.no_grad():
            return self.model(torch.tensor([prompt]), use_cache=False).logits[0]


# TransformerLens's own notes on where a pass starts and stops.
_NOTED_BY_THE_BRIDGE = {"_stop_at_layer_idx", "_start_at_layer_idx", "_start_at_layer_residual"}


def footprint(model: Any) -> dict[str, Any]:
    """Everything that a context must leave as it found it."""
    original = model.original_model
    return {
        "hooks": {name: (len(p._forward_hooks), len(p.fwd_hooks)) for name, p in model._hook_registry.items()},
        "forward": original.__dict__.get("forward"),
        "blocks": [sorted(set(block.__dict__) - _NOTED_BY_THE_BRIDGE) for block in model.blocks],
        "modules": {name: id(module) for name, module in original.named_modules(remove_duplicate=False)},
        "module_hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in original.modules()),
        "training": original.training,
        "weights": {name: (id(p), p._version, p.requires_grad) for name, p in original.named_parameters()},
        "grad": torch.is_grad_enabled(),
        "rng": torch.get_rng_state().sum().item(),
        "numpy": np.random.get_state()[1].sum(),  # noqa: NPY002
    }


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Fails where anything of the model, or of the process, is not as it was; also after an exception."""
    before = footprint(model)
    try:
        yield
    finally:
        after = footprint(model)
        for what, value in before.items():
            assert after[what] == value, f"{what} is not as it was"


def rows_of(trace: Any, sample: int) -> Any:
    """One sample's valid tokens."""
    one = trace.isel(sample=sample)
    return one.isel(token=one.valid.values)


def assert_same_trace(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Two samples' rows: equal tokens, labels and masks, and norms up to rounding."""
    for name in ("token_id", "next_token_id", "phase"):
        assert a[name].values.tolist() == b[name].values.tolist(), name
    scale = float(a.resid_post_norm.max())
    for name in ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm"):
        np.testing.assert_allclose(a[name].values, b[name].values, rtol=rtol, atol=atol * scale, err_msg=name)
    if "void" in a:
        np.testing.assert_array_equal(a.void.values, b.void.values)
