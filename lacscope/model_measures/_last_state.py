"""The last state of a prompt: the stream that leaves the last block, or that stream after the model's final norm."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.models._checks import UnsupportedModelError, require_head
from lacscope.models._model import Model
from lacscope.models.adapters import adapt, without_gradients

LastState = Literal["raw", "normed"]


def check_last_state(model: Model, last_state: str) -> None:
    """Refuse before any pass what :func:`states_of` cannot do.

    Raises:
        ValueError: another word than "raw" or "normed".
        UnsupportedModelError: "normed", of a model whose final norm is not the module that it is looked for in.
    """
    if last_state not in get_args(LastState):
        raise ValueError(f"last_state must be 'raw' or 'normed', got {last_state!r}.")
    if last_state == "raw":
        return
    try:
        require_head(model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"last_state='normed' needs the final norm of {adapt(model).name}, which could not be found: its norm and "
            "head on the last stream do not give its logits. Use last_state='raw'."
        ) from error


@without_gradients()
def states_of(
    model: Model, stream: Float[Tensor, "state pos d_model"], last_state: LastState
) -> Float[Tensor, "state pos d_model"]:
    """h_0 .. h_L as they are, or with h_L after the final norm, as transformers' ``hidden_states`` have it.

    The final norm turns h_L by its weights and is no part of the last block, so the raw state is the block's own.
    """
    if last_state == "raw":
        return stream
    last = adapt(model).final_norm(stream[-1:])
    return torch.cat([stream[:-1], last.to(stream)])
