"""Norms of the stream and of its changes, layer by layer through one pass."""

import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.models.adapters._private import edits_of


def norm_of(stream: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token"]:
    """L2 norm, accumulated in float32: in bfloat16 its rounding error exceeds many deltas."""
    if stream.dtype == torch.float64:
        return torch.linalg.vector_norm(stream.detach(), dim=-1).float()
    return torch.linalg.vector_norm(stream.detach(), dim=-1, dtype=torch.float32)


class Norms:
    """What is measured in one pass, by name and then by layer.

    ``alone`` says that no other hook stands on the residual points, so that a stream cannot have been edited in
    place unseen.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.layerwise: dict[str, list[Tensor]] = {}
        self._left: tuple[Tensor, int | None, Tensor] | None = None

    def keep(self, name: str, values: Float[Tensor, "batch pos"]) -> None:
        self.layerwise.setdefault(name, []).append(values.detach())

    def entering(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """The norm that was measured as the stream left the last block, where nobody touched it since."""
        if self._left is not None:
            left, version, norm = self._left
            if left is stream and (self.alone if version is None else version == edits_of(stream)):
                return norm
        return norm_of(stream)

    def left(self, stream: Float[Tensor, "row read d_model"], norm: Float[Tensor, "batch pos"]) -> None:
        """This stream, whose norm is known, is what the block hands on."""
        # Inference tensors carry no version that would show an edit in place.
        self._left = (stream, None if stream.is_inference() else edits_of(stream), norm)

    def keep_change(
        self,
        pre: Float[Tensor, "batch pos d_model"],
        post: Float[Tensor, "batch pos d_model"],
        pre_norm: Float[Tensor, "batch pos"],
        post_norm: Float[Tensor, "batch pos"],
        *,
        cosine: bool,
    ) -> None:
        """What a block makes of a stream; with ``cosine`` also how far it turns it."""
        for name, values in changes_of(pre, post, pre_norm, post_norm, cosine=cosine).items():
            self.keep(name, values)


def changes_of(
    pre: Float[Tensor, "*layer batch pos d_model"],
    post: Float[Tensor, "*layer batch pos d_model"],
    pre_norm: Float[Tensor, "*layer batch pos"],
    post_norm: Float[Tensor, "*layer batch pos"],
    *,
    cosine: bool,
) -> dict[str, Float[Tensor, "*layer batch pos"]]:
    """``delta_norm``, ``update_norm`` and, with ``cosine``, ``cos_pre_post`` of streams that become others."""
    before, after = pre.detach().float(), post.detach().float()
    found = {"delta_norm": post_norm - pre_norm, "update_norm": torch.linalg.vector_norm(after - before, dim=-1)}
    if cosine:
        scale = (post_norm * pre_norm).clamp_min(torch.finfo(torch.float32).tiny)
        found["cos_pre_post"] = (after * before).sum(-1) / scale
    return found
