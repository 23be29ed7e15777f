"""Random voids at a budget: met exactly, and each token's own whatever the batch."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask
from helpers import PROMPTS, rows_of, shared_model

from lacscope import trace
from lacscope.rules import CosineThreshold, RandomLayers, RandomTokens, Scope
from lacscope.rules._draws import random_bits, random_units
from lacscope.rules._random_voids import WINDOW


def streams(n_layers: int, rows: int, tokens: int) -> torch.Tensor:
    return torch.ones(n_layers + 1, rows, tokens, 2)


# --- bits ----------------------------------------------------------------------------------------------


def test_bits_are_those_of_splitmix() -> None:
    """Against plain Python integers."""
    wrap, golden = 2**64, 0x9E3779B97F4A7C15

    def mixed(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % wrap
        return word ^ (word >> 31)

    state = 7
    for part in (0, 3, -1 % wrap):
        state = mixed((state + golden) % wrap ^ mixed((part + golden) % wrap))
    assert random_bits(7, 3, np.array([[-1, 5]]))[0, 0] == state


def test_bits_are_spread_evenly_and_differ_by_every_part() -> None:
    units = random_units(random_bits(1, np.arange(40)[:, None], np.arange(500)))
    assert units.min() >= 0
    assert units.max() < 1
    assert abs(units.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(units[:-1].ravel(), units[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(units[:, :-1].ravel(), units[:, 1:].ravel())[0, 1]) < 0.03
    assert random_bits(1, 2) != random_bits(2, 1)


# --- per token -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_every_token_has_its_count(count: int) -> None:
    void = ask(RandomLayers(count, seed=3), streams(8, 2, 50))
    assert (void.sum(0) == count).all()


def test_protected_layers_do_not_lower_the_count() -> None:
    void = ask(RandomLayers(6, seed=3, scope=Scope(protect=[0, -1])), streams(8, 2, 5))
    assert (void.sum(0) == 6).all()
    assert not void[[0, -1]].any()
    with pytest.raises(ValueError, match=re.escape("count=7 voids of 6 layers: 8 less those that scope protects.")):
        ask(RandomLayers(7, seed=3, scope=Scope(protect=[0, -1])), streams(8, 2, 5))


def test_layers_are_equally_likely() -> None:
    void = ask(RandomLayers(3, seed=0), streams(6, 4, 500))
    assert (abs(void.float().mean(dim=(1, 2)) - 0.5) < 0.05).all()


@pytest.mark.parametrize(
    ("grain", "needs", "same_rows", "same_tokens"),
    [
        ("static", set(), True, True),
        ("sequence", {"sample"}, False, True),
        ("token", {"sample", "position"}, False, False),
    ],
)
def test_a_grain_says_what_is_drawn_anew(grain: Any, needs: set[str], same_rows: bool, same_tokens: bool) -> None:
    rule = RandomLayers(4, seed=1, grain=grain)
    assert rule.needs == needs
    void = ask(rule, streams(12, 2, 6))
    assert torch.equal(void[:, 0], void[:, 1]) == same_rows
    assert bool((void == void[:, :, :1]).all()) == same_tokens
    assert (void.sum(0) == 4).all()


@pytest.mark.parametrize("make", [lambda seed: RandomLayers(3, seed), lambda seed: RandomTokens(0.4, seed)])
def test_a_token_is_drawn_by_its_sample_and_position_alone(make: Any) -> None:
    whole = ask(make(5), streams(7, 3, 70), sample=torch.tensor([4, 9, 2]))
    one = ask(make(5), streams(7, 1, 70), sample=torch.tensor([9]))
    late = ask(make(5), streams(7, 1, 3), sample=torch.tensor([9]), position=torch.tensor([[-1, 65, 66]]))
    assert torch.equal(whole[:, 1:2], one)
    assert torch.equal(late[:, 0, 1:], one[:, 0, 65:67])
    assert not torch.equal(ask(make(6), streams(7, 1, 70), sample=torch.tensor([9])), one)


def test_attention_and_mlp_are_drawn_apart() -> None:
    void = ask(RandomLayers(3, seed=0, unit="sublayers"), streams(8, 1, 20)).unflatten(0, (8, 2))
    assert (void.sum(0) == 3).all()
    assert not torch.equal(void[:, 0], void[:, 1])


# --- per layer -----------------------------------------------------------------------------------------


def test_every_layer_meets_its_rate_in_every_whole_window() -> None:
    rates = [0.0, 0.1, 0.5, 1 / 3, 0.97, 1.0]
    void = ask(RandomTokens(rates, seed=2), streams(6, 3, 5 * WINDOW)).int()
    for n in range(1, 6):
        counts = void[..., : n * WINDOW].sum(-1)
        assert (abs(counts - n * WINDOW * torch.tensor(rates)[:, None]) < 1).all()
    assert not void[0].any()
    assert void[-1].all()
    assert len({tuple(row) for row in void[2].tolist()}) == 3


def test_rates_of_protected_layers_go_to_the_others() -> None:
    def rates(given: Any, protect: list[int], n_layers: int = 4) -> list[float]:
        return RandomTokens(given, seed=0, scope=Scope(protect=protect)).rates_of(n_layers).round(9).tolist()

    assert rates(0.25, []) == [0.25] * 4
    assert rates(0.25, [0, -1]) == [0.0, 0.5, 0.5, 0.0]
    # 0.6 to give: one layer is full after 0.1 of it, and the other takes the rest.
    assert rates([0.6, 0.9, 0.2, 0.0], [0, -1]) == [0.0, 1.0, 0.7, 0.0]
    with pytest.raises(
        ValueError, match=re.escape("rates add up to 2.4 void layers a token; 2 of 4 are not protected.")
    ):
        rates(0.6, [0, -1])
    with pytest.raises(ValueError, match="there are rates of 2 layers, the model has 4"):
        rates([0.5, 0.5], [])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RandomLayers(-1, 0), "count must be 0 or more, got -1."),
        (lambda: RandomLayers(1.5, 0), "count must be a whole number, 0 or more, got 1.5."),
        (lambda: RandomLayers(1, -1), "seed must be 0 or more, got -1."),
        (lambda: RandomLayers(1, 0, "batch"), "grain must be 'static', 'sequence' or 'token', got 'batch'."),
        (lambda: RandomTokens(1.2, 0), "rates must be one share of tokens per layer, 0 to 1; got 1.2."),
        (lambda: RandomTokens([], 0), "rates must be one share of tokens per layer"),
        (lambda: CosineThreshold(1.01), "threshold is a cosine, -1 to 1; got 1.01."),
    ],
)
def test_options_that_are_none(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("rule", [RandomLayers(2, 0), RandomTokens([0.0, 0.5, 0.5, 0.0], 0)], ids=["layers", "tokens"])
def test_a_samples_voids_do_not_depend_on_its_batch(architecture: str, rule: Any) -> None:
    model = shared_model(architecture)
    options = {"rule": rule, "effect": "bypass", "max_new_tokens": 4}
    batch = trace(model, PROMPTS, sample_ids=[3, 1, 4, 5], **options)
    alone = trace(model, [PROMPTS[3]], sample_ids=[5], **options)
    a, b = rows_of(batch, 3), rows_of(alone, 0)
    np.testing.assert_array_equal(a.void.values, b.void.values)
    np.testing.assert_array_equal(a.token_id.values, b.token_id.values)


# --- cosine --------------------------------------------------------------------------------------------


def test_cosine_threshold_by_hand() -> None:
    # Turns of 0, 45 and 90 degrees, then the other way about.
    stream = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [-3.0, 3.0], [5.0, -5.0]]).reshape(5, 1, 1, 2)

    def void(threshold: float) -> list[int]:
        return ask(CosineThreshold(threshold), stream).flatten().int().tolist()

    assert void(0.9) == [1, 0, 0, 0]
    assert void(0.7) == [1, 1, 0, 0]
    assert void(-0.5) == [1, 1, 1, 0]
    assert void(1) == [0, 0, 0, 0]


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_cosine_threshold_is_that_of_the_traced_cosine(architecture: str) -> None:
    found = trace(shared_model(architecture), PROMPTS, rule=CosineThreshold(0.5), measures=["cos_pre_post"])
    expected = (found.cos_pre_post > 0.5) & found.valid
    assert expected.any()
    assert ((found.void == 1) == expected).all()
