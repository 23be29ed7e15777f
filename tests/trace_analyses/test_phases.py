"""Prefill against decode: the cells against plain loops, the matching against a slow one and planted cases."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import PROMPTS, shared_model
from oracle import mean

from lacscope import trace as traced
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses import _phase_matching as phase_matching
from lacscope.trace_analyses._phase_matching import MATCHINGS, matched_difference
from lacscope.trace_analyses._phases import CELL_KINDS, POSITION_EDGES, SURPRISAL_EDGES, cell_counts
from lacscope.trace_analyses._tokens import token_classes
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._schema import PHASES, TraceError
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

CELL = ["sample", "phase", *CELL_KINDS]


def with_surprisal(trace: xr.Dataset, seed: int = 0) -> xr.Dataset:
    surprisal = np.random.default_rng(seed).exponential(3.0, trace["valid"].shape).astype(np.float32)
    surprisal[:, 0] = np.nan
    surprisal[:, 3] = np.nan
    return trace.assign(surprisal=trace["valid"].copy(data=surprisal).where(trace["valid"]))


@pytest.fixture
def trace() -> xr.Dataset:
    return with_surprisal(synthetic_trace(6, 5, 24, 12))


def bin_of(edges: tuple[float, ...], value: float) -> int:
    return -1 if math.isnan(value) else sum(edge <= value for edge in edges)


# --- cells ----------------------------------------------------------------------------------------------


def loop_cells(trace: xr.Dataset, void: np.ndarray) -> dict[tuple[Any, ...], list[int]]:
    """Tokens and active layers of each cell, token by token."""
    classes = token_classes(trace).values
    found: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for row, sample in enumerate(trace["sample"].values):
        for t in range(trace.sizes["token"]):
            if not trace["valid"].values[row, t] or trace["sink"].values[row, t]:
                continue
            place = (
                int(sample),
                str(trace["phase"].values[row, t]),
                bin_of(POSITION_EDGES, t),
                str(classes[row, t]),
                bin_of(SURPRISAL_EDGES, float(trace["surprisal"].values[row, t])),
            )
            found[place][0] += 1
            found[place][1] += sum(not halted for halted in void[row, :, t])
    return dict(found)


def as_dict(cells: pd.DataFrame) -> dict[tuple[Any, ...], list[int]]:
    return {tuple(row[:-2]): list(row[-2:]) for row in cells[[*CELL, "tokens", "active"]].itertuples(index=False)}


def test_cells_equal_the_plain_loop(trace: xr.Dataset) -> None:
    trace = trace.assign_coords(sample=[4, 9, 11, 30, 31, 7])
    cells = cell_counts(trace)
    assert as_dict(cells) == loop_cells(trace, trace["void"].values)
    assert (cells["surprisal_bin"] == -1).any()
    assert cells["alpha"].isna().all()


def test_many_alphas_are_a_column(trace: xr.Dataset) -> None:
    cells = cell_counts(trace, voids(trace, [0.0, 0.8]))
    assert sorted(set(cells["alpha"])) == [0.0, 0.8]
    for alpha in (0.0, 0.8):
        one = voids(trace, alpha)
        assert as_dict(cells[cells["alpha"] == alpha]) == loop_cells(trace, one.values)
        pd.testing.assert_frame_equal(cell_counts(trace, one), cells[cells["alpha"] == alpha].reset_index(drop=True))


def test_shards_put_together_are_the_whole(trace: xr.Dataset) -> None:
    parts = [
        cell_counts(trace.isel(sample=rows, token=slice(n))) for rows, n in (([0, 1], 36), ([5], 33), ([2, 3, 4], 36))
    ]
    whole = pd.concat(parts).sort_values(CELL).reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, cell_counts(trace))


def test_a_trace_of_sinks_has_an_empty_table_with_the_same_columns(trace: xr.Dataset) -> None:
    cells = cell_counts(trace)
    empty = cell_counts(trace.isel(token=[0]))
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == cells.dtypes.to_dict()


@pytest.mark.parametrize("edges", [POSITION_EDGES, SURPRISAL_EDGES])
def test_edges_rise(edges: tuple[float, ...]) -> None:
    assert list(edges) == sorted(set(edges))


def test_what_cells_refuse(trace: xr.Dataset) -> None:
    with pytest.raises(
        TraceError, match=r"no surprisal to match tokens on: trace again with measures=\('surprisal',\)"
    ):
        cell_counts(trace.drop_vars("surprisal"))
    with pytest.raises(TraceError, match="the voids are of another trace"):
        cell_counts(trace, synthetic_trace(2)["void"])
    with pytest.raises(
        TraceError, match=r"a dimension 'rule': count each rule on its own, with trace\.sel\(rule=\.\.\.\)"
    ):
        cell_counts(trace.assign(void=trace["void"].expand_dims(rule=["one", "two"])))


def test_values_are_summed_by_cell(trace: xr.Dataset) -> None:
    kl = trace["surprisal"].fillna(0.5).rename("kl") * 2
    cells = cell_counts(trace, values=xr.Dataset({"kl": kl}))
    pd.testing.assert_frame_equal(cells.drop(columns="kl"), cell_counts(trace))
    counted = (trace["valid"] & ~trace["sink"]).values
    assert cells["kl"].sum() == pytest.approx(float(kl.values[counted].astype(float).sum()))
    first = counted & (trace["phase"].values == "decode") & (np.arange(len(counted)) == 1)[:, None]
    one = cells[(cells["sample"] == 1) & (cells["phase"] == "decode")]
    assert one["kl"].sum() == pytest.approx(float(kl.values[first].astype(float).sum()))


def test_what_values_refuse(trace: xr.Dataset) -> None:
    kl = xr.zeros_like(trace["surprisal"])
    with pytest.raises(ValueError, match=r"values has 'tokens', a column of the cells themselves"):
        cell_counts(trace, values=xr.Dataset({"tokens": kl}))
    with pytest.raises(ValueError, match=r"values\['kl'\] is NaN for a token that counts"):
        cell_counts(trace, values=xr.Dataset({"kl": kl * np.nan}))
    with pytest.raises(
        ValueError, match=r"values\['kl'\] has dimensions \('sample', 'token'\) of \(5, 36\): give a num"
    ):
        cell_counts(trace, values=xr.Dataset({"kl": kl.isel(sample=slice(5))}))


# --- matching -------------------------------------------------------------------------------------------


def loop_difference(cells: pd.DataFrame, kinds: tuple[str, ...], n_layers: int) -> tuple[float, float]:
    """Difference and coverage by plain loops over rows: usage of each token at its cell's mean, paired one to one."""
    pools: dict[Any, dict[str, list[float]]] = defaultdict(lambda: {phase: [] for phase in PHASES})
    n_decode = 0
    for row in cells.to_dict("records"):
        n_decode += row["tokens"] * (row["phase"] == "decode")
        if "surprisal_bin" in kinds and row["surprisal_bin"] == -1:
            continue
        usage = row["active"] / row["tokens"] / n_layers
        pools[tuple(row[kind] for kind in kinds)][row["phase"]] += [usage] * row["tokens"]
    differences = []
    for pool in pools.values():
        pairs = min(len(pool["prefill"]), len(pool["decode"]))
        differences += [mean(pool["decode"]) - mean(pool["prefill"])] * pairs
    return mean(differences), len(differences) / n_decode


@pytest.mark.parametrize("name", MATCHINGS)
def test_it_equals_the_slow_implementation(trace: xr.Dataset, name: str) -> None:
    cells = cell_counts(trace, voids(trace, [0.2, 0.8]))
    table = matched_difference(cells, 5, seed=0, n_bootstrap=50)
    for alpha in (0.2, 0.8):
        part = cells[cells["alpha"] == alpha]
        (found,) = table[(table["alpha"] == alpha) & (table["matched_on"] == name)].to_dict("records")
        difference, coverage = loop_difference(part, MATCHINGS[name], 5)
        assert found["difference"] == pytest.approx(difference, abs=1e-12)
        assert found["coverage"] == pytest.approx(1.0 if name == "raw" else coverage)
        assert 0 < found["coverage"] <= 1
        # Few cells are alike in all: some resamples lack them.
        assert found["note"] == "" or set(CELL_KINDS) <= set(MATCHINGS[name])


def test_the_raw_difference_is_that_of_usage(trace: xr.Dataset) -> None:
    usage = layer_usage(trace, sinks="exclude").mean("layer")
    raw = matched_difference(cell_counts(trace), 5, seed=0, n_bootstrap=5).iloc[0]
    assert raw["matched_on"] == "raw"
    assert raw["difference"] == pytest.approx(float(usage.sel(phase="decode") - usage.sel(phase="prefill")))


@pytest.mark.parametrize("name", MATCHINGS)
def test_another_number_a_token_is_matched_alike(trace: xr.Dataset, name: str) -> None:
    # Planted: the value is the usage of the token, so its difference is that of usage.
    usage = (1 - trace["void"]).mean("layer").astype(np.float64).drop_vars("token_text", errors="ignore")
    cells = cell_counts(trace, values=xr.Dataset({"kl": usage}))
    of_usage, of_value = (matched_difference(cells, 5, seed=0, of=of, n_bootstrap=40) for of in ("usage", "kl"))
    assert set(of_value["of"]) == {"kl"}
    numbers = ["difference", "low", "high", "coverage", "cells"]
    row = of_usage["matched_on"] == name
    pd.testing.assert_frame_equal(of_usage[row][numbers], of_value[row][numbers])


def test_within_a_sample_what_differs_between_samples_does_not_count() -> None:
    # Samples of many answers use 9 of 10 layers, samples of few use 1, whatever the phase.
    rows = [
        {"sample": sample, "alpha": 0.8, "phase": phase, "position_bin": 4, "token_class": "other", "surprisal_bin": 2,
         "tokens": n, "active": (9 if sample < 4 else 1) * n}
        for sample in range(8)
        for phase, n in (("prefill", 5), ("decode", 8 if sample < 4 else 2))
    ]  # fmt: skip
    table = matched_difference(pd.DataFrame(rows), 10, seed=0, n_bootstrap=100).set_index("matched_on")
    pooled, within = (table.loc[f"{start}class + surprisal"] for start in ("", "sample + "))
    assert pooled["low"] > 0.05
    assert within[["difference", "low", "high"]].tolist() == [0.0, 0.0, 0.0]
    assert within["coverage"] == pytest.approx(28 / 40)


def test_a_number_that_the_cells_lack(trace: xr.Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"of='kl': the cells hold usage\. Others come in with cell_counts\(trace, voi"
    ):
        matched_difference(cell_counts(trace), 5, seed=0, of="kl")


def test_the_interval_resamples_samples(trace: xr.Dataset) -> None:
    cells = cell_counts(trace)
    table = matched_difference(cells, 5, seed=3, n_bootstrap=40, level=0.9).set_index("matched_on")
    for name, kinds in MATCHINGS.items():
        samples = sorted(set(cells["sample"]))
        found = []
        for picks in _picks(3, 6, 40):
            drawn = [cells[cells["sample"] == samples[pick]] for pick in picks]
            found.append(loop_difference(pd.concat(drawn), kinds, 5)[0])
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx(np.nanquantile(found, [0.05, 0.95]).tolist())


def test_it_is_reproducible_whatever_the_order_of_rows(trace: xr.Dataset) -> None:
    cells = cell_counts(trace)
    shuffled = cells.sample(frac=1.0, random_state=1)
    first = matched_difference(cells, 5, seed=0, n_bootstrap=30)
    pd.testing.assert_frame_equal(first, matched_difference(shuffled, 5, seed=0, n_bootstrap=30))
    other = matched_difference(cells, 5, seed=1, n_bootstrap=30)
    assert (first["difference"] == other["difference"]).all()
    assert (first["low"] != other["low"]).any()


def test_the_size_of_blocks_changes_nothing(trace: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cell_counts(trace)
    whole = matched_difference(cells, 5, seed=0, n_bootstrap=30)
    monkeypatch.setattr(phase_matching, "_BLOCK", 4)
    pd.testing.assert_frame_equal(whole, matched_difference(cells, 5, seed=0, n_bootstrap=30), check_exact=True)


def planted(usage_of: dict[str, int], *, n_samples: int = 8) -> pd.DataFrame:
    """Cells of ten layers in which usage depends on the token class alone, and classes differ by phase."""
    tokens = {"prefill": {"other": 6, "number": 2}, "decode": {"other": 1, "number": 4}}
    rows = [
        {
            "sample": sample,
            "alpha": 0.8,
            "phase": phase,
            "position_bin": 3 if phase == "prefill" else 4,
            "token_class": token_class,
            "surprisal_bin": 2,
            "tokens": n + sample % 3,
            "active": usage_of[token_class] * (n + sample % 3),
        }
        for sample in range(n_samples)
        for phase, classes in tokens.items()
        for token_class, n in classes.items()
    ]
    return pd.DataFrame(rows)


def test_a_difference_between_classes_vanishes_once_classes_are_matched() -> None:
    table = matched_difference(planted({"other": 2, "number": 7}), 10, seed=0, n_bootstrap=200).set_index("matched_on")
    assert table.loc["raw", "low"] > 0.1
    assert table.loc["surprisal", "low"] > 0.1
    for name in ("class", "class + surprisal"):
        assert table.loc[name, ["difference", "low", "high"]].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
        assert 0.5 < table.loc[name, "coverage"] < 1


def test_where_nothing_matches_there_is_no_number_but_words() -> None:
    table = matched_difference(planted({"other": 2, "number": 7}), 10, seed=0, n_bootstrap=5).set_index("matched_on")
    for name in ("position", "position + class + surprisal"):
        assert table.loc[name, ["difference", "low", "high"]].isna().all()
        assert (table.loc[name, "coverage"], table.loc[name, "cells"]) == (0, 0)
        assert table.loc[name, "note"] == "no cell has tokens of both phases"


@pytest.mark.parametrize(("kept", "absent"), [("prefill", "decode"), ("decode", "prefill")])
def test_one_phase_alone(kept: str, absent: str) -> None:
    cells = planted({"other": 2, "number": 7})
    table = matched_difference(cells[cells["phase"] == kept], 10, seed=0, n_bootstrap=5)
    assert table["difference"].isna().all()
    assert (table["coverage"] == 0).all()
    assert set(table["note"]) == {f"no {absent} tokens"}
    assert (table[f"n_{absent}"] == 0).all()


def test_tokens_without_surprisal_are_not_matched_on_it() -> None:
    table = matched_difference(
        planted({"other": 2, "number": 7}).assign(surprisal_bin=-1), 10, seed=0, n_bootstrap=5
    ).set_index("matched_on")
    assert table.loc["class", "coverage"] > 0
    assert (table.loc[["surprisal", "sample + class + surprisal"], "coverage"] == 0).all()
    assert (table["n_samples"] == 8).all()


def test_one_sample_has_no_interval() -> None:
    table = matched_difference(planted({"other": 2, "number": 7}, n_samples=1), 10, seed=0).set_index("matched_on")
    assert table.loc["raw", "difference"] == pytest.approx((2 + 28) / 50 - (12 + 14) / 80)
    assert table.loc["raw", ["low", "high"]].isna().all()
    assert table.loc["raw", "note"] == "one sample: no interval"


def test_resamples_without_a_match_are_counted() -> None:
    cells = planted({"other": 2, "number": 7}, n_samples=3)
    # One sample has all of prefill, the others all of decode.
    cells = cells[(cells["sample"] == 0) == (cells["phase"] == "prefill")]
    raw = matched_difference(cells, 10, seed=0, n_bootstrap=100).iloc[0]
    lost = sum((picks == 0).all() or (picks != 0).all() for picks in _picks(0, 3, 100))
    assert raw["note"] == f"nothing matches in {lost} of 100 resamples"
    assert lost > 0
    assert raw["low"] < raw["difference"] < raw["high"]


def _picks(seed: int, n: int, times: int) -> np.ndarray:
    """One sample fewer than there are, drawn with replacement, as often as asked."""
    return np.random.default_rng(seed).integers(0, n, (times, n - 1))


def test_no_cells_give_no_rows_and_all_columns() -> None:
    cells = planted({"other": 2, "number": 7})
    table = matched_difference(cells, 10, seed=0, n_bootstrap=5)
    assert matched_difference(cells.iloc[:0], 10, seed=0).columns.tolist() == table.columns.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 6}, "n_layers is 6, and some tokens have more active layers than that"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"n_bootstrap": 0}, "n_bootstrap must be at least 1, got 0"),
        ({"level": 95.0}, r"level must be between 0 and 1, got 95\.0: 0\.95 gives a 95 % interval"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matched_difference(planted({"other": 2, "number": 7}), **{"n_layers": 10, "seed": 0, **options})


def test_tables_that_are_none() -> None:
    cells = planted({"other": 2, "number": 7})
    with pytest.raises(ValueError, match=r"no column 'alpha': make it with cell_counts\(trace, voids\)"):
        matched_difference(cells.drop(columns="alpha"), 10, seed=0)
    with pytest.raises(ValueError, match=r"a cell of sample 0 is there twice: a shard was added twice, or several"):
        matched_difference(pd.concat([cells, cells]), 10, seed=0)


# --- a real model ---------------------------------------------------------------------------------------


def test_prompt_and_answer_as_one_prompt_fall_in_the_same_cells() -> None:
    """The phase changes nothing that tokens are matched on, nor their masks.

    ``test_one_pass_and_cached_decode_read_the_same_streams`` holds the norms themselves, for every architecture.
    """
    model = shared_model("llama", "residual")
    generated = traced(model, PROMPTS, max_new_tokens=8, measures=("surprisal",))
    read = [row[own].tolist() for row, own in zip(generated["token_id"].values, generated["valid"].values, strict=True)]
    at_once = traced(model, read, measures=("surprisal",))
    assert set(cell_counts(generated, voids(generated, 0.5))["phase"]) == set(PHASES)

    def without_phase(trace: xr.Dataset) -> pd.DataFrame:
        cells = cell_counts(trace, voids(trace, [0.0, 0.5]))
        return cells.groupby(["sample", "alpha", *CELL_KINDS])[["tokens", "active"]].sum()

    pd.testing.assert_frame_equal(without_phase(generated), without_phase(at_once))
