"""Where a prompt is cut in past and future: a layer is skipped before the cut, its influence measured from it on."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from lacscope.guards._arguments import ANY, listed, whole_number, whole_numbers
from lacscope.model_measures._skip_influence import Variants
from lacscope.tracing._inputs import InputError

FIRST_CUT, LAST_TOKENS, STEP = 8, 4, 8
SHORTEST = FIRST_CUT + LAST_TOKENS + 1  # prompt that a cut can be drawn in


def take_cuts(
    cuts: Sequence[Sequence[int]] | None, lengths: Sequence[int], n_cuts: int, keep_first: int, seed: int, first: int
) -> list[list[int]]:
    """The cuts given, checked, or some drawn; errors as :func:`check_cuts` and :func:`draw_cuts`."""
    return draw_cuts(lengths, n_cuts, seed, first) if cuts is None else check_cuts(cuts, lengths, keep_first)


def cut_settings(cuts: Sequence[Sequence[int]] | None, n_cuts: int, seed: int) -> dict[str, str | int]:
    """What a result says of its cuts."""
    return {"cuts": "random", "n_cuts": n_cuts, "seed": seed} if cuts is None else {"cuts": "given"}


def cut_table(cuts: Sequence[Sequence[int]], at_least: int = 1) -> xr.DataArray:
    """The cuts over (sample, draw), -1 where a prompt has fewer than others or than ``at_least``.

    >>> cut_table([[8, 16], [8]], 3).values.tolist()
    [[8, 16, -1], [8, -1, -1]]
    """
    table = np.full((len(cuts), max(at_least, *(len(own) for own in cuts))), -1)
    for row, own in zip(table, cuts, strict=True):
        row[: len(own)] = own
    return xr.DataArray(table, dims=("sample", "draw"), attrs={"long_name": "t: first position that is not skipped"})


def draw_cuts(lengths: Sequence[int], n_cuts: int, seed: int, first: int = 0) -> list[list[int]]:
    """For each prompt ``n_cuts`` of ``range(8, n_tokens - 4, 8)`` at random, in order; all where there are fewer.

    A prompt's draw depends on the seed and its place alone; ``first`` is the place of the first prompt.

    Raises:
        ValueError: ``n_cuts`` under 1.
        InputError: a prompt of fewer than 13 tokens.

    >>> draw_cuts([30, 13], 4, seed=0)
    [[8, 16, 24], [8]]
    """
    whole_number("n_cuts", n_cuts, least=1)
    whole_number("seed", seed)
    whole_number("first", first)
    drawn = []
    for sample, length in enumerate(lengths):
        possible = range(FIRST_CUT, length - LAST_TOKENS, STEP)
        if not possible:
            raise InputError(
                f"prompt {sample} has {length} tokens; cuts are drawn from range({FIRST_CUT}, n_tokens - "
                f"{LAST_TOKENS}, {STEP}), so it needs {SHORTEST}. Give longer prompts, or cuts=."
            )
        rng = np.random.default_rng([seed, first + sample])
        drawn.append(sorted(rng.choice(possible, min(n_cuts, len(possible)), replace=False).tolist()))
    return drawn


def check_cuts(cuts: Sequence[Sequence[int]], lengths: Sequence[int], keep_first: int) -> list[list[int]]:
    """The cuts as given, each with a position skipped before it and one measured from it on.

    Raises:
        ValueError: cuts of another number of prompts, a prompt without one, or a cut outside its prompt.

    >>> check_cuts([[3, 5]], [6], keep_first=1)
    [[3, 5]]
    """
    cuts = listed("cuts", cuts, "lists, one for each prompt")
    if len(cuts) != len(lengths):
        raise ValueError(f"cuts has {len(cuts)} lists for {len(lengths)} prompts: give one list for each prompt.")
    for sample, (own, length) in enumerate(zip(cuts, lengths, strict=True)):
        whole_numbers(f"cuts[{sample}]", own, least=ANY, distinct=True)
        outside = [cut for cut in own if not keep_first < cut < length]
        if outside or not own:
            given = f"cut {outside[0]}" if outside else "no cut"
            raise ValueError(
                f"prompt {sample} of {length} tokens has {given}; it needs at least one, each from {keep_first + 1} "
                f"(the first {keep_first} are never skipped) to {length - 1}."
            )
    return [[int(cut) for cut in own] for own in cuts]


def future_variants(cuts: Sequence[int], n_tokens: int, keep_first: int) -> Variants:
    """One variant for each cut t: skipped at keep_first <= p < t, measured at p >= t.

    >>> variants = future_variants([2], 4, keep_first=1)
    >>> variants.skipped.tolist(), variants.measured.tolist()
    ([[False, True, False, False]], [[False, False, True, True]])
    """
    position = torch.arange(n_tokens)
    future = position >= torch.tensor(list(cuts)).unsqueeze(-1)
    return Variants((position >= keep_first) & ~future, future)


def current_variants(n_tokens: int, keep_first: int, sample: int) -> Variants:
    """The one variant that is skipped, and measured, at every p >= keep_first.

    Raises:
        InputError: a prompt without such a position.
    """
    if n_tokens <= keep_first:
        raise InputError(
            f"prompt {sample} has {n_tokens} tokens and the first {keep_first} are never skipped: give a longer one."
        )
    everywhere = (torch.arange(n_tokens) >= keep_first).unsqueeze(0)
    return Variants(everywhere, everywhere)
