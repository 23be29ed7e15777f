"""GivenVoids: a mask known beforehand, replayed; each row's found by its sample id and each token's by its position."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import PROMPTS, assert_same_trace, left_padded, rows_of, shared_model, unchanged

import lacscope
from lacscope import FixedLayers, GivenVoids, L2AdaptiveComputation, halting, halting_hooks, trace
from lacscope.rules import LayerView, check_effect, describe_rule
from lacscope.traces._schema import rule_of

LAC = L2AdaptiveComputation(0.6)
MASKS = {7: np.array([[True, False, True], [False, False, True]]), 3: np.array([[False], [True]])}


def view_of(sample: list[int], position: list[list[int]], layer: int, n_layers: int = 2) -> LayerView:
    norm = torch.ones(len(position), len(position[0]))
    return LayerView(
        layer, n_layers, norm.unsqueeze(-1), norm, position=torch.tensor(position), sample=torch.tensor(sample)
    )


# --- the rule by itself ---------------------------------------------------------------------------------


def test_rows_are_found_by_sample_id_and_tokens_by_position() -> None:
    rule, state = GivenVoids(MASKS), {}
    assert (rule.decides, rule.needs, rule.unit) == ("before", {"sample", "position"}, "block")
    positions = [[-1, -1, 0], [0, 1, 2]]
    assert rule.voids(view_of([3, 7], positions, 0), state, {}).tolist() == [[False] * 3, [True, False, True]]
    assert rule.voids(view_of([3, 7], positions, 1), state, {}).tolist() == [[False, False, True], [False, False, True]]
    assert rule.voids(view_of([7], [[2]], 0), {}, {}).tolist() == [[True]]


@pytest.mark.parametrize(
    ("sample", "position", "n_layers", "text"),
    [
        (
            4,
            0,
            2,
            "no mask was given for sample 4; there are masks for 2 samples: 3, 7. The ids are trace's sample_ids",
        ),
        (7, 3, 2, "sample 7 has a mask of 3 tokens, and its token 3 is now read (tokens count from 0)"),
        (7, 0, 5, "the masks have 2 layers, and 5 are run, or skipped, in this pass."),
    ],
)
def test_nothing_is_made_up_where_a_mask_is_missing(sample: int, position: int, n_layers: int, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        GivenVoids(MASKS).voids(view_of([sample], [[position]], 0, n_layers), {}, {})


def test_many_known_samples_are_not_all_listed() -> None:
    rule = GivenVoids({i: np.zeros((2, 1), bool) for i in range(20)})
    with pytest.raises(ValueError, match=r"20 samples: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\."):
        rule.voids(view_of([99], [[0]], 0), {}, {})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("masks", "text"),
    [
        ({1: np.zeros((2, 3))}, "the mask of sample 1 must be a bool array [layer, token], got float64 (2, 3)"),
        ({1: np.zeros(3, bool)}, "must be a bool array [layer, token], got bool (3,)"),
        ({1: np.zeros((2, 3), bool), 2: np.zeros((4, 3), bool)}, "all with the same layers; got [2, 4]"),
        ({}, "one bool array [layer, token] for each sample id, all with the same layers; got no mask"),
    ],
)
def test_what_is_no_mask_is_refused(masks: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        GivenVoids(masks)


@pytest.mark.usefixtures("unchecked")
def test_bad_unit() -> None:
    with pytest.raises(ValueError, match="unknown unit 'head'"):
        GivenVoids(MASKS, "head")  # type: ignore[arg-type]


def test_equal_where_masks_and_unit_are() -> None:
    rule = GivenVoids(MASKS)
    same = GivenVoids({3: MASKS[3].copy(), 7: MASKS[7].copy()})
    assert rule == same
    assert hash(rule) == hash(same)
    flipped = {**MASKS, 3: ~MASKS[3]}
    reshaped = {**MASKS, 7: np.append(MASKS[7], [[False], [False]], axis=1)}
    others = [GivenVoids(MASKS, "mlp"), GivenVoids(flipped), GivenVoids(reshaped), GivenVoids({8: MASKS[7]}), LAC]
    assert rule not in others
    assert len({rule, same, *others}) == 6


def test_masks_are_copied_and_stay_as_they_are() -> None:
    mine = {1: np.zeros((2, 3), bool)}
    rule = GivenVoids(mine)
    mine[1][:] = True
    assert not rule.masks[1].any()
    with pytest.raises(ValueError, match="read-only"):
        rule.masks[1][0, 0] = True
    with pytest.raises(TypeError):
        rule.masks[2] = mine[1]  # type: ignore[index]


def test_described_by_a_digest() -> None:
    rule = GivenVoids(MASKS, "mlp")
    expected = {"name": "GivenVoids", "sha256": rule.sha256, "samples": 2, "unit": "mlp"}
    assert json.loads(describe_rule(rule)) == expected
    assert len(rule.sha256) == 64
    assert repr(rule) == f"GivenVoids(2 samples, sha256={rule.sha256[:12]}, unit='mlp')"


def test_of_an_array_takes_its_ids_and_ends_with_the_last_valid_token() -> None:
    mask = np.zeros((2, 2, 3), bool)
    mask[0], mask[1, :, :1] = MASKS[7], MASKS[3]
    array = xr.DataArray(mask, dims=("sample", "layer", "token"), coords={"sample": [7, 3]})
    valid = ("sample", "token"), np.array([[True, True, True], [True, False, False]])
    assert GivenVoids.of(array.assign_coords(valid=valid).transpose("token", "sample", "layer")) == GivenVoids(MASKS)
    assert GivenVoids.of(array).masks[3].shape == (2, 3)
    assert GivenVoids.of(MASKS, "attn") == GivenVoids(MASKS, "attn")
    with pytest.raises(ValueError, match=r"'rule'.*not sample, layer and token.*\.isel\(rule=0\)"):
        GivenVoids.of(array.expand_dims("rule"))


def test_a_public_rule() -> None:
    assert lacscope.GivenVoids is GivenVoids
    check_effect(GivenVoids(MASKS), "readout")
    with pytest.raises(ValueError, match="not defined for unit='mlp'"):
        check_effect(GivenVoids(MASKS, "mlp"), "readout")


# --- in a model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
def test_replayed_lac_is_lac(architecture: str, effect: str) -> None:
    """Padded batches, prompts and decode, ids that are not rows; in batches of another size."""
    model, ids = shared_model(architecture), [40, 3, 12, 5]
    options = {"effect": effect, "max_new_tokens": 5, "sample_ids": ids, "logits": "all", "batch_size": 3}
    made = trace(model, PROMPTS, rule=LAC, **options)
    rule = GivenVoids.of(made.void)
    again = trace(model, PROMPTS, rule=rule, **options)
    assert (made.void == 1).any()
    # Bit for bit, but for what made it.
    assert again.drop_attrs().identical(made.drop_attrs())
    assert rule_of(again) == {"name": "GivenVoids", "sha256": rule.sha256, "samples": 4, "unit": "block"}
    apart = trace(model, PROMPTS[::-1], rule=rule, **{**options, "sample_ids": ids[::-1], "batch_size": 1})
    for sample in range(4):
        assert_same_trace(rows_of(apart, 3 - sample), rows_of(made, sample))


@pytest.mark.parametrize("unit", ["attn", "mlp"])
def test_replayed_sublayers(unit: str) -> None:
    options = {"effect": "bypass", "max_new_tokens": 4, "logits": "all"}
    made = trace(shared_model(), PROMPTS, rule=L2AdaptiveComputation(0.6, unit), **options)
    again = trace(shared_model(), PROMPTS, rule=GivenVoids.of(made.void, unit), **options)
    assert (made.void == 1).any()
    assert again.drop_attrs().identical(made.drop_attrs())


def test_a_mask_of_whole_layers_is_fixed_layers() -> None:
    mask = np.zeros((4, 7), bool)
    mask[[1, 2]] = True
    given = trace(shared_model(), PROMPTS, rule=GivenVoids(dict.fromkeys(range(4), mask)), effect="bypass")
    fixed = trace(shared_model(), PROMPTS, rule=FixedLayers([1, 2]), effect="bypass")
    assert given.drop_attrs().identical(fixed.drop_attrs())


def test_given_answers_too() -> None:
    options = {"effect": "bypass", "responses": [[8, 30], [55, 6, 70, 4], [9], [31, 32, 33]], "logits": "last"}
    made = trace(shared_model(), PROMPTS, rule=LAC, **options)
    again = trace(shared_model(), PROMPTS, rule=GivenVoids.of(made.void), **options)
    assert again.drop_attrs().identical(made.drop_attrs())


def test_halting_names_samples_by_row_in_prefill_and_decode() -> None:
    model = shared_model()
    made = trace(model, PROMPTS, rule=LAC, effect="bypass", max_new_tokens=4, batch_size=4)
    ids, mask = left_padded(PROMPTS)
    with unchanged(model), halting(model, GivenVoids.of(made.void), "bypass") as recorder:
        _, cache = model(ids, attention_mask=mask, return_type="logits_and_cache", use_cache=True)
        for step in range(3):
            places = [len(prompt) + step for prompt in PROMPTS]
            tokens = torch.tensor([[int(made.token_id[row, place])] for row, place in enumerate(places)])
            mask = torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1)
            model(tokens, attention_mask=mask, past_key_values=cache, return_type="logits_and_cache", use_cache=True)
    for row in range(4):
        got, expected = rows_of(recorder.trace, row), rows_of(made, row)
        assert_same_trace(got.assign_coords(next_token_id=expected.next_token_id), expected)


def test_reading_past_the_mask_is_refused_in_the_middle_of_decode() -> None:
    made = trace(shared_model(), [PROMPTS[1]], rule=LAC, max_new_tokens=3, sample_ids=[9])
    model = shared_model()
    with unchanged(model), pytest.raises(ValueError, match=r"sample 9 has a mask of 5 tokens, and its token 5 is now"):
        trace(model, [PROMPTS[1]], rule=GivenVoids.of(made.void), effect="bypass", max_new_tokens=9, sample_ids=[9])


def test_plain_hooks_send_it_to_halting() -> None:
    with pytest.raises(ValueError, match=r"needs position, sample, which plain hooks cannot see.*halting"):
        halting_hooks(shared_model(), GivenVoids(MASKS), "bypass")


def test_embeddings_without_a_mask_are_refused_in_words() -> None:
    model = shared_model()
    model.original_model(torch.tensor([[1]]))  # transformers sets hooks of its own at the first pass
    with (
        unchanged(model),
        halting(model, GivenVoids(MASKS), "bypass"),
        pytest.raises(ValueError, match="needs position, sample, but the pass was started from embeddings"),
    ):
        model.original_model(inputs_embeds=torch.ones(1, 3, 32))


def test_a_call_from_inside_a_hook_has_no_sample() -> None:
    model, calls = shared_model(), []

    def again(x: torch.Tensor, hook: Any) -> None:
        if not calls:
            calls.append(1)
            model(torch.tensor([[1, 2, 3]]))

    rule = GivenVoids({0: np.zeros((4, 7), bool)})
    hook = ("blocks.2.hook_resid_pre", again)
    with unchanged(model), pytest.raises(ValueError, match="needs sample, but this is a call from inside a hook"):
        trace(model, [PROMPTS[0]], rule=rule, effect="bypass", fwd_hooks=[hook])
