"""Which of a GGUF file's tensors transformers reads into a model."""

from collections.abc import Iterable
from typing import Any


def unread_tensors(architecture: str, names: Iterable[str], hf_model: Any) -> list[str]:
    """Names of tensors that transformers passes over without a word.

    Architectures that its newer reader knows are left out: what that one cannot place, it reports by itself.
    """
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    if architecture in GGUF_CONFIG_ARCHS:
        return []
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=hf_model.config.to_dict())
    read = get_gguf_hf_weights_map(hf_model, processor)
    return [name for name in names if name not in read and name.removesuffix(".weight") not in read]
