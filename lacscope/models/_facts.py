"""Facts of a model that a trace and a sweep carry: how its weights were processed, what they are, what it costs."""

import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.models._config import deciding_settings
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, adapt
from lacscope.models.adapters._seen_weights import SeenWeights
from lacscope.models.adapters._weights import (
    layer_of,
    multiplied,
    own_tensors,
    parts,
    present,
    quantised_as,
    weight_buffers,
)

_HASHED_AT_ONCE = 2 * 10**9  # bytes: a second or two
_NOT_HASHED = "not hashed: larger than 2 GB; call lacscope.models.weights_digest(model) before"


def weight_processing(model: Model | Adapter) -> str:
    """``"none"``, or what TransformerLens did to the weights that moves residual norms.

    Centring the weights that write to the stream takes its mean out of a LayerNorm model's stream: norms
    move by up to 11 % (measured). Folding alone moves none.
    """
    adapter = adapt(model)
    embedding = _embedding(adapter)[:64].float()
    if bool(embedding.mean(-1).abs().max() < 1e-4 * embedding.abs().mean()):
        return "centred: residual norms differ from the raw model's"
    normalization = str(getattr(adapter.model.cfg, "normalization_type", "") or "")
    compatible = bool(getattr(adapter.model, "compatibility_mode", False))
    return "folded" if compatible or normalization.endswith("Pre") else "none"


def _embedding(adapter: Adapter) -> Float[Tensor, "vocab d_model"]:
    """The token embedding, fetched where it is offloaded."""
    embedding: Tensor = adapter.model.W_E.detach()
    if embedding.device.type != "meta":
        return embedding
    return next(
        present(module, name, tensor)
        for module, name, tensor in own_tensors(_root(adapter))
        if tensor.shape == embedding.shape
    )


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


def model_cost(model: Model | Adapter) -> ModelCost | None:
    """FLOPs per token of the parts, averaged over blocks; None where the shapes do not tell (experts, packed weights).

    Linear maps count by their inputs and outputs, whatever their weights are quantised to.
    """
    adapter = adapt(model)
    cfg = adapter.model.cfg
    if getattr(cfg, "num_experts", None):
        return None
    found = [multiplied(layer_of(adapter.model, layer)) for layer in range(adapter.n_layers)]
    weights = [sum(one.values()) for one in found if one is not None]
    if len(weights) < adapter.n_layers:
        return None
    n_kv_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    return ModelCost(
        block=2.0 * sum(weights) / len(weights),
        kv=2.0 * 2 * cfg.d_model * n_kv_heads * cfg.d_head,
        attend=2.0 * 2 * cfg.n_heads * cfg.d_head,
        head=2.0 * cfg.d_model * cfg.d_vocab,
    )


def quantization(model: Model | Adapter) -> str:
    """What the weights are quantised to: ``"GGUF Q4_1 x 210, F32 x 61, dequantised"``; "" where they are not.

    Of weights that are computed with as they are packed, how many linear maps are kept how:
    ``"bitsandbytes nf4 x 28"``.
    """
    original = getattr(adapt(model).model, "original_model", None)
    stored = str(getattr(getattr(original, "config", None), "gguf_quantization", "") or "")
    if stored:
        return f"GGUF {stored}, dequantised"
    counts = Counter(kind for module in _root(model).modules() if (kind := quantised_as(module)) is not None)
    return ", ".join(f"{kind} x {n}" for kind, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


class _OfWeights:
    """What is read off a model's weights, once while they stay as they are."""

    def __init__(self, adapter: Adapter) -> None:
        self.seen, self.settings = SeenWeights(_root(adapter)), deciding_settings(_root(adapter))
        self.attrs: dict[str, Any] = {}
        if quantised := quantization(adapter):
            self.attrs["quantization"] = quantised
        cost = model_cost(adapter)
        if cost is not None:
            self.attrs["cost"] = json.dumps(asdict(cost))

    def hold(self, adapter: Adapter) -> bool:
        """True while neither the weights nor the settings, which the digest has too, have changed."""
        return self.settings == deciding_settings(_root(adapter)) and self.seen.unchanged()


_OF_WEIGHTS: "weakref.WeakKeyDictionary[Any, _OfWeights]" = weakref.WeakKeyDictionary()


def _of_weights(adapter: Adapter) -> _OfWeights:
    known = _OF_WEIGHTS.get(adapter.model)
    if known is None or not known.hold(adapter):
        known = _OF_WEIGHTS[adapter.model] = _OfWeights(adapter)
    return known


def model_attrs(model: Model | Adapter) -> Mapping[str, Any]:
    """Attributes of a trace that describe the model; ``quantization`` is there where the weights are quantised.

    ``weights`` is their sha256 (:func:`weights_digest`). Where they are larger than 2 GB and nobody has asked for it
    yet, it says how to.
    """
    adapter = adapt(model)
    known = _of_weights(adapter)
    if "weights" not in known.attrs:
        n_bytes = sum(tensor.nbytes for _, _, tensor in own_tensors(_root(adapter)))
        known.attrs["weights"] = weights_digest(model) if n_bytes <= _HASHED_AT_ONCE else _NOT_HASHED
    return {
        "model": adapter.name,
        "model_class": type(adapter.model).__name__,
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "device": adapter.device.type,
        # Not remembered: compatibility mode changes it, and need not change a weight.
        "weight_processing": weight_processing(adapter),
        **known.attrs,
    }


def weights_digest(model: Model | Adapter) -> str:
    """sha256 of a model's weights and of the settings that its numbers hang on.

    Over the bytes of every parameter, in order and with its shape; of quantised ones with their scales. Then the
    buffers that are saved with the weights, and the model's config without what names it or says where it lies: two
    models of equal weights, one with another epsilon or window, have two digests. Takes about a second per gigabyte.
    Names of parameters are left out: they differ between TransformerLens's classes. Results that are made after it,
    of the same weights, carry it.
    """
    found = _sha256(model)
    _of_weights(adapt(model)).attrs["weights"] = found
    return found


def _sha256(model: Model | Adapter) -> str:
    digest = hashlib.sha256()
    root = _root(model)
    bytes_of: Any = digest.update
    # HookedTransformer saves its causal masks as buffers: they are no weights.
    buffers = weight_buffers(root) if hasattr(adapt(model).model, "original_model") else ()
    for module, name, tensor in (*own_tensors(root), *buffers):
        for said, part in parts(module, name, tensor):
            digest.update(said.encode())
            if part is not None:
                bytes_of(part.cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(deciding_settings(root).encode())
    return digest.hexdigest()


def _root(model: Model | Adapter) -> Any:
    """The module whose parameters are the model's."""
    found = adapt(model).model
    return getattr(found, "original_model", found)
