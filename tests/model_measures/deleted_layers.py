"""The slow oracle: a plain transformers model whose blocks are deleted from its list, run whole for every question."""

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lacscope.testing import tiny_transformers_model


def layer_list(hf_model: Any) -> nn.ModuleList:
    return hf_model.gpt_neox.layers if hasattr(hf_model, "gpt_neox") else hf_model.model.layers


def without(hf_model: Any, removed: Collection[int]) -> Any:
    """A copy with these blocks deleted and the rest renumbered."""
    cut = copy.deepcopy(hf_model)
    kept = nn.ModuleList([block for i, block in enumerate(layer_list(cut)) if i not in removed])
    for index, block in enumerate(kept):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    if hasattr(cut, "gpt_neox"):
        cut.gpt_neox.layers = kept
    else:
        cut.model.layers = kept
    cut.config.num_hidden_layers = len(kept)
    return cut


def logits_of(hf_model: Any, tokens: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return hf_model(torch.tensor([list(tokens)]), use_cache=False).logits[0].double()


def mean_loss(logits: Tensor, tokens: Sequence[int], first: int = 0) -> float:
    """Plain loop: -log p of each next token, from the prediction at ``first`` on."""
    found = []
    for place in range(first, len(tokens) - 1):
        scores = [float(x) for x in logits[place]]
        top = max(scores)
        log_sum = top + math.log(sum(math.exp(x - top) for x in scores))
        found.append(log_sum - scores[tokens[place + 1]])
    return sum(found) / len(found)


def mean_kl(full: Tensor, other: Tensor, first: int = 0) -> float:
    found = []
    for place in range(first, len(full) - 1):
        p, q = full[place].softmax(-1).tolist(), other[place].softmax(-1).tolist()
        found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(found) / len(found)


def silence(hf_model: Any, layer: int) -> None:
    """Make a block write nothing: its output weights and biases are zero."""
    block = layer_list(hf_model)[layer]
    for name, module in block.named_modules():
        if name.endswith(("o_proj", "down_proj", "attention.dense", "mlp.dense_4h_to_h")):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def amplify(hf_model: Any, layer: int, factor: float) -> None:
    """Make a block write ``factor`` times as much."""
    block = layer_list(hf_model)[layer]
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "attention.dense", "mlp.dense_4h_to_h")):
                parameter.mul_(factor)


def plain(architecture: str, n_layers: int = 4) -> Any:
    return tiny_transformers_model(architecture, n_layers=n_layers)
