"""The method again, in plain Python loops, from DESIGN section 1 and nothing of lacscope.

Numbers are float64 unless the caller's deltas are not: an oracle says what is meant, tests say how near it
must be met.
"""

from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def deltas(norms: Rows) -> list[list[float]]:
    """d_l = n_{l+1} - n_l, from the norms n_0..n_L of each token: ``[L+1][token]`` to ``[L][token]``."""
    return [
        [after - before for before, after in zip(norms[i], norms[i + 1], strict=True)] for i in range(len(norms) - 1)
    ]


def lac_threshold(earlier: Sequence[float], alpha: float) -> float:
    """alpha * (max - min) over the layers before; 0 where there are fewer than two of them."""
    if len(earlier) < 2:
        return 0.0
    highest = lowest = earlier[0]
    for delta in earlier:
        if delta > highest:
            highest = delta
        if delta < lowest:
            lowest = delta
    return alpha * (highest - lowest)


def lac_margins(delta: Rows, alpha: float) -> list[list[float]]:
    """d_l - tau_l for each layer and token: a void is where this is below 0."""
    margins = []
    for layer in range(len(delta)):
        row = []
        for token in range(len(delta[layer])):
            earlier = [delta[k][token] for k in range(layer)]
            row.append(delta[layer][token] - lac_threshold(earlier, alpha))
        margins.append(row)
    return margins


def lac_voids(delta: Rows, alpha: float) -> list[list[bool]]:
    """True where the layer is a void for the token."""
    return [[margin < 0 for margin in row] for row in lac_margins(delta, alpha)]


def exit_depth(void: Sequence[bool]) -> float:
    """(last active layer + 1) / L of one token, 0 where all its layers are voids."""
    last = -1
    for layer, halted in enumerate(void):
        if not halted:
            last = layer
    return (last + 1) / len(void)


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")
