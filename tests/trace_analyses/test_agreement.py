"""Agreement against scipy's Spearman, permutations counted one by one, and bootstraps whose ends are known."""

import itertools
import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lacscope.trace_analyses._agreement import agreement
from lacscope.trace_analyses._statistics import holm
from lacscope.traces._provenance import Preset, result_attrs

pytestmark = pytest.mark.once


def over(values: object, samples: object = None) -> xr.DataArray:
    array = np.asarray(values, dtype=float)
    coords: dict[str, object] = {"layer": np.arange(array.shape[-1])}
    if array.ndim == 1:
        return xr.DataArray(array, coords, ("layer",))
    coords["sample"] = np.arange(len(array)) if samples is None else samples
    return xr.DataArray(array, coords, ("sample", "layer"))


def random_scores(n_layers: int = 9, n_samples: int = 5) -> dict[str, xr.DataArray]:
    rng = np.random.default_rng(0)
    true = rng.normal(size=n_layers)
    return {
        "a": over(true + rng.normal(size=(n_samples, n_layers))),
        "b": over(true + rng.normal(size=(n_samples, n_layers))),
        "ties": over(np.round(true)),
        "c": over(-true + rng.normal(size=(n_samples, n_layers))),
    }


def test_rho_is_scipys_over_all_layers_and_without_the_outer_ones() -> None:
    scores = random_scores()
    found = agreement(scores, n_permutations=50, n_boot=20, seed=0)
    assert found["subset"].values.tolist() == ["all", "without layers 0, 1, 8"]
    assert found["n_layers"].values.tolist() == [9, 6]
    means = {name: score.values.reshape(-1, 9).mean(0) for name, score in scores.items()}
    for subset, layers in zip(found["subset"].values, (slice(None), slice(2, 8)), strict=True):
        for a, b in itertools.product(scores, scores):
            expected = stats.spearmanr(means[a][layers], means[b][layers]).statistic
            assert float(found["rho"].sel(subset=subset, metric=a, other=b)) == pytest.approx(expected, abs=1e-9)
    assert found["rank"].sel(metric="a").values.tolist() == stats.rankdata(-means["a"]).tolist()
    assert found["n_samples"].values.tolist() == [5, 5, 0, 5]


def test_permutation_p_counted_one_by_one() -> None:
    a, b = [3.0, 1.0, 2.0, 5.0], [2.0, 1.0, 4.0, 3.0]
    found = agreement({"a": over(a), "b": over(b)}, drop=(), seed=0)
    observed = abs(stats.spearmanr(a, b).statistic)
    counts = [abs(stats.spearmanr(order, b).statistic) >= observed - 1e-9 for order in itertools.permutations(a)]
    assert float(found["p"].sel(subset="all", metric="a", other="b")) == sum(counts) / 24
    # Ranks 3 1 2 4 and 2 1 4 3: sum of d^2 = 1 + 0 + 4 + 1, so rho = 1 - 36 / 60.
    assert float(found["rho"].sel(subset="all", metric="b", other="a")) == pytest.approx(0.4)


def test_hand_case_three_layers() -> None:
    found = agreement({"a": over([1, 2, 3]), "b": over([10, 20, 30])}, drop=(), seed=0)
    pair = found.sel(subset="all", metric="a", other="b")
    assert float(pair["rho"]) == pytest.approx(1)
    assert float(pair["p"]) == pytest.approx(2 / 6)
    assert np.isnan(pair["low"])
    assert np.isnan(pair["high"])


def test_drawn_permutations_come_near_to_all_of_them() -> None:
    scores = {name: score.isel(layer=slice(0, 7)) for name, score in random_scores().items()}
    every = agreement(scores, drop=(), n_permutations=5040, n_boot=5, seed=0)["p"].values
    drawn = agreement(scores, drop=(), n_permutations=5039, n_boot=5, seed=0)["p"].values
    np.testing.assert_allclose(drawn, every, atol=0.025)
    assert not np.array_equal(drawn, every, equal_nan=True)
    # k + 1 of n + 1.
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(np.round(drawn[0][off] * 5040), drawn[0][off] * 5040, atol=1e-6)


def test_p_holm_is_over_the_pairs_of_a_panel() -> None:
    found = agreement(random_scores(), n_boot=5, n_permutations=300, seed=1)
    for subset in found["subset"].values:
        p = found["p"].sel(subset=subset).values
        adjusted = found["p_holm"].sel(subset=subset).values
        lower = np.tril_indices(4, -1)
        np.testing.assert_allclose(adjusted[lower], holm(p[lower]))
        np.testing.assert_array_equal(adjusted, adjusted.T)
        assert np.isnan(np.diag(p)).all()


def test_with_two_samples_each_draw_is_one_of_them() -> None:
    a = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 5.0, 3.0, 4.0]])
    b = np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    # Samples 0 and 1 of b are equal, so that b is the same in every draw.
    found = agreement({"a": over(a), "b": over([b, b])}, drop=(), n_boot=200, seed=0)
    pair = found.sel(subset="all", metric="a", other="b")
    ends = sorted(stats.spearmanr(one, b).statistic for one in a)
    assert [float(pair["low"]), float(pair["high"])] == pytest.approx(ends)


def test_of_three_samples_two_are_drawn_and_the_quantiles_are_those_of_the_confidence() -> None:
    a = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [9.0, 1.0, 5.0, 3.0, 4.5], [0.5, 7.0, 0.1, 2.0, 1.0]])
    b = np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    every = sorted(stats.spearmanr(a[i] + a[j], b).statistic for i in range(3) for j in range(3))
    for confidence in (0.5, 0.8):
        found = agreement(
            {"a": over(a), "b": over([b, b, b])}, drop=(), n_boot=20_000, confidence=confidence, seed=0
        ).sel(subset="all", metric="a", other="b")
        # None of these shares of nine equally likely draws lies at a step.
        ends = [every[int(9 * (0.5 + side * confidence / 2))] for side in (-1, 1)]
        assert [float(found["low"]), float(found["high"])] == pytest.approx(ends)


def test_scores_of_the_same_samples_are_drawn_together() -> None:
    values = np.random.default_rng(3).normal(size=(6, 8))
    together = agreement({"a": over(values), "b": over(2 * values + 1)}, drop=(), seed=0)
    pair = together.sel(subset="all", metric="a", other="b")
    assert [float(pair["low"]), float(pair["high"])] == pytest.approx([1.0, 1.0])
    others = over(2 * values + 1, samples=np.arange(6) + 10)
    apart = agreement({"a": over(values), "b": others}, drop=(), seed=0).sel(subset="all", metric="a", other="b")
    assert float(apart["rho"]) == pytest.approx(1)
    assert float(apart["low"]) < 0.8


def test_an_interval_only_where_both_have_samples() -> None:
    scores = random_scores()
    scores["one"] = over(np.arange(9.0)[None])
    found = agreement(scores, n_boot=30, n_permutations=20, seed=0)
    for subset, end in itertools.product(found["subset"].values, ("low", "high")):
        given = found[end].sel(subset=subset).to_pandas().notna()
        sampled = ["a", "b", "c"]
        for a, b in itertools.product(scores, scores):
            assert given.loc[a, b] == (a != b and a in sampled and b in sampled), (subset, end, a, b)


def test_a_constant_score_has_no_rank_correlation() -> None:
    found = agreement({**random_scores(), "flat": over(np.ones((5, 9)))}, n_boot=10, n_permutations=20, seed=0)
    row = found.sel(metric="flat")
    for name in ("rho", "low", "p", "p_holm"):
        assert np.isnan(row[name]).all(), name
    assert not np.isnan(found["p_holm"].sel(metric="a", other="b")).any()


def test_the_seed_decides_all_that_is_drawn() -> None:
    scores = random_scores()
    options = {"n_boot": 50, "n_permutations": 100}
    first = agreement(scores, seed=4, **options)
    assert first.identical(agreement(scores, seed=4, **options))
    assert not first["p"].identical(agreement(scores, seed=5, **options)["p"])


def test_attributes() -> None:
    found = agreement(random_scores(), n_boot=5, n_permutations=5, seed=0, model="m", data="LAMBADA")
    assert (found.attrs["model"], found.attrs["data"], found.attrs["n_samples"]) == ("m", "LAMBADA", 5)
    assert '"seed": 0' in found.attrs["settings"]
    assert found.attrs["positions"] == "positions are each metric's own"


def test_each_metrics_own_settings_are_listed() -> None:
    scores = random_scores()
    paper = Preset("doe_2025/b", "arXiv 0000.00000", {"data": "PG19", "protect": (0, -1)})
    scores["b"] = scores["b"].assign_attrs(
        result_attrs(
            "effect",
            {},
            preset=paper,
            settings={"protect": ()},
            positions="last token",
            aggregation="none",
            n_samples=5,
            data="x",
        )
    )
    metrics = json.loads(agreement(scores, n_boot=5, n_permutations=5, seed=0).attrs["metrics"])
    assert list(metrics) == sorted(scores)
    assert metrics["b"] == {
        "preset": "doe_2025/b",
        "paper_settings": '{"data": "PG19", "protect": [0, -1]}',
        "settings": '{"protect": []}',
        "departures": "data = x (paper: PG19), protect = [] (paper: [0, -1])",
        "positions": "last token",
    }
    assert set(metrics["a"].values()) == {""}


def test_wrong_input() -> None:
    a = over(np.arange(6.0))
    with pytest.raises(ValueError, match="two scores or more, got 1: a"):
        agreement({"a": a}, seed=0)
    with pytest.raises(ValueError, match=r"score 'b' has dimensions \('token',\); give \(sample, layer\)"):
        agreement({"a": a, "b": xr.DataArray([1.0], dims="token")}, seed=0)
    with pytest.raises(ValueError, match=r"score 'b' has layers \[0, 1\], 'a' has \[0, 1, 2, 3, 4, 5\]"):
        agreement({"a": a, "b": over([1.0, 2.0])}, seed=0)
    with pytest.raises(ValueError, match=r"score 'b' is not finite at layers \[1\]"):
        agreement({"a": a, "b": over([0, np.nan, 0, 0, 0, 0])}, seed=0)
    with pytest.raises(ValueError, match="without layers 0, 1, 2, 5: 2 of 6 layers are left; ranks need 3"):
        agreement({"a": a, "b": a}, drop=(0, 1, 2, -1), seed=0)
    with pytest.raises(ValueError, match=r"drop has layer 6; the scores have layers 0 to 5"):
        agreement({"a": a, "b": a}, drop=(6,), seed=0)
    with pytest.raises(ValueError, match="n_boot must be at least 1, got 0"):
        agreement({"a": a, "b": a}, n_boot=0, seed=0)
