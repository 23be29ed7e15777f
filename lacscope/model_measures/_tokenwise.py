"""Linear maps that act on each token alone, fitted to what a layer does: diagonal, or ridge of low rank."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Family = Literal["diagonal", "low_rank"]


class Moments:
    """Second moments of what enters and leaves each layer, over tokens, in float64: two d_model x d_model a layer."""

    def __init__(self, n_layers: int, d_model: int) -> None:
        self.n_tokens = 0
        self.entering = torch.zeros(n_layers, d_model, d_model, dtype=torch.float64)
        self.with_update = torch.zeros_like(self.entering)
        self.leaving_sum = torch.zeros(n_layers, d_model, dtype=torch.float64)
        self.update_sum = torch.zeros_like(self.leaving_sum)

    def add(self, stream: Float[Tensor, "state pos d_model"]) -> None:
        """Take a prompt's states into account."""
        self.n_tokens += stream.shape[1]
        for layer in range(len(stream) - 1):
            # Float64 on the CPU: not every accelerator has it, and the normal equations square the condition number.
            before, after = stream[layer].cpu().double(), stream[layer + 1].cpu().double()
            self.entering[layer] += before.T @ before
            self.with_update[layer] += before.T @ (after - before)
            self.leaving_sum[layer] += after.sum(0)
            self.update_sum[layer] += (after - before).sum(0)


@dataclass(frozen=True)
class TokenMap:
    """T(h) = h + h B, and the directions along which h B lies most.

    ``matrix`` is B; ``subspace`` holds the leading principal directions of h B over the calibration tokens.
    """

    matrix: Float[Tensor, "d_model d_model"]
    subspace: Float[Tensor, "d_model direction"]

    def update(self, h: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """T(h) - h, float64 on the CPU."""
        return h.cpu().double() @ self.matrix


def fit(moments: Moments, layer: int, family: Family, rank: int, penalty: float, directions: int) -> TokenMap:
    """The map of one layer's update that leaves the least squared error over the tokens of ``moments``.

    Minimises sum ||update - h B||^2 + lambda ||B||^2 over B that are diagonal, or of rank ``rank`` at most (exactly:
    reduced-rank ridge regression). lambda is ``penalty`` times the mean of the diagonal of sum h h^T.
    """
    entering, with_update = moments.entering[layer], moments.with_update[layer]
    power = entering.diagonal()
    strength = penalty * power.mean()
    if family == "diagonal":
        matrix = torch.diag(with_update.diagonal() / (power + strength).clamp(min=torch.finfo(power.dtype).tiny))
    else:
        full = torch.linalg.solve(entering + strength * torch.eye(len(entering), dtype=entering.dtype), with_update)
        # With the penalty as extra rows of data the fitted values' second moment is with_update^T full.
        leading = _leading(with_update.T @ full, rank)
        matrix = full @ leading @ leading.T
    return TokenMap(matrix, _leading(matrix.T @ entering @ matrix, directions))


def _leading(symmetric: Float[Tensor, "d d"], n: int) -> Float[Tensor, "d n"]:
    """Eigenvectors of the ``n`` largest eigenvalues."""
    vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2).eigenvectors
    return vectors[:, -n:]
