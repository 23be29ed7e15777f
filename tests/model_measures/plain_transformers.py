"""Skipping layers in plain transformers models by PyTorch's own hooks: whole passes, one change at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

Mask = Callable[[int], bool]
ATTENTION = {"llama": "self_attn", "gpt2": "attn", "gpt_neox": "attention"}


def layers_of(model: Any, architecture: str) -> Any:
    return {
        "llama": lambda: model.model.layers,
        "gpt2": lambda: model.transformer.h,
        "gpt_neox": lambda: model.gpt_neox.layers,
    }[architecture]()


def whole_pass(model: Any, architecture: str, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """What enters every layer and what leaves the last one, each [pos, d_model]; next-token probabilities."""
    layers, streams = layers_of(model, architecture), []
    with torch.no_grad():
        handles = [layer.register_forward_pre_hook(lambda m, args: streams.append(args[0][0])) for layer in layers]
        handles.append(layers[-1].register_forward_hook(lambda m, args, out: streams.append(_stream(out)[0])))
        try:
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
    return streams, torch.softmax(logits, dim=-1)


@contextmanager
def skipping(model: Any, architecture: str, layer: int, unit: str, where: Mask) -> Iterator[None]:
    """The layer, its attention or its MLP adds nothing at the positions where ``where`` says so."""
    block = layers_of(model, architecture)[layer]
    module = {"block": block, "attn": getattr(block, ATTENTION[architecture]), "mlp": block.mlp}[unit]

    def replace(module: Any, args: Any, output: Any) -> Any:
        new = _stream(output).clone()
        for position in range(new.shape[1]):
            if where(position):
                new[:, position] = args[0][:, position] if unit == "block" else 0.0
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def entering(model: Any, architecture: str, layer: int, stream: Tensor) -> Iterator[None]:
    """Layer ``layer`` reads ``stream``; at L the final norm does."""
    layers = layers_of(model, architecture)
    if layer < len(layers):
        handle = layers[layer].register_forward_pre_hook(lambda m, args: (stream.unsqueeze(0), *args[1:]))
    else:
        handle = layers[-1].register_forward_hook(
            lambda m, args, out: (stream.unsqueeze(0), *out[1:]) if isinstance(out, tuple) else stream.unsqueeze(0)
        )
    try:
        yield
    finally:
        handle.remove()


def relative(update: Tensor, changed: Tensor, positions: range) -> float:
    return max(
        float(np.linalg.norm((update[p] - changed[p]).numpy())) / max(float(np.linalg.norm(update[p].numpy())), 1e-6)
        for p in positions
    )


def distance(original: Tensor, changed: Tensor, positions: range) -> float:
    return max(float(np.linalg.norm((original[p] - changed[p]).numpy())) for p in positions)


def skip_influence(
    model: Any, architecture: str, ids: list[int], unit: str, cuts: list[int] | None, keep_first: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """E and the output's change of one prompt; ``cuts`` None: skipped and measured everywhere."""
    streams, original = whole_pass(model, architecture, ids)
    n_layers = len(streams) - 1
    matrix, output = np.full((n_layers, n_layers), np.nan), np.zeros(n_layers)
    for skipped in range(n_layers):
        for cut in cuts or [None]:
            end = len(ids) if cut is None else cut
            measured = range(keep_first if cut is None else cut, len(ids))
            with skipping(model, architecture, skipped, unit, lambda p, end=end: keep_first <= p < end):
                changed, probabilities = whole_pass(model, architecture, ids)
            output[skipped] = max(output[skipped], distance(original, probabilities, measured))
            for layer in range(skipped, n_layers):
                found = relative(streams[layer + 1] - streams[layer], changed[layer + 1] - changed[layer], measured)
                matrix[skipped, layer] = np.nanmax([matrix[skipped, layer], found])
    return matrix, output


def local_influence(
    model: Any, architecture: str, ids: list[int], cuts: list[int] | None, keep_first: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`skip_influence`, Delta_s taken from each later layer's own input alone."""
    streams, original = whole_pass(model, architecture, ids)
    n_layers = len(streams) - 1
    matrix, output = np.full((n_layers, n_layers), np.nan), np.zeros(n_layers)
    for skipped in range(n_layers):
        for layer in range(skipped + 1, n_layers + 1):
            for cut in cuts or [None]:
                end = len(ids) if cut is None else cut
                measured = range(keep_first if cut is None else cut, len(ids))
                without = streams[layer].clone()
                without[keep_first:end] -= (streams[skipped + 1] - streams[skipped])[keep_first:end]
                with entering(model, architecture, layer, without):
                    changed, probabilities = whole_pass(model, architecture, ids)
                if layer == n_layers:
                    output[skipped] = max(output[skipped], distance(original, probabilities, measured))
                else:
                    found = relative(streams[layer + 1] - streams[layer], changed[layer + 1] - without, measured)
                    matrix[skipped, layer] = np.nanmax([matrix[skipped, layer], found])
    return matrix, output


def _stream(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
