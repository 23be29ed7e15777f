"""The same tiny model twice, once plain and once as a bridge, and the plain one's states; slow and by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_transformers_model

# The second reads its streams the same way: with the slow tests.
ARCHITECTURES = ("llama", pytest.param("gpt_neox", marks=pytest.mark.slow))
PROMPTS = [[5, 17, 3, 60, 8, 44, 9, 71, 30, 12, 88], [40, 2, 66, 13, 9, 27, 51, 80, 4]]
Edit = Callable[[Any], None]


def layers_of(hf_model: Any) -> Any:
    return hf_model.gpt_neox.layers if hasattr(hf_model, "gpt_neox") else hf_model.model.layers


def writers_of(layer: Any) -> list[Any]:
    """The two matrices by which a block writes to the stream."""
    if hasattr(layer, "self_attn"):
        return [layer.self_attn.o_proj, layer.mlp.down_proj]
    return [layer.attention.dense, layer.mlp.dense_4h_to_h]


def scaled_block(index: int, factor: float) -> Edit:
    """An edit that multiplies all that block ``index`` writes."""

    def edit(hf_model: Any) -> None:
        with torch.no_grad():
            for writer in writers_of(layers_of(hf_model)[index]):
                for parameter in writer.parameters():
                    parameter.mul_(factor)

    return edit


def twins(architecture: str, edit: Edit | None = None, *, n_layers: int = 4, hooks: str = "full") -> tuple[Any, Any]:
    """A plain transformers model, and a bridge of an equal one."""
    plain, wrapped = (tiny_transformers_model(architecture, n_layers=n_layers) for _ in range(2))
    for model in (plain, wrapped):
        if edit is not None:
            edit(model)
    return plain, build_bridge(wrapped, None, name=f"tiny-{architecture}", residual_only=hooks == "residual")


@torch.no_grad()
def states(hf_model: Any, ids: list[int]) -> np.ndarray:
    """h_0 .. h_L as [state, pos, d_model] in float64. The last of transformers' hidden states is after the norm."""
    last: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    handle = layers_of(hf_model)[-1].register_forward_hook(keep)
    try:
        hidden = hf_model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    finally:
        handle.remove()
    return torch.stack([*hidden[:-1], *last])[:, 0].double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def counted(hf_states: np.ndarray, exclude_sinks: bool) -> list[int]:
    """Positions that count, by the definition of a sink: position 0, or 10x the median at an inner layer."""
    norms = np.linalg.norm(hf_states[1:], axis=-1)
    kept = []
    for t in range(norms.shape[1]):
        loud = any(norms[k, t] > 10 * np.median(norms[k]) for k in range(1, len(norms) - 1))
        if not exclude_sinks or not (t == 0 or (loud and norms.shape[1] >= 8)):
            kept.append(t)
    return kept
