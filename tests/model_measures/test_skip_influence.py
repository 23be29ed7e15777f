"""Skip influence against whole passes of plain transformers models, and against cases whose answer is known."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from plain_transformers import local_influence, skip_influence

from lacscope.model_measures import current_skip_influence, future_skip_influence, local_skip_influence
from lacscope.model_measures._residuals import read_residuals
from lacscope.model_measures._skip_influence import Variants, probabilities, skip_layer
from lacscope.models._checks import UnsupportedModelError
from lacscope.models.adapters import adapt
from lacscope.testing import tiny_model, tiny_transformers_model
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once

SHORT, LONG = [5, 17, 3, 60, 8, 44], [9, 61, 7, 12, 33, 90, 4, 71, 28]
CUTS = [[2, 4], [3, 8]]
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
BOTH = ("llama", "gpt_neox")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: tiny_model(name) for name in ("llama", "gpt_neox", "gpt2")}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return {name: tiny_transformers_model(name) for name in ("llama", "gpt_neox", "gpt2")}


def agrees(found: xr.Dataset, expected: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for sample, (matrix, output) in enumerate(expected):
        np.testing.assert_allclose(found["influence"][sample], matrix, **CLOSE)
        np.testing.assert_allclose(found["output_influence"][sample], output, **CLOSE)
    np.testing.assert_allclose(found["max_influence"], np.max([m for m, _ in expected], axis=0), **CLOSE)
    np.testing.assert_allclose(found["max_output_influence"], np.max([o for _, o in expected], axis=0), **CLOSE)
    assert found["influence"].max() > 0.1
    assert found["output_influence"].max() > 0.005


# --- against plain transformers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", BOTH)
def test_future_influence_of_a_block(models: Any, plain: Any, architecture: str) -> None:
    found = future_skip_influence(models[architecture], [SHORT, LONG], cuts=CUTS)
    expected = [
        skip_influence(plain[architecture], architecture, ids, "block", cuts)
        for ids, cuts in zip((SHORT, LONG), CUTS, strict=True)
    ]
    agrees(found, expected)


@pytest.mark.parametrize("architecture", BOTH)
def test_current_influence_of_a_block(models: Any, plain: Any, architecture: str) -> None:
    found = current_skip_influence(models[architecture], [SHORT, LONG])
    agrees(found, [skip_influence(plain[architecture], architecture, ids, "block", None) for ids in (SHORT, LONG)])


@pytest.mark.parametrize("unit", ["attn", "mlp"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
def test_influence_of_a_sublayer(models: Any, plain: Any, architecture: str, unit: Any) -> None:
    model, reference = models[architecture], plain[architecture]
    agrees(
        current_skip_influence(model, [LONG], unit=unit), [skip_influence(reference, architecture, LONG, unit, None)]
    )
    agrees(
        future_skip_influence(model, [LONG], unit=unit, cuts=[[5]]),
        [skip_influence(reference, architecture, LONG, unit, [5])],
    )


@pytest.mark.parametrize("architecture", BOTH)
def test_local_influence(models: Any, plain: Any, architecture: str) -> None:
    agrees(
        local_skip_influence(models[architecture], [SHORT, LONG], batch_size=2),
        [local_influence(plain[architecture], architecture, ids, None) for ids in (SHORT, LONG)],
    )
    found = local_skip_influence(models[architecture], [LONG], reach="future", cuts=[[3, 8]], batch_size=3)
    matrix, output = local_influence(plain[architecture], architecture, LONG, [3, 8])
    np.testing.assert_allclose(found["influence"][0], matrix, **CLOSE)
    np.testing.assert_allclose(output, 0, atol=1e-5)
    np.testing.assert_array_equal(found["output_influence"], 0)
    assert np.nanmin(matrix) > 0.01


@pytest.mark.parametrize("keep_first", [0, 3])
def test_positions_that_are_kept(models: Any, plain: Any, keep_first: int) -> None:
    agrees(
        current_skip_influence(models["llama"], [LONG], keep_first=keep_first),
        [skip_influence(plain["llama"], "llama", LONG, "block", None, keep_first)],
    )
    agrees(
        future_skip_influence(models["llama"], [LONG], cuts=[[5]], keep_first=keep_first),
        [skip_influence(plain["llama"], "llama", LONG, "block", [5], keep_first)],
    )


# --- cases whose answer is known ----------------------------------------------------------------------------------


def scaled(layer: int, factor: float, names: tuple[str, ...] = ("self_attn.o_proj", "mlp.down_proj")) -> Any:
    """A Llama whose block's output weights are multiplied."""
    model = tiny_model("llama")
    with torch.no_grad():
        for name in names:
            model.original_model.model.layers[layer].get_submodule(_inside(model, layer, name)).weight.mul_(factor)
    return model


def _inside(model: Any, layer: int, name: str) -> str:
    """The name of a linear map in the wrapped model, whose modules the bridge may have wrapped in its own."""
    found = [
        inner
        for inner, module in model.original_model.model.layers[layer].named_modules()
        if isinstance(module, torch.nn.Linear) and inner.replace("._original_component", "").endswith(name)
    ]
    (only,) = found
    return only


def test_a_block_without_output_weights_has_no_influence() -> None:
    model = scaled(1, 0.0)
    for found in (
        current_skip_influence(model, [LONG]),
        future_skip_influence(model, [LONG], cuts=[[4]]),
        local_skip_influence(model, [LONG]),
    ):
        np.testing.assert_allclose(found["influence"].sel(skipped=1, layer=slice(2, None)), 0, atol=1e-5)
        np.testing.assert_allclose(found["output_influence"].sel(skipped=1), 0, atol=1e-5)
        # Its own update is nothing and stays nothing.
        np.testing.assert_allclose(found["influence"].sel(skipped=0, layer=1), 0, atol=1e-5)
        assert float(found["influence"].sel(skipped=0, layer=2).item()) > 1e-2


def test_a_block_scaled_to_dominate_has_the_largest_influence() -> None:
    found = current_skip_influence(scaled(0, 1000.0), [SHORT, LONG])
    for values in (found["influence"].sel(layer=3), found["output_influence"]):
        assert (values.sel(skipped=0) > 50 * values.sel(skipped=[1, 2]).max("skipped")).all()


def test_without_attention_nothing_reaches_the_future() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in range(4):
            name = _inside(model, layer, "self_attn.o_proj")
            model.original_model.model.layers[layer].get_submodule(name).weight.zero_()
    found = future_skip_influence(model, [LONG], cuts=[[4]])
    np.testing.assert_allclose(found["influence"].fillna(0), 0, atol=1e-5)
    np.testing.assert_allclose(found["output_influence"], 0, atol=1e-5)
    assert current_skip_influence(model, [LONG])["output_influence"].min() > 1e-2


def test_the_last_block_has_no_future(models: Any) -> None:
    found = future_skip_influence(models["gpt_neox"], [LONG], cuts=[[4]])
    np.testing.assert_allclose(found["output_influence"].sel(skipped=3), 0, atol=1e-5)


@pytest.mark.parametrize("unit", ["block", "attn", "mlp"])
def test_skipping_the_future_leaves_the_past(models: Any, unit: Any) -> None:
    (read,) = read_residuals(models["llama"], LONG, sublayers=True, logits=True)
    future = (torch.arange(len(LONG)) >= 4).unsqueeze(0)
    with torch.no_grad():
        past = skip_layer(models["llama"], read, probabilities(read.logits), 1, Variants(future, ~future), unit)
        itself = skip_layer(models["llama"], read, probabilities(read.logits), 1, Variants(future, future), unit)
    np.testing.assert_allclose(past[0][2:], 0, atol=1e-5)
    assert past[1] == pytest.approx(0, abs=1e-5)
    assert itself[0][2:].min() > 1e-2


def test_next_to_each_other_local_and_propagated_influence_are_one(models: Any) -> None:
    """No layer stands between s and s + 1, nor between the last one and the head."""
    model = models["llama"]
    for local, propagated in (
        (local_skip_influence(model, [LONG]), current_skip_influence(model, [LONG])),
        (
            local_skip_influence(model, [LONG], reach="future", cuts=[[3, 6]]),
            future_skip_influence(model, [LONG], cuts=[[3, 6]]),
        ),
    ):
        for layer in range(3):
            near = {"skipped": layer, "layer": layer + 1}
            np.testing.assert_allclose(local["influence"].sel(near), propagated["influence"].sel(near), **CLOSE)
        np.testing.assert_allclose(
            local["output_influence"].sel(skipped=3), propagated["output_influence"].sel(skipped=3), **CLOSE
        )


# --- the result ---------------------------------------------------------------------------------------------------


def test_what_is_undefined_is_nan_and_no_more(models: Any) -> None:
    local = local_skip_influence(models["llama"], [LONG])
    for found, sign in ((current_skip_influence(models["llama"], [LONG]), "<"), (local, "<=")):
        undefined = found["layer"] < found["skipped"] if sign == "<" else found["layer"] <= found["skipped"]
        assert (found["influence"].isnull() == undefined).all()
        assert (found["max_influence"].isnull() == undefined).all()
        assert found["influence"].attrs["nan"].startswith(f"where layer {sign} skipped:")


def test_a_layers_own_update_is_gone_where_it_is_skipped_and_whole_after_it(models: Any) -> None:
    current = current_skip_influence(models["llama"], [LONG])["max_influence"].values.diagonal()
    np.testing.assert_allclose(current, 1, atol=1e-6)
    future = future_skip_influence(models["llama"], [LONG], cuts=[[4]])["max_influence"].values.diagonal()
    np.testing.assert_array_equal(future, 0)
    for unit in ("attn", "mlp"):
        diagonal = current_skip_influence(models["llama"], [LONG], unit=unit)["max_influence"].values.diagonal()
        assert (np.abs(diagonal - 1) > 1e-2).all()


def test_a_sample_does_not_depend_on_the_others(models: Any) -> None:
    both = current_skip_influence(models["llama"], [SHORT, LONG])
    alone = current_skip_influence(models["llama"], [LONG])
    xr.testing.assert_allclose(
        both["influence"].isel(sample=1, drop=True), alone["influence"].isel(sample=0, drop=True)
    )
    assert both["n_tokens"].values.tolist() == [6, 9]


def test_cuts_are_drawn_by_seed_and_place() -> None:
    model, ids = tiny_model("llama", n_layers=1), [list(range(3, 90)), list(range(3, 90)), list(range(3, 25))]
    cuts = [future_skip_influence(model, ids, seed=seed)["cut"] for seed in (0, 0, 1)]
    assert (cuts[0] == cuts[1]).all()
    assert not (cuts[0] == cuts[2]).all()
    assert not (cuts[0][0] == cuts[0][1]).all()
    assert set(cuts[0].values[:2].ravel()) <= set(range(8, 83, 8))
    assert all(len(set(row)) == 4 for row in cuts[0].values[:2])
    assert cuts[0].values[2].tolist() == [8, 16, -1, -1]
    for run in (future_skip_influence, functools.partial(local_skip_influence, reach="future")):
        parts = [run(model, ids[:1])["cut"], run(model, ids[1:], first=1)["cut"]]
        assert [row for part in parts for row in part.values.tolist()] == cuts[0].values.tolist()


def test_attributes_say_what_was_done_and_can_be_saved(models: Any, tmp_path: Path) -> None:
    found = future_skip_influence(models["llama"], [list(range(3, 30))], n_cuts=2, data="made up")
    assert set(found.attrs["departures"].split(", ")) == {
        "n_cuts = 2 (paper: 4)",
        "samples = 1 (paper: 10)",
        "data = made up (paper: GSM8K)",
        "prompt_format not named (paper: raw text in style csordas)",
    }
    assert found.attrs["aggregation"] == "max over positions, 2 random t and prompts"
    assert found.attrs["positions"] == "skipped at 1 <= p < t, measured at p >= t"
    given = future_skip_influence(models["llama"], [LONG], cuts=[[4]])
    assert "cuts = given (paper: random)" in given.attrs["departures"]
    assert "seed" not in given.attrs["settings"]
    for number, result in enumerate((found, current_skip_influence(models["llama"], [LONG]))):
        result.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / f"{number}.nc", engine="h5netcdf") as back:
            xr.testing.assert_identical(back.load(), result)


def test_progress_counts_to_the_end(models: Any) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    for run in (current_skip_influence, local_skip_influence):
        calls.clear()
        run(models["llama"], [SHORT, LONG], progress=progress)
        assert calls == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("unit", ["block", "attn"])
def test_an_error_leaves_the_model_as_it_was(unit: Any) -> None:
    model = tiny_model("llama")
    before = current_skip_influence(model, [LONG])
    forwards = [block.original_component.__dict__.get("forward") for block in model.blocks]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        current_skip_influence(model, [LONG], unit=unit, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        local_skip_influence(model, [LONG], progress=stop)
    assert not adapt(model).user_hooked()
    assert [block.original_component.__dict__.get("forward") for block in model.blocks] == forwards
    xr.testing.assert_identical(current_skip_influence(model, [LONG]), before)


def test_the_callers_gradients_and_random_state_are_left_alone(models: Any) -> None:
    state = torch.get_rng_state()
    future_skip_influence(models["llama"], [list(range(3, 30))])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_words(models: Any, unchecked: None) -> None:
    model = models["llama"]
    with pytest.raises(ValueError, match=r"unit is one of 'block', 'attn', 'mlp', got 'layer'"):
        current_skip_influence(model, [LONG], unit="layer")
    with pytest.raises(ValueError, match=r"0 or more, got -1"):
        current_skip_influence(model, [LONG], keep_first=-1)
    with pytest.raises(InputError, match=r"prompt 1 has 1 tokens and the first 1 are never skipped"):
        current_skip_influence(model, [LONG, [5]])
    with pytest.raises(InputError, match=r"prompt 0 has 9 tokens; cuts are drawn from .* so it needs 13.*or cuts="):
        future_skip_influence(model, [LONG])
    with pytest.raises(ValueError, match=r"n_cuts must be at least 1, got 0"):
        future_skip_influence(model, [list(range(3, 30))], n_cuts=0)
    with pytest.raises(ValueError, match=r"cuts has 1 lists for 2 prompts"):
        future_skip_influence(model, [SHORT, LONG], cuts=[[3]])
    with pytest.raises(ValueError, match=r"prompt 1 of 9 tokens has cut 9; .* each from 2 .* to 8"):
        future_skip_influence(model, [SHORT, LONG], cuts=[[3], [4, 9]])
    with pytest.raises(ValueError, match=r"prompt 0 of 6 tokens has no cut"):
        future_skip_influence(model, [SHORT], cuts=[[]])
    with pytest.raises(ValueError, match=r"reach is 'current' or 'future', got 'past'"):
        local_skip_influence(model, [LONG], reach="past")
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        local_skip_influence(model, [LONG], batch_size=0)
    with pytest.raises(ValueError, match=r"cuts= goes with reach='future'"):
        local_skip_influence(model, [LONG], cuts=[[4]])


def test_sublayers_of_a_lean_model_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="hooks='full'"):
        current_skip_influence(tiny_model("llama", hooks="residual"), [LONG], unit="mlp")
