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
        found = changes_of(pre, post, pre_norm, post_norm, cosine=cosine)
        for name in ("delta_norm", "update_norm", *(["cos_pre_post"] if cosine else [])):
            self.keep(name, found[name])


def changes_of(
    pre: Float[Tensor, "*layer batch pos d_model"],
    post: Float[Tensor, "*layer batch pos d_model"],
    pre_norm: Float[Tensor, "*layer batch pos"],
    post_norm: Float[Tensor, "*layer batch pos"],
    *,
    cosine: bool,
) -> dict[str, Float[Tensor, "*layer batch pos"]]:
    """All that is measured of streams that become others, by name; ``cos_pre_post`` with ``cosine`` alone."""
    found = {
        "resid_pre_norm": pre_norm,
        "resid_post_norm": post_norm,
        "delta_norm": post_norm - pre_norm,
        "update_norm": update_norm_of(pre, post),
    }
    return found | ({"cos_pre_post": cosine_of(pre, post, pre_norm, post_norm)} if cosine else {})


def update_norm_of(
    pre: Float[Tensor, "*token d_model"], post: Float[Tensor, "*token d_model"]
) -> Float[Tensor, "*token"]:
    """How long what is added to a stream is."""
    return torch.linalg.vector_norm(post.detach().float() - pre.detach().float(), dim=-1)


def cosine_of(
    pre: Float[Tensor, "*token d_model"],
    post: Float[Tensor, "*token d_model"],
    pre_norm: Float[Tensor, "*token"],
    post_norm: Float[Tensor, "*token"],
) -> Float[Tensor, "*token"]:
    """How far a stream is turned."""
    dot = (post.detach().float() * pre.detach().float()).sum(-1)
    return dot / (post_norm * pre_norm).clamp_min(torch.finfo(torch.float32).tiny)
