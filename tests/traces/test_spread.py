"""The spread of a result over its samples: what it is, and when it is made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope.analyze._joining import join_samples
from lacscope.model_measures import block_influence, causal_ablation, logit_lens, relative_contributions
from lacscope.testing import tiny_model
from lacscope.traces._provenance import with_samples
from lacscope.traces._spread import POOLED, with_spread, without_spread

pytestmark = pytest.mark.once

VALUES = np.random.default_rng(0).uniform(0.1, 1.0, (5, 4))
N_TOKENS = [9, 30, 12, 3, 40]


def result(values: np.ndarray = VALUES, **attrs: str) -> xr.Dataset:
    return xr.Dataset(
        {"kl": (("sample", "layer"), values, {"units": "nats"})}, {"n_tokens": ("sample", N_TOKENS)}, attrs
    )


def test_the_ends_are_percentiles_of_the_samples_with_n_and_level() -> None:
    found = with_spread(result())
    np.testing.assert_allclose(found["kl_mean"], VALUES.mean(0))
    np.testing.assert_allclose([found["kl_low"], found["kl_high"]], np.quantile(VALUES, [0.1, 0.9], axis=0))
    assert found["kl_low"].attrs == {"units": "nats", "n": 5, "level": 0.8, "spread_of": "kl"}
    assert found["kl_mean"].attrs["mean_over"] == "samples"


def test_a_pooled_result_weights_its_samples_by_their_tokens() -> None:
    found = with_spread(result(settings=f'{{"aggregation": "{POOLED}"}}'))
    np.testing.assert_allclose(found["kl_mean"], np.average(VALUES, axis=0, weights=N_TOKENS))
    assert found["kl_mean"].attrs["mean_over"] == "tokens"


@pytest.mark.parametrize(("numbers", "n"), [([0, 1, 2, 3, 4], 0), ([1, 2, 3, 4], 1), ([2], 4)])
def test_samples_that_are_nan_are_left_out(numbers: list[int], n: int) -> None:
    values = VALUES.copy()
    values[numbers] = np.nan
    found = with_spread(result(values))
    assert found["kl_mean"].attrs["n"] == n
    assert ("kl_low" in found) == (n > 1)
    np.testing.assert_allclose(found["kl_mean"], np.delete(VALUES, numbers, axis=0).mean(0) if n else [np.nan] * 4)


def test_it_is_made_anew_and_taken_out_again() -> None:
    found = with_spread(result())
    fewer = with_spread(found.isel(sample=slice(2)))
    assert fewer["kl_high"].attrs["n"] == 2
    xr.testing.assert_identical(fewer, with_spread(result().isel(sample=slice(2))))
    xr.testing.assert_identical(without_spread(found), result())


def test_numbers_other_than_by_sample_and_layer_have_none() -> None:
    dims = {"right": ("sample", "layer"), "token_kl": ("sample", "layer", "token"), "rho": ("layer",)}
    kinds = {"right": bool}
    other = xr.Dataset({name: (of, np.ones([2] * len(of), kinds.get(name, float))) for name, of in dims.items()})
    assert set(with_spread(other)) == set(dims)


def test_an_old_file_of_analyze_gets_its_spread_on_reading_and_a_users_own_stays_as_it_is(tmp_path: Path) -> None:
    old = result(result_id="0123456789abcdef")
    assert "kl_low" in lacscope.open(lacscope.save(old, tmp_path / "old.nc"))
    assert "kl_low" not in lacscope.open(lacscope.save(result(), tmp_path / "own.nc"))


@pytest.mark.parametrize("measure", [block_influence, causal_ablation, logit_lens, relative_contributions])
def test_measures_return_their_spread(measure: Callable[..., xr.Dataset]) -> None:
    found = measure(tiny_model(n_layers=3), [[5, 17, 3, 60], [8, 44, 9]])
    assert any("level" in variable.attrs for variable in found.data_vars.values())
    xr.testing.assert_identical(found, with_spread(found))
    one, other = (found.isel(sample=[i]) for i in (0, 1))
    joined = join_samples([one.assign_attrs(with_samples(found.attrs, 1)), other])
    xr.testing.assert_allclose(joined, found)
