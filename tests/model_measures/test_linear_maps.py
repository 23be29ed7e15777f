"""Linear maps between models, against ridge regression on plain hidden states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import bridge_of, shared_model, unchanged
from plain_transformers import whole_pass

from lacscope.model_measures import CSORDAS_LINEAR_MAPS, TokenizerMismatchError, linear_maps
from lacscope.testing import tiny_model, tiny_transformers_model
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once

ROWS = [np.random.default_rng(i).integers(3, 97, 100).tolist() for i in range(5)]
SMALL = {"hidden_size": 16}


def streams_of(architecture: str, ids: list[int], **options: Any) -> np.ndarray:
    streams, _ = whole_pass(tiny_transformers_model(architecture, **options), architecture, ids)
    return torch.stack(streams).double().numpy()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_equals_ridge_regression_on_plain_hidden_states(architecture: str) -> None:
    options = {"n_layers": 2, "seed": 1, **SMALL}
    found = linear_maps(shared_model(architecture), tiny_model(architecture, **options), ROWS, ridge=0.01)
    a = [streams_of(architecture, ids) for ids in ROWS]
    b = [streams_of(architecture, ids, **options) for ids in ROWS]
    assert found.sizes == {"sample": 1, "state_a": 5, "state_b": 3}
    for i in range(5):
        for j in range(3):
            x, y = (np.concatenate([s[k][1:] for s in streams[:4]]) for k, streams in ((i, a), (j, b)))
            penalty = 0.01 * (x**2).sum(0).mean()
            # Ridge as least squares with one more row a dimension.
            wide = np.concatenate([x, np.sqrt(penalty) * np.eye(32)])
            weights = np.linalg.lstsq(wide, np.concatenate([y, np.zeros((32, 16))]), rcond=None)[0]
            off = [np.linalg.norm(a[4][i][t] @ weights - b[4][j][t]) / np.linalg.norm(b[4][j][t]) for t in range(100)]
            assert float(found.error[0, i, j]) == pytest.approx(np.mean(off[1:]), rel=1e-4)
            assert float(found.error_position_0[0, i, j]) == pytest.approx(off[0], rel=1e-3, abs=1e-5)


def test_a_model_maps_onto_itself() -> None:
    model = shared_model("llama")
    error = linear_maps(model, model, ROWS).error[0].values
    assert np.diag(error).max() < 1e-2
    assert error[~np.eye(5, dtype=bool)].min() > 0.1


def test_a_model_and_itself_with_the_middle_bypassed() -> None:
    model = tiny_model("llama")
    entered: dict[int, torch.Tensor] = {}

    def bypass(layer: int) -> list[Any]:
        name = f"blocks.{layer}.hook_resid"
        return [
            (f"{name}_pre", lambda activation, hook: entered.__setitem__(layer, activation)),
            (f"{name}_post", lambda activation, hook: entered[layer]),
        ]

    hooks = [*bypass(1), *bypass(2)]
    model(torch.tensor([[5]]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model):
        found = linear_maps(
            model, model, ROWS, within_b=lambda: model.hooks(fwd_hooks=hooks), names=("whole", "middle bypassed")
        )
    error = found.error[0]
    for state in (1, 2, 3):
        assert float(error[1, state]) < 1e-2
        np.testing.assert_allclose(error[:, state], error[:, 1], rtol=1e-6)
    assert float(error[3, 3]) > 0.1
    assert (found.state_a.attrs["long_name"], found.state_b.attrs["long_name"]) == (
        "state of whole",
        "state of middle bypassed",
    )


def test_blocks_with_zero_output_map_onto_one_another() -> None:
    hf_model = tiny_transformers_model("llama")
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model = bridge_of(hf_model)
    found = linear_maps(model, model, ROWS)
    assert float(found.error.max()) < 1e-2
    assert float(found.error_position_0.max()) < 1e-2


def test_fewer_states_at_once_read_more_often_and_change_no_number() -> None:
    a, b = shared_model("llama"), tiny_model("llama", seed=1)
    calls: dict[int, list[tuple[int, int]]] = {2: [], 9: []}
    found = [
        linear_maps(
            a, b, ROWS, held_out=0.4, tokens_per_dim=5, states_at_once=n, progress=lambda *c, n=n: calls[n].append(c)
        )
        for n in calls
    ]
    np.testing.assert_allclose(found[0].error, found[1].error, rtol=1e-9)
    assert calls[2] == [(done, 15) for done in range(1, 16)]
    assert calls[9] == [(done, 5) for done in range(1, 6)]
    assert found[0].sizes["sample"] == 2


def test_a_state_asked_for_alone_has_the_same_map() -> None:
    a, b = shared_model("llama"), tiny_model("llama", seed=1)
    found = linear_maps(a, b, ROWS, states=[3, 1])
    assert found.state_a.values.tolist() == [1, 3]
    xr.testing.assert_allclose(found, linear_maps(a, b, ROWS).sel(state_a=[1, 3]), rtol=1e-9)
    for states in ([5], [-1], []):
        with pytest.raises(ValueError, match=r"has states 0 to 4; give one at least"):
            linear_maps(a, b, ROWS, states=states)


def test_the_attributes_say_what_was_fitted() -> None:
    found = linear_maps(shared_model("llama"), shared_model("gpt_neox"), ROWS, tokens_per_dim=12, data="random")
    assert found.attrs["preset"] == CSORDAS_LINEAR_MAPS.name
    assert found.attrs["departures"] == "tokens_per_dim = 12 (paper: 10)"
    assert found.attrs["positions"] == "all but position 0 (fitted on 396 tokens)"
    assert (found.attrs["model"], found.attrs["model_b"]) == ("tiny-llama", "tiny-gpt_neox")
    assert (found.attrs["n_samples"], found.attrs["n_held_out"], found.attrs["n_fitted_tokens"]) == (5, 1, 396)
    assert all(isinstance(value, (str, int)) for value in found.attrs.values())


def test_different_tokenizers_are_refused_and_both_named(
    tiny_with_tokenizer: Any, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(
        TokenizerMismatchError,
        match=r"tiny-llama \(97 tokens\) and tiny-gpt_neox \(50 tokens\) have different tokenizers.*with one tokenizer",
    ):
        linear_maps(shared_model("llama"), tiny_model("gpt_neox", vocab_size=50), ROWS)
    with pytest.raises(TokenizerMismatchError, match=r"tiny-llama \(17 tokens\) and tiny-gpt_neox \(97 tokens\)"):
        linear_maps(tiny_with_tokenizer, shared_model("gpt_neox"), ["the river"])
    other = tiny_model("gpt2")
    other.tokenizer = make_tokenizer(chat_template="{{ messages[0]['content'] }} is")
    with pytest.raises(TokenizerMismatchError, match=r"tiny-llama and tiny-gpt2 read different tokens.*give token ids"):
        linear_maps(tiny_with_tokenizer, other, [{"role": "user", "content": "the river"}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "ridge must be above 0, got 0.0"),
        ({"held_out": 1.0}, "held_out must be a share of the prompts above 0 and below 1, got 1.0"),
        ({"states_at_once": 0}, "states_at_once must be at least 1, got 0"),
        (
            {"tokens_per_dim": 13},
            r"396 tokens to fit on \(position 0 apart, 1 of 5 prompts held out\); 13 for each of the 32 dimensions of "
            "tiny-llama are 416. Give more prompts, or a smaller tokens_per_dim",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_maps(shared_model("llama"), shared_model("llama"), ROWS, **options)


def test_prompts_that_cannot_be_are_refused() -> None:
    model = shared_model("llama")
    with pytest.raises(InputError, match="prompt 1 has one token; position 0 stands apart"):
        linear_maps(model, model, [*ROWS[:1], [7], *ROWS[1:]])
    with pytest.raises(ValueError, match="0 tokens to fit on"):
        linear_maps(model, model, ROWS[:1], tokens_per_dim=0)


def test_a_stream_that_no_map_can_start_from_is_refused() -> None:
    model = tiny_model("llama")
    nothing = ("blocks.1.hook_resid_pre", lambda activation, hook: torch.zeros_like(activation))
    model(torch.tensor([[5]]))  # a bridge hooks modules of its own on its first pass
    with (
        unchanged(model),
        pytest.raises(ValueError, match=r"no map can be fitted from state 1 of tiny-llama with ridge=0.0001"),
    ):
        linear_maps(model, model, ROWS, within_a=lambda: model.hooks(fwd_hooks=[nothing]))
