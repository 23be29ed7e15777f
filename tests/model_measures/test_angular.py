"""Angular distance across n layers, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from plain_streams import ARCHITECTURES, PROMPTS, cosine, scaled_block, states, twins

from lacscope.model_measures import CURSE_ANGULAR, angular_distance
from lacscope.model_measures._angles import angle, one_minus_cosine
from lacscope.model_measures._angular import scaled_rows

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Any:
    return twins(request.param)


def test_it_is_the_arc_cosine_at_the_last_token_of_a_plain_model(pair: Any) -> None:
    plain, model = pair
    found = angular_distance(model, PROMPTS)
    expected = np.full((2, 4, 4), np.nan)
    for sample, ids in enumerate(PROMPTS):
        h = states(plain, ids)[:, -1]
        for n in range(1, 5):
            for layer in range(4 - n + 1):
                expected[sample, layer, n - 1] = np.arccos(cosine(h[layer], h[layer + n])) / np.pi
    np.testing.assert_allclose(found.distance, expected, atol=1e-5)
    np.testing.assert_allclose(found.mean_distance, expected.mean(0).T, atol=1e-5)
    assert found.first_to_drop.values.tolist() == [int(np.nanargmin(expected.mean(0)[:, n])) for n in range(4)]
    np.testing.assert_array_equal(found.importance, found.distance.sel(n=1))
    assert found.first_to_drop.sel(n=4) == 0


def test_max_tokens_moves_the_last_token(pair: Any) -> None:
    plain, model = pair
    h = states(plain, PROMPTS[0])[:, 4]
    found = angular_distance(model, PROMPTS[0], max_tokens=5).distance.sel(sample=0, layer=1, n=2)
    assert float(found) == pytest.approx(np.arccos(cosine(h[1], h[3])) / np.pi, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_silent_block_is_exactly_zero_and_the_one_to_drop(architecture: str) -> None:
    _, model = twins(architecture, scaled_block(2, 0.0))
    found = angular_distance(model, PROMPTS)
    assert (found.importance.sel(layer=2) == 0).all()
    assert found.first_to_drop.sel(n=1) == 2
    _, loud = twins(architecture, scaled_block(2, 1000.0))
    assert (angular_distance(loud, PROMPTS).importance.argmax("layer") == 2).all()


def test_rows_are_clipped_to_their_percentiles_and_scaled() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 300))
    values[1, 250:] = np.nan
    values[2] = 7.0
    found = scaled_rows(values)
    for row in (0, 1):
        kept = np.sort(values[row][np.isfinite(values[row])])
        low, high = np.percentile(kept, 1), np.percentile(kept, 99)
        assert low > kept[0]
        expected = [(min(max(v, low), high) - low) / (high - low) for v in values[row]]
        np.testing.assert_allclose(found[row][np.isfinite(values[row])], np.array(expected)[np.isfinite(values[row])])
    assert np.isnan(found[1, 250:]).all()
    assert (found[2] == 0).all()


def test_the_curse_of_depths_settings_are_a_preset(pair: Any) -> None:
    _, model = pair
    attrs = angular_distance(model, PROMPTS, preset=CURSE_ANGULAR, data="LAMBADA").attrs
    assert attrs["preset"] == "sun_2025/angular_distance"
    assert attrs["departures"] == (
        "data = LAMBADA (paper: C4 validation), samples = 2 (paper: 3), max_tokens = null (paper: 256), "
        "last_state = raw (paper: normed)"
    )


def test_angles_keep_their_digits_where_an_arc_cosine_loses_them() -> None:
    a = torch.tensor([1.0, 0.0])
    for size in (1e-5, 1e-3, 1.0, 3.0):
        b = 7 * torch.tensor([np.cos(size), np.sin(size)], dtype=torch.float32)
        assert float(angle(a, b)) == pytest.approx(size, rel=1e-4)
    assert float(one_minus_cosine(torch.tensor(1e-4))) == pytest.approx(5e-9, rel=1e-4)
    assert float(angle(a, torch.zeros(2))) == pytest.approx(np.pi / 2)
    assert float(angle(a, -a)) == pytest.approx(np.pi)
