"""Facts of a model that a trace and a sweep carry: how its weights were processed, what they are, what it costs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.adapters import adapt


def weight_processing(model: Any) -> str:
    """``"none"``, or what TransformerLens did to the weights that moves residual norms.

    Centring the weights that write to the stream takes its mean out of a LayerNorm model's stream: norms
    move by up to 11 % (measured). Folding alone moves none.
    """
    adapter = adapt(model)
    embedding: Float[Tensor, "vocab d_model"] = adapter.model.W_E.detach()[:64].float()
    if bool(embedding.mean(-1).abs().max() < 1e-4 * embedding.abs().mean()):
        return "centred: residual norms differ from the raw model's"
    normalization = str(getattr(adapter.model.cfg, "normalization_type", "") or "")
    compatible = bool(getattr(adapter.model, "compatibility_mode", False))
    return "folded" if compatible or normalization.endswith("Pre") else "none"


@dataclass(frozen=True)
class ModelCost:
    """Matmul FLOPs of a model's parts, per token read (2 per weight), for bounds on what could be skipped.

    ``block`` is one block's projections, ``kv`` its key and value projections alone, ``attend`` the score
    and value products per earlier token attended to, and ``head`` the unembedding.
    """

    block: float
    kv: float
    attend: float
    head: float


def model_cost(model: Any) -> ModelCost | None:
    """FLOPs per token of the parts, averaged over blocks; None where the shapes do not tell (experts)."""
    adapter = adapt(model)
    cfg = adapter.model.cfg
    if getattr(cfg, "num_experts", None):
        return None
    # HookedTransformer keeps biases per head, [n_heads, d_head]: they multiply nothing.
    weights = [
        sum(p.numel() for name, p in block.named_parameters() if p.ndim >= 2 and ".b_" not in f".{name}")
        for block in adapter.model.blocks
    ]
    n_kv_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    return ModelCost(
        block=2.0 * sum(weights) / len(weights),
        kv=2.0 * 2 * cfg.d_model * n_kv_heads * cfg.d_head,
        attend=2.0 * 2 * cfg.n_heads * cfg.d_head,
        head=2.0 * cfg.d_model * cfg.d_vocab,
    )


def model_attrs(model: Any) -> Mapping[str, Any]:
    """Attributes of a trace that describe the model."""
    adapter = adapt(model)
    cost = model_cost(adapter)
    attrs: dict[str, Any] = {
        "model": adapter.name,
        "model_class": type(adapter.model).__name__,
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "device": adapter.device.type,
        "weight_processing": weight_processing(adapter),
    }
    if cost is not None:
        attrs["cost"] = json.dumps(asdict(cost))
    return attrs


def weights_digest(model: Any) -> str:
    """sha256 over the bytes of every parameter, in order and with its shape: equal weights, equal digest.

    Takes about a second per gigabyte. Names are left out: they differ between TransformerLens's classes.
    """
    digest = hashlib.sha256()
    for parameter in adapt(model).model.parameters():
        digest.update(f"{parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
