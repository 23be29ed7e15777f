"""What a rule sees: one layer, or sublayer, of one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Unit = Literal["block", "attn", "mlp", "sublayers"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class LayerView:
    """What a rule may look at: one layer (or sublayer) of one forward pass.

    ``resid_pre`` and ``resid_post`` are the stream before and after the unit, ``[batch, pos, d_model]``;
    ``resid_post`` and its norm are the *candidate*, what the unit would write, and are None for a rule
    that decides before the unit runs. Norms are float32. ``decode`` is True where the token being read
    was generated, ``step`` counts such tokens from 0 (negative in the prompt), ``position`` counts the sample's own
    tokens from 0, ``valid`` is False on padding and ``sample`` is each row's sample id (in :func:`lacscope.trace`:
    ``sample_ids``; in :func:`lacscope.halting`: the row of the batch); each is None unless the rule's ``needs``
    names it (``"phase"`` gives ``decode`` and ``step``). ``unit`` is what is asked about: a rule of unit
    ``"sublayers"`` is asked twice a layer, about ``"attn"`` and then ``"mlp"``. ``place`` counts the ``n_places``
    blocks of the pass in the order in which they run, a block that is skipped counting too: ``layer`` and ``n_layers``
    themselves, but under a plan that runs them in another order.
    """

    layer: int
    n_layers: int
    resid_pre: Float[Tensor, "batch pos d_model"]
    resid_pre_norm: Float[Tensor, "batch pos"]
    resid_post: Float[Tensor, "batch pos d_model"] | None = None
    resid_post_norm: Float[Tensor, "batch pos"] | None = None
    decode: Bool[Tensor, "batch pos"] | None = None
    position: Int[Tensor, "batch pos"] | None = None
    valid: Bool[Tensor, "batch pos"] | None = None
    sample: Int[Tensor, " batch"] | None = None
    step: Int[Tensor, "batch pos"] | None = None
    unit: Unit = "block"
    head: Callable[[Tensor], Tensor] | None = None
    place: int | None = None
    n_places: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("place", self.layer), ("n_places", self.n_layers)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def shape(self) -> torch.Size:
        return self.resid_pre_norm.shape

    @property
    def device(self) -> torch.device:
        return self.resid_pre_norm.device

    def logits(self, stream: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token vocab"]:
        """The final norm and the head on a stream, or on some of its tokens; computed when called, and no hook fires.

        Raises ValueError where the rule's ``needs`` does not name ``"head"``.
        """
        if self.head is None:
            raise ValueError("this view has no head: name 'head' in the rule's needs to read logits of a stream.")
        return self.head(stream)
