"""Variance by depth, and identity distance against full Jacobians of a plain model's layers."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from plain_streams import ARCHITECTURES, PROMPTS, counted, layers_of, scaled_block, states, twins

from lacscope.model_measures import depth_variance, identity_distance
from lacscope.models._checks import UnsupportedModelError
from lacscope.models.adapters import adapt
from lacscope.testing import tiny_model

pytestmark = pytest.mark.once

SHORT = PROMPTS[1][:4]


@pytest.mark.parametrize("exclude_sinks", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_variance_is_that_of_a_plain_models_states(architecture: str, exclude_sinks: bool) -> None:
    plain, model = twins(architecture)
    found = depth_variance(model, PROMPTS, exclude_sinks=exclude_sinks)
    for sample, ids in enumerate(PROMPTS):
        h = states(plain, ids)
        h = h[:, counted(h, exclude_sinks)]
        expected = [np.mean((state - state.mean()) ** 2) for state in h]
        np.testing.assert_allclose(found.variance[sample], expected, rtol=1e-4)
        np.testing.assert_allclose(found.growth[sample], np.diff(np.log(expected)), atol=1e-4)
    np.testing.assert_array_equal(found.importance, abs(found.growth))


def test_variance_of_a_silent_and_of_a_loud_block() -> None:
    _, silent = twins("llama", scaled_block(2, 0.0))
    assert (depth_variance(silent, PROMPTS).importance.sel(layer=2) == 0).all()
    _, loud = twins("llama", scaled_block(2, 1000.0))
    assert (depth_variance(loud, PROMPTS).importance.argmax("layer") == 2).all()


# --- identity distance ------------------------------------------------------------------------------------


@functools.cache
def token_jacobians(architecture: str, layer: int, ids: tuple[int, ...]) -> list[np.ndarray]:
    """d h_{l+1}[t] / d h_l[t] of every t, cut out of the layer's full Jacobian over the whole sequence."""
    hf_model, _ = twins(architecture, n_layers=2)
    module = layers_of(hf_model)[layer]
    call: dict[str, Any] = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        call["args"], call["kwargs"] = args, kwargs

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        hf_model(torch.tensor([ids]), use_cache=False)
    handle.remove()

    def block(h: torch.Tensor) -> torch.Tensor:
        output = module(h, *call["args"][1:], **call["kwargs"])
        return (output[0] if isinstance(output, tuple) else output)[0]

    full = torch.autograd.functional.jacobian(block, call["args"][0])
    assert full.shape == (len(ids), 32, 1, len(ids), 32)
    return [full[t, :, 0, t].double().numpy() for t in range(len(ids))]


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_that_of_the_token_diagonal_of_the_full_jacobian(architecture: str, hooks: str) -> None:
    plain, model = twins(architecture, n_layers=2, hooks=hooks)
    prompts = [PROMPTS[1], PROMPTS[1][:4]]
    found = identity_distance(model, prompts, n_probes=5, seed=7)
    rng = np.random.default_rng(7)
    expected = np.empty((2, 2))
    for sample, ids in enumerate(prompts):
        kept = counted(states(plain, ids), True)
        probes = {t: rng.standard_normal((5, 32)) for t in kept}
        assert int(found.n_tokens[sample]) == len(kept)
        for layer in range(2):
            jacobians = token_jacobians(architecture, layer, tuple(ids))
            by_token = []
            for t in kept:
                ratios = [np.sum((jacobians[t] @ v - v) ** 2) / np.sum(v**2) for v in probes[t]]
                by_token.append(np.sqrt(np.mean(ratios)))
            expected[sample, layer] = np.mean(by_token)
    np.testing.assert_allclose(found.identity_distance, expected, rtol=1e-3)


def test_many_probes_come_to_the_frobenius_norm() -> None:
    _, model = twins("llama", n_layers=2)
    found = identity_distance(model, PROMPTS[1], n_probes=1000, exclude_sinks=False).identity_distance
    for layer in range(2):
        jacobians = token_jacobians("llama", layer, tuple(PROMPTS[1]))
        norms = [np.linalg.norm(j - np.eye(32)) / np.sqrt(32) for j in jacobians]
        assert found.sel(layer=layer).item() == pytest.approx(np.mean(norms), rel=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_silent_block_is_the_identity_and_a_loud_one_the_farthest(architecture: str) -> None:
    _, silent = twins(architecture, scaled_block(1, 0.0), n_layers=3)
    found = identity_distance(silent, SHORT, n_probes=4).identity_distance
    assert (found.sel(layer=1) == 0).all()
    assert (found.sel(layer=[0, 2]) > 1e-3).all()
    _, loud = twins(architecture, scaled_block(1, 1000.0), n_layers=3)
    assert (identity_distance(loud, SHORT, n_probes=4).identity_distance.argmax("layer") == 1).all()


def test_blocks_of_a_known_jacobian() -> None:
    _, model = twins("llama", scaled_block(1, 0.0), n_layers=3)
    for change, expected in ((lambda h: 3 * h, 2.0), (torch.zeros_like, 1.0), (lambda h: torch.ones_like(h), 1.0)):
        hook = ("blocks.1.hook_resid_post", lambda activation, hook, change=change: change(activation))
        with model.hooks(fwd_hooks=[hook]):
            found = identity_distance(model, SHORT, n_probes=3).identity_distance
        assert found.sel(layer=1).item() == pytest.approx(expected, rel=1e-5)


def test_the_seed_decides_and_the_callers_random_state_stays() -> None:
    model = tiny_model(n_layers=2)
    before = torch.random.get_rng_state()
    one, same, other = (identity_distance(model, SHORT, n_probes=2, seed=s).identity_distance for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(one, same)
    assert (abs(one - other) > 1e-6).any()


def test_neither_is_called_the_papers_own() -> None:
    model = tiny_model(n_layers=2)
    variance, distance = depth_variance(model, [SHORT]), identity_distance(model, [SHORT], n_probes=2)
    for found in (variance, distance):
        assert found.attrs["read_in"] == "paper"
        assert "not compared with its code" in found.attrs["source"]
        assert "exclude_sinks" not in found.attrs["paper_settings"]
        assert "exclude_sinks" in found.attrs["settings"]
    assert (variance.attrs["departures"], distance.attrs["departures"]) == ("", "n_probes = 2 (paper: 32)")


def test_a_prompt_of_a_sink_alone_has_no_value() -> None:
    found = identity_distance(tiny_model(n_layers=2), [[5], [5, 17]], n_probes=2)
    assert found.n_tokens.values.tolist() == [0, 1]
    assert np.isnan(found.identity_distance[0]).all()


def test_no_hook_stays_after_an_error() -> None:
    model = tiny_model(n_layers=2)

    def fail(activation: torch.Tensor, hook: Any) -> None:
        if activation.shape[0] == 2:  # the probed pass, not the plain one
            raise KeyboardInterrupt

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", fail)]), pytest.raises(KeyboardInterrupt):
        identity_distance(model, PROMPTS[0], n_probes=2)
    assert not adapt(model).user_hooked()


def test_a_model_without_forward_mode_derivatives_is_refused_in_words() -> None:
    with pytest.raises(UnsupportedModelError, match=r"an operation in tiny-bloom has no forward-mode derivative.*jvp"):
        identity_distance(tiny_model("bloom", n_layers=1), PROMPTS[0], n_probes=1)


def test_no_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_probes must be at least 1, got 0"):
        identity_distance(tiny_model(n_layers=1), PROMPTS[0], n_probes=0)
