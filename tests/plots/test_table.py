import doctest
import importlib

import numpy as np
import pandas as pd
import pytest
from score_tables import summary_table

from lacscope.plots import PUBLISHED, PUBLISHED_SOURCE, results_table, to_markdown
from lacscope.reproduction.scores._comparisons import compare
from lacscope.reproduction.scores._scores import summarise
from lacscope.testing import synthetic_scores

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return synthetic_scores(12, 6)


@pytest.fixture(scope="module")
def table(scores: pd.DataFrame) -> pd.DataFrame:
    return results_table(summarise(scores, draws=50), compare(scores, draws=50))


def test_each_row_against_the_scores(scores: pd.DataFrame, table: pd.DataFrame) -> None:
    right = scores.groupby(["scoring", "effect", "rule", "alpha"], dropna=False)["correct"].mean()
    for row in table.to_dict("records"):
        full = right.xs((row["scoring"], "none", "full"), level=(0, 1, 2)).item()
        skipped = right[row["scoring"], row["effect"], "lac", row["alpha"]]
        assert row["accuracy full"] == full
        assert row["accuracy skipped"] == skipped
        assert row["difference"] == pytest.approx(skipped - full)
        assert row["difference low"] <= row["difference"] <= row["difference high"]
        assert row["samples"] == 12
    assert len(table) == (6 + 2) * 2  # alphas by choice and generated, in two effects: no control, no observe


def test_usage_by_phase(scores: pd.DataFrame, table: pd.DataFrame) -> None:
    chosen = "scoring == 'generated' and effect == 'bypass' and alpha == 1.0"
    row, rows = table.query(chosen).iloc[0], scores.query(f"{chosen} and rule == 'lac'")
    for name, phase in (("usage PP", "prefill"), ("usage RG", "decode")):
        active = sum(sum(counts) for counts in rows[f"active_{phase}"])
        assert row[name] == pytest.approx(active / (6 * rows[f"n_{phase}"].sum()))
        own = [sum(one[f"active_{phase}"]) / (6 * one[f"n_{phase}"]) for one in rows.to_dict("records")]
        assert row[f"{name} by sample"] == pytest.approx(sum(own) / len(own))
        assert row[f"{name} by sample"] != pytest.approx(row[name], rel=1e-6)


def test_comparisons_with_controls_are_not_taken_for_those_with_the_full_model(scores: pd.DataFrame) -> None:
    comparisons = compare(scores, draws=50)
    other = comparisons["against"] != "full"
    assert other.any()
    comparisons.loc[other, "difference"] = 99.0
    assert results_table(summarise(scores, draws=50), comparisons)["difference"].max() < 1


def test_a_row_without_a_comparison_has_no_difference() -> None:
    summary = summary_table()
    comparisons = pd.DataFrame(
        columns=[*summary.columns, "against", "difference", "difference_low", "difference_high", "detectable"]
    ).astype({"alpha": float, "protect": bool})
    table = results_table(summary, comparisons)
    assert table["difference"].isna().all()
    assert "n/a" in to_markdown(table)


def test_markdown_cells() -> None:
    table = pd.DataFrame(
        {
            "model": ["a|b", "c"],
            "alpha": [0.8, 0.1],
            "accuracy full": [0.6924, 0.5],
            "usage PP": [0.3, np.nan],
            "difference": [0.0205, 0.0],
            "difference low": [-0.01, 0.0],
            "difference high": [0.05, 0.0],
            "samples": [200, 100],
            "identical": ["", "by construction"],
        }
    )
    assert to_markdown(table).splitlines() == [
        "| model | alpha | accuracy full | usage PP (prefill), tokens pooled | difference, points (95 %) | samples |",
        "|---|---:|---:|---:|---:|---:|",
        "| a\\|b | 0.8 | 69.24 % | 30.0 % | +2.1 [-1.0, +5.0] | 200 |",
        "| c | 0.1 | 50.00 % | n/a | identical by construction | 100 |",
    ]


def test_published_figures_name_their_source() -> None:
    assert "2505.14467" in PUBLISHED_SOURCE
    text = to_markdown(PUBLISHED)
    for number in ("69.24 %", "71.29 %", "30.0 %", "13.88 %", "18.36 %", "70.0 %"):
        assert number in text


def test_wrong_input() -> None:
    summary = summary_table()
    comparisons = summary.assign(
        against="full", difference=0.0, difference_low=0.0, difference_high=0.0, detectable=0.1
    )
    with pytest.raises(ValueError, match=r"'summary' has columns .* without 'why'"):
        results_table(summary.drop(columns="why"), comparisons)
    with pytest.raises(
        ValueError, match=r"'comparisons' .* without 'against'\. Give what lacscope.reproduction.scores.compare"
    ):
        results_table(summary, comparisons.drop(columns="against"))
    with pytest.raises(ValueError, match=r"no row of the full model for model tiny, task boolq, style paper, scoring"):
        results_table(summary[summary["effect"] != "none"], comparisons)


@pytest.mark.parametrize(
    ("module", "least"),
    [
        ("accuracy", 4),
        ("continuous", 3),
        ("controls", 4),
        ("layer_norms", 4),
        ("layer_phases", 4),
        ("phases", 4),
        ("table", 6),
    ],
)
def test_docstring_examples_run(module: str, least: int) -> None:
    outcome = doctest.testmod(importlib.import_module(f"lacscope.plots._{module}"))
    assert outcome.attempted >= least
    assert outcome.failed == 0
