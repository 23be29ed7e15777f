"""Geometry of layer updates against an independent fit, a plain model with the map in a layer's place, known maps."""

from typing import Any

import numpy as np
import pytest
import torch
from plain_streams import ARCHITECTURES, PROMPTS, counted, layers_of, scaled_block, states, twins

from lacscope.model_measures import update_geometry

pytestmark = pytest.mark.once

CALIBRATION = [[int(i) for i in np.random.default_rng(s).integers(0, 97, 40)] for s in range(3)]
PENALTY = 1e-3


def calibration_tokens(hf_model: Any) -> np.ndarray:
    """[state, token, d_model], sinks left out."""
    read = [states(hf_model, ids) for ids in CALIBRATION]
    return np.concatenate([h[:, counted(h, True)] for h in read], axis=1)


def independent_map(x: np.ndarray, update: np.ndarray, family: str, rank: int) -> np.ndarray:
    """B by least squares on data with the penalty as extra rows; its rank cut by the fitted values' SVD."""
    strength = PENALTY * np.mean(np.sum(x**2, axis=0))
    rows = np.concatenate([x, np.sqrt(strength) * np.eye(x.shape[1])])
    targets = np.concatenate([update, np.zeros((x.shape[1], x.shape[1]))])
    if family == "diagonal":
        scale = [np.sum(x[:, i] * update[:, i]) / (np.sum(x[:, i] ** 2) + strength) for i in range(x.shape[1])]
        return np.diag(scale)
    full = np.linalg.lstsq(rows, targets, rcond=None)[0]
    right = np.linalg.svd(rows @ full)[2][:rank]
    return full @ right.T @ right


def changed_output(hf_model: Any, layer: int, ids: list[int], matrix: np.ndarray, kept: list[int]) -> np.ndarray:
    """KL in nats at the kept tokens, with T(h) in the place of what the layer gives there."""

    def exchange(module: Any, args: Any, output: Any) -> Any:
        given, made = args[0], (output[0] if isinstance(output, tuple) else output).clone()
        made[0, kept] = given[0, kept] + given[0, kept] @ torch.tensor(matrix, dtype=torch.float32)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    def log_probabilities() -> np.ndarray:
        with torch.no_grad():
            return hf_model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1).numpy()

    plain = log_probabilities()
    handle = layers_of(hf_model)[layer].register_forward_hook(exchange)
    changed = log_probabilities()
    handle.remove()
    return np.sum(np.exp(plain) * (plain - changed), axis=-1)[kept]


@pytest.mark.parametrize(("family", "rank"), [("diagonal", 8), ("low_rank", 3), ("low_rank", 32)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_number_by_hand(architecture: str, family: Any, rank: int) -> None:
    plain, model = twins(architecture, n_layers=3)
    found = update_geometry(
        model, PROMPTS, calibration=CALIBRATION, family=family, rank=rank, penalty=PENALTY, directions=2
    )
    seen = calibration_tokens(plain)
    pooled: list[list[np.ndarray]] = [[], [], []]
    for sample, ids in enumerate(PROMPTS):
        h = states(plain, ids)
        kept = counted(h, True)
        for layer in range(3):
            x, update = seen[layer], seen[layer + 1] - seen[layer]
            matrix = independent_map(x, update, family, rank)
            at = found.isel(sample=sample, layer=layer)
            before, after = h[layer, kept], h[layer + 1, kept]
            explained = before @ matrix
            residual = after - before - explained
            error = np.linalg.norm(residual, axis=1) / np.linalg.norm(after, axis=1)
            np.testing.assert_allclose(at.token_error[kept], error, rtol=2e-3)
            assert float(at.error) == pytest.approx(error.mean(), rel=2e-3)
            r2 = 1 - np.sum(residual**2) / np.sum((after - seen[layer + 1].mean(0)) ** 2)
            assert float(at.r2) == pytest.approx(r2, abs=2e-3)
            r2_update = 1 - np.sum(residual**2) / np.sum((after - before - update.mean(0)) ** 2)
            assert float(at.r2_update) == pytest.approx(r2_update, abs=2e-3)
            leading = np.linalg.svd(x @ matrix)[2][:2]
            for name, vectors in (("update", after - before), ("residual", residual)):
                cosines = np.sum(vectors * explained, axis=1) / (
                    np.linalg.norm(vectors, axis=1) * np.linalg.norm(explained, axis=1)
                )
                assert float(at[f"cos_{name}"]) == pytest.approx(cosines.mean(), abs=2e-3)
                assert float(at[f"angle_{name}"]) == pytest.approx(np.degrees(np.arccos(cosines)).mean(), abs=0.2)
                shares = np.linalg.norm(vectors @ leading.T, axis=1) / np.linalg.norm(vectors, axis=1)
                assert float(at[f"projection_{name}"]) == pytest.approx(shares.mean(), abs=2e-3)
            change = changed_output(plain, layer, ids, matrix, kept)
            np.testing.assert_allclose(at.token_output_change[kept], change, rtol=0.02, atol=1e-5)
            pooled[layer].append(np.stack([error, change]))
    for layer in range(3):
        errors, changes = np.concatenate(pooled[layer], axis=1)
        ranks = [np.argsort(np.argsort(values)) for values in (errors, changes)]
        assert float(found.spearman[layer]) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.03)


def with_block(change: Any) -> tuple[Any, Any]:
    """A model whose block 1 is ``change`` and nothing else, as a context manager of its hook."""
    _, model = twins("llama", scaled_block(1, 0.0), n_layers=3)
    return model, model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda activation, hook: change(activation))])


def test_maps_of_a_family_are_found_exactly() -> None:
    rng = np.random.default_rng(0)
    u, v = (torch.tensor(rng.normal(size=32), dtype=torch.float32) for _ in range(2))
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"family": "diagonal"}, lambda h: h * (1 + u)),
        ({"family": "low_rank", "rank": 1}, lambda h: h + torch.outer(h[0] @ u, v)),
    ]
    for options, change in cases:
        model, hooked = with_block(change)
        with hooked:
            found = update_geometry(model, PROMPTS, calibration=CALIBRATION, penalty=1e-9, **options).sel(layer=1)
        assert (found.r2 > 1 - 1e-6).all()
        assert (found.error < 1e-3).all()
        np.testing.assert_allclose(found.cos_update, 1.0, atol=1e-5)
        assert (found.output_change < 1e-4).all()
    # The other family cannot: a rank of 1 does not scale 32 entries by 32 factors.
    model, hooked = with_block(lambda h: h * (1 + u))
    with hooked:
        found = update_geometry(model, PROMPTS, calibration=CALIBRATION, family="low_rank", rank=1).sel(layer=1)
    assert (found.error > 0.1).all()


@pytest.mark.parametrize("family", ["diagonal", "low_rank"])
def test_a_silent_block_leaves_no_error_and_a_loud_one_the_most(family: Any) -> None:
    _, silent = twins("llama", scaled_block(1, 0.0), n_layers=3)
    found = update_geometry(silent, PROMPTS, calibration=CALIBRATION, family=family)
    assert (found.error.sel(layer=1) == 0).all()
    np.testing.assert_allclose(found.output_change.sel(layer=1), 0.0, atol=1e-6)
    assert np.isnan(found.spearman.sel(layer=1))
    _, loud = twins("llama", scaled_block(1, 1000.0), n_layers=3)
    assert (update_geometry(loud, PROMPTS, calibration=CALIBRATION, family=family).error.argmax("layer") == 1).all()


def test_the_results_say_what_they_are() -> None:
    _, model = twins("llama", n_layers=2)
    seen: list[tuple[int, int]] = []
    found = update_geometry(model, PROMPTS, calibration=CALIBRATION, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.attrs["importance"] == "error"
    assert found.attrs["departures"] == (
        "fit = per layer, on calibration tokens (paper: per token, on its nearest neighbours)"
    )
    assert '"calibration_tokens": 117' in found.attrs["settings"]
    assert np.isnan(found.token_error.isel(token=0)).all()
    assert np.isnan(found.token_error[1, :, len(PROMPTS[1]) :]).all()


def test_a_map_of_low_rank_has_no_directions_beyond_its_rank() -> None:
    _, model = twins("llama", n_layers=2)
    many, two, whole = (
        update_geometry(model, PROMPTS, calibration=CALIBRATION, rank=2, directions=directions)
        for directions in (8, 2, 32)
    )
    for found in (many, whole):
        assert '"directions": 2' in found.attrs["settings"]
        np.testing.assert_array_equal(found.projection_residual, two.projection_residual)
    # All 32 directions would hold all of the residual.
    assert (whole.projection_residual < 0.9).all()


def test_what_cannot_be_is_refused_in_words(unchecked: None) -> None:
    _, model = twins("llama", n_layers=2)
    for options, message in (
        ({"family": "affine"}, "family must be 'diagonal' or 'low_rank', got 'affine'"),
        ({"rank": 33}, "rank must be 1 to d_model = 32 of tiny-llama, got 33"),
        ({"directions": 0}, "directions must be 1 to d_model = 32 of tiny-llama, got 0"),
        ({"penalty": 0.0}, "penalty must be above 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            update_geometry(model, PROMPTS, calibration=CALIBRATION, **options)
    with pytest.raises(ValueError, match="no token but sinks: give longer ones"):
        update_geometry(model, PROMPTS, calibration=[[5], [17]])
