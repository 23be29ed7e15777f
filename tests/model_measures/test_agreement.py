"""All measures in one call: each is its own function's, and known layers stand where they must."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from deleted_layers import amplify, plain, silence
from scipy import stats

import lacscope
from lacscope.model_measures import (
    angular_distance,
    block_influence,
    causal_ablation,
    depth_variance,
    identity_distance,
    layer_agreement,
    layer_scores,
    lim,
    sleb,
    update_geometry,
    z_density,
)
from lacscope.model_measures._contributions import relative_contributions
from lacscope.model_measures._current_influence import current_skip_influence
from lacscope.models.adapters import adapt, build_bridge
from lacscope.testing import tiny_model
from lacscope.traces._sealed import read_sealed, write_sealed

pytestmark = pytest.mark.once

PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [11, 4, 70, 2, 33]]
NAMES = [
    "usage 0.5",
    "usage 0.8",
    "usage 1",
    "ablation KL",
    "ablation loss",
    "angular distance",
    "Block Influence",
    "relative contribution",
    "skip influence",
    "variance growth",
    "identity distance",
    "LIM",
    "SLEB order",
    "ZD",
]


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt_neox", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param, n_layers=5)


@pytest.fixture(scope="module")
def scores(model: Any) -> dict[str, xr.DataArray]:
    return layer_scores(model, PROMPTS, n_probes=4, seed=1)


def test_each_measure_is_its_own_functions(model: Any, scores: dict[str, xr.DataArray]) -> None:
    expected = {
        "Block Influence": block_influence(model, PROMPTS)["block_influence"],
        "LIM": lim(model, PROMPTS)["lim"],
        "ZD": -z_density(model)["z_density"],
        "angular distance": angular_distance(model, PROMPTS)["distance"].sel(n=1),
        "relative contribution": relative_contributions(model, PROMPTS)["block_contribution"],
        "variance growth": abs(depth_variance(model, PROMPTS)["growth"]),
        "identity distance": identity_distance(model, PROMPTS, n_probes=4, seed=1)["identity_distance"],
        "skip influence": current_skip_influence(model, PROMPTS)["output_influence"],
        "ablation KL": causal_ablation(model, PROMPTS)["kl"],
        "ablation loss": causal_ablation(model, PROMPTS)["loss"],
    }
    assert list(scores) == NAMES
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name].values, values.values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_usage_is_each_samples_share_of_active_tokens(model: Any, scores: dict[str, xr.DataArray]) -> None:
    trace = lacscope.trace(model, PROMPTS)
    for alpha in (0.5, 0.8, 1.0):
        void = lacscope.voids(trace, alpha)
        for i, prompt in enumerate(PROMPTS):
            active = 1 - void.values[i, :, : len(prompt)].mean(-1)
            np.testing.assert_allclose(scores[f"usage {alpha:g}"].values[i], active)


def test_the_order_of_sleb_ranks_every_layer(model: Any, scores: dict[str, xr.DataArray]) -> None:
    removed = sleb(model, PROMPTS, protect=())["removed"].values[1:].tolist()
    order = scores["SLEB order"].values
    assert sorted(order.tolist()) == [1, 2, 3, 4, 5]
    assert [int(np.flatnonzero(order == step)[0]) for step in range(1, 5)] == removed


def test_all_have_the_same_layers_and_samples(scores: dict[str, xr.DataArray]) -> None:
    for name, score in scores.items():
        assert score.dims == (("layer",) if name in ("ZD", "SLEB order") else ("sample", "layer")), name
        assert score["layer"].values.tolist() == list(range(5))
        assert set(score.coords) == set(score.dims), name
        assert score.attrs["orientation"] == "larger = more important"
        if "sample" in score.dims:
            assert score["sample"].values.tolist() == [0, 1]


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_larger_is_more_important(architecture: str) -> None:
    """A block that writes nothing is the least by every measure of what a layer does, one that dominates the most."""
    hf_model = plain(architecture, n_layers=5)
    silence(hf_model, 3)
    amplify(hf_model, 1, 30.0)
    model = build_bridge(hf_model, None, name="tiny", residual_only=False)
    scores = layer_scores(model, PROMPTS, n_probes=4, leave_out=["ZD", "SLEB order", "usage 0.5", "usage 0.8"])
    for name, score in scores.items():
        mean = score.values.mean(0)
        if name == "ablation loss":
            # Of a random model the loss may fall without a block; of the silent one it stays.
            assert mean[3] == pytest.approx(0, abs=1e-5)
        elif not name.startswith("usage"):
            assert mean.argmin() == 3, name
            if name not in ("variance growth", "LIM"):
                assert mean.argmax() == 1, name


def test_one_call_gives_scipys_correlations(model: Any, scores: dict[str, xr.DataArray]) -> None:
    found = layer_agreement(
        model, PROMPTS, seed=0, leave_out=["identity distance"], drop=(0, -1), n_boot=20, n_permutations=50, data="ids"
    )
    assert found["subset"].values.tolist() == ["all", "without layers 0, 4"]
    for other in ("Block Influence", "ZD", "SLEB order", "ablation loss"):
        pair = (scores["ablation KL"].values.mean(0), scores[other].values.reshape(-1, 5).mean(0))
        expected = stats.spearmanr(*pair).statistic
        rho = float(found["rho"].sel(subset="all", metric="ablation KL", other=other))
        assert rho == pytest.approx(expected, abs=1e-9), other
    resampled = found["n_samples"].to_series()
    assert resampled[resampled == 0].index.tolist() == ["SLEB order", "ZD"]
    assert (found.attrs["model"], found.attrs["data"]) == (adapt(model).name, "ids")


QUICK = [name for name in NAMES if name not in ("Block Influence", "SLEB order", "identity distance", "ZD")]


def test_each_says_what_it_rests_on_and_departs_in(model: Any) -> None:
    found = layer_scores(model, PROMPTS, leave_out=QUICK[1:], n_probes=4, max_tokens=5, data="ids")
    told = {name: score.attrs for name, score in found.items()}
    assert list(told) == ["usage 0.5", "Block Influence", "identity distance", "SLEB order", "ZD"]
    # SLEB may remove any layer here, which its authors do not.
    assert told["SLEB order"]["departures"] == (
        "data = ids (paper: WikiText-2 train, 128 shuffled lines joined and cut), max_tokens = 5 (paper: 2048), "
        "protect = [] (paper: [0, -1])"
    )
    assert told["Block Influence"]["departures"] == "data = ids (paper: PG19)"
    assert told["identity distance"]["departures"] == "n_probes = 4 (paper: 32)"
    assert told["ZD"]["positions"] == "weights, no tokens"
    assert told["usage 0.5"]["positions"] == "all tokens, position 0 too"
    assert json.loads(told["usage 0.5"]["settings"]) == {"alpha": 0.5, "max_tokens": 5, "sinks": "include"}
    assert {key: attrs["read_in"] for key, attrs in told.items()} == {
        "usage 0.5": "",
        "Block Influence": "code",
        "ZD": "code",
        "identity distance": "paper",
        "SLEB order": "code",
    }


def test_the_agreement_lists_what_each_metric_rests_on(model: Any, tmp_path: Path) -> None:
    options = {"leave_out": QUICK, "n_boot": 5, "n_permutations": 5, "drop": ()}
    found = layer_agreement(model, PROMPTS, seed=0, n_probes=3, data="ids", **options)
    metrics = json.loads(found.attrs["metrics"])
    assert sorted(metrics) == sorted(["Block Influence", "ZD", "identity distance", "SLEB order"])
    assert metrics["SLEB order"]["preset"] == "song_2024/sleb"
    assert "protect = [] (paper: [0, -1])" in metrics["SLEB order"]["departures"]
    assert json.loads(metrics["identity distance"]["settings"])["n_probes"] == 3
    assert metrics["ZD"]["positions"] == "weights, no tokens"
    distance = identity_distance(model, PROMPTS, n_probes=3, seed=0)["identity_distance"].mean("sample")
    np.testing.assert_allclose(found["score"].sel(metric="identity distance"), distance, rtol=1e-6)
    back = read_sealed(write_sealed(found, tmp_path / "agreement.nc"))
    assert json.loads(back.attrs["metrics"]) == metrics


def test_scores_of_ones_own_are_ranked_with_the_measures(model: Any) -> None:
    geometry = update_geometry(model, PROMPTS[1:], calibration=PROMPTS[:1], rank=1, directions=1)
    given = {
        "greedy": xr.DataArray([5.0, 1.0, 2.0, 3.0, 4.0], {"layer": range(5)}, ("layer",), attrs={"preset": "mine"}),
        "updates": geometry["error"].assign_attrs(geometry.attrs).assign_coords(sample=[1]),
    }
    leave_out = [name for name in NAMES if name not in ("Block Influence", "ablation KL")]
    found = layer_agreement(
        model, PROMPTS, seed=0, scores=given, leave_out=leave_out, drop=(), n_boot=5, n_permutations=5
    )
    assert found["metric"].values.tolist() == ["ablation KL", "Block Influence", "greedy", "updates"]
    assert found["n_samples"].values.tolist() == [2, 2, 0, 1]
    np.testing.assert_allclose(found["score"].sel(metric="updates"), geometry["error"].values[0])
    kl = causal_ablation(model, PROMPTS)["kl"].mean("sample")
    rho = found["rho"].sel(subset="all", metric="greedy", other="ablation KL")
    assert float(rho) == pytest.approx(stats.spearmanr(given["greedy"], kl).statistic)
    metrics = json.loads(found.attrs["metrics"])
    assert (metrics["greedy"]["preset"], metrics["updates"]["preset"]) == ("mine", "yoo_2026/layer_updates")


def test_scores_that_do_not_fit_are_refused_before_any_measure(model: Any) -> None:
    seen: list[Any] = []

    def refused(scores: dict[str, xr.DataArray], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            layer_scores(model, PROMPTS, scores=scores, progress=lambda *at: seen.append(at))

    fine = xr.DataArray(np.arange(5.0), {"layer": range(5)}, ("layer",))
    refused({"LIM": fine}, "scores has 'LIM', which is a measure of its own: give another name")
    refused({"mine": fine.rename(layer="step")}, r"scores\['mine'\] has dimensions \('step',\); give \(sample, layer\)")
    refused({"mine": fine[1:]}, r"scores\['mine'\] has layers \[1, 2, 3, 4\]; the model has 0 to 4")
    assert seen == []


def test_prompts_are_cut_and_progress_is_told(model: Any) -> None:
    seen = []
    rest = [name for name in NAMES if name not in ("Block Influence", "ZD", "usage 0.5")]
    options = {"alphas": [0.5], "leave_out": [n for n in rest if not n.startswith("usage")]}
    cut = layer_scores(model, PROMPTS, max_tokens=3, progress=lambda *at: seen.append(at), **options)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(cut) == ["usage 0.5", "Block Influence", "ZD"]
    short = [prompt[:3] for prompt in PROMPTS]
    np.testing.assert_allclose(cut["Block Influence"], block_influence(model, short)["block_influence"])


def test_an_unknown_measure_is_refused_with_the_known_ones(model: Any) -> None:
    with pytest.raises(ValueError, match=r"leave_out names 'SLEB'; the measures are usage 0.5, .*SLEB order, ZD"):
        layer_scores(model, PROMPTS, leave_out=["SLEB"])
