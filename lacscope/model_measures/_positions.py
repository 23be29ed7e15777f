"""Which tokens a mean runs over, and how a figure says so."""

import torch
from jaxtyping import Bool
from torch import Tensor

from lacscope.guards._arguments import flag
from lacscope.model_measures._residuals import Residuals
from lacscope.traces._schema import find_sinks


def kept_tokens(read: Residuals, exclude_sinks: bool) -> Bool[Tensor, " pos"]:
    """True at the tokens that count: all, or those that are no sinks (:func:`lacscope.traces.find_sinks`)."""
    if not flag("exclude_sinks", exclude_sinks):
        return torch.ones_like(read.tokens, dtype=torch.bool)
    norms = torch.linalg.vector_norm(read.stream[1:], dim=-1, dtype=torch.float32)
    return torch.from_numpy(~find_sinks(norms.cpu().numpy())).to(read.tokens.device)


def positions_in_words(exclude_sinks: bool) -> str:
    """The attribute ``positions`` of a mean over :func:`kept_tokens`.

    >>> positions_in_words(False)
    'all tokens, position 0 too'
    """
    return "all tokens but sinks" if exclude_sinks else "all tokens, position 0 too"
