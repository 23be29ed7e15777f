"""z-densities against loops over a plain model's weights, and against the normal distribution's tails."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from plain_streams import layers_of, twins

from lacscope.model_measures import z_density
from lacscope.testing import tiny_model, tiny_transformers_model

pytestmark = pytest.mark.once


def matrices(hf_model: Any, layer: int) -> dict[str, np.ndarray]:
    named = (
        layers_of(hf_model)[layer].named_parameters()
        if not hasattr(hf_model, "transformer")
        else (hf_model.transformer.h[layer].named_parameters())
    )
    return {name: p.detach().double().numpy() for name, p in named if p.ndim >= 2}


def by_hand(weights: dict[str, np.ndarray], variant: str) -> float:
    if variant == "code":
        shares = []
        for w in weights.values():
            z = (w - w.mean()) / w.std(ddof=1)
            shares.append((np.abs(z) > 1).mean())
        return float(np.mean(shares))
    every = np.concatenate([w.ravel() for w in weights.values()])
    return float(((every - every.mean()) / every.std() > 1).mean())


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
def test_it_counts_the_weights_of_the_plain_models_layers(architecture: str, variant: Any, hooks: str) -> None:
    plain = tiny_transformers_model(architecture, n_layers=2)
    model = tiny_model(architecture, n_layers=2, hooks=hooks)
    found = z_density(model, variant=variant)
    for layer in range(2):
        expected = by_hand(matrices(plain, layer), variant)
        # Float32 rounds a weight or two across the threshold.
        assert float(found.z_density[layer]) == pytest.approx(expected, abs=3e-4)
    named = json.loads(found.attrs["matrices"])
    assert len(named) == len(matrices(plain, 0))
    assert set(named.values()) == {2}


def with_weights(fill: Any) -> Any:
    def edit(hf_model: Any) -> None:
        rng = np.random.default_rng(0)
        for layer, block in enumerate(layers_of(hf_model)):
            for parameter in block.parameters():
                if parameter.ndim >= 2:
                    parameter.data = torch.tensor(fill(layer, rng, parameter.shape), dtype=torch.float32)

    return edit


@pytest.mark.parametrize(("variant", "share"), [("code", 0.3173), ("paper", 0.1587)])
def test_gaussian_weights_have_the_normal_distributions_tails(variant: Any, share: float) -> None:
    _, model = twins("llama", with_weights(lambda layer, rng, shape: rng.normal(3.0, 0.2, shape)), n_layers=2)
    np.testing.assert_allclose(z_density(model, variant=variant).z_density, share, atol=0.012)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_outliers_lower_the_density_and_so_raise_the_importance(variant: Any) -> None:
    def fill(layer: int, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=shape) if layer != 1 else rng.standard_t(2.1, size=shape)

    _, model = twins("llama", with_weights(fill), n_layers=3)
    found = z_density(model, variant=variant)
    assert found.z_density.argmin("layer").item() == found.importance.argmax("layer").item() == 1
    assert found.attrs["importance"] == "importance"
    assert "sample" not in found.dims


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_constant_weights_are_no_outliers(variant: Any) -> None:
    _, model = twins("llama", with_weights(lambda layer, rng, shape: np.full(shape, 0.25)), n_layers=2)
    assert (z_density(model, variant=variant).z_density == 0).all()


def test_an_unknown_variant_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="unknown variant 'both'; choose one of 'code', 'paper'"):
        z_density(tiny_model(n_layers=1), variant="both")  # type: ignore[arg-type]
