"""The next token from logits: greedy, or seeded sampling that does not depend on the batch."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.traces._options import check_sampling


class Sampler:
    """Greedy at ``temperature=0``, else temperature and top-p sampling with one generator per row.

    Each row's generator is seeded by (seed, sample id), so a sample's tokens depend on neither the batch
    size nor the order. Nobody's global random state is touched.
    """

    def __init__(self, temperature: float | int = 0.0, top_p: float | int = 1.0, seed: int = 0) -> None:
        check_sampling(temperature, top_p)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}.")
        self.temperature, self.top_p, self.seed = float(temperature), float(top_p), int(seed)
        self._generators: list[torch.Generator] = []

    def start(self, sample_ids: list[int]) -> None:
        """Begin a batch with these samples as rows."""
        self._generators = []
        for sample_id in sample_ids:
            state = np.random.SeedSequence([self.seed, sample_id]).generate_state(1, np.uint64)[0]
            self._generators.append(torch.Generator().manual_seed(int(state) & (2**63 - 1)))

    def select(self, rows: list[int]) -> None:
        """Go on with these rows alone, in this order, each with its generator as it stands."""
        self._generators = [self._generators[row] for row in rows]

    def __call__(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """One token id per row."""
        if self.temperature == 0:
            return logits.argmax(-1)
        # float64, from the highest down: no temperature overflows, and no tail is lost to rounding.
        scores = logits.cpu().double()
        probabilities = torch.softmax((scores - scores.amax(-1, keepdim=True)) / self.temperature, dim=-1)
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        if self.top_p < 1:
            # The token that crosses top_p stays in.
            ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.top_p, 0.0)
        cumulative = ordered.cumsum(-1)
        draws = torch.stack(
            [torch.rand((), dtype=torch.float64, generator=generator) for generator in self._generators]
        )
        picked = torch.searchsorted(cumulative, (draws * cumulative[:, -1]).unsqueeze(-1), right=True)
        last_kept = (ordered > 0).sum(-1, keepdim=True) - 1
        return ids.gather(-1, torch.minimum(picked, last_kept)).squeeze(-1).to(logits.device)
