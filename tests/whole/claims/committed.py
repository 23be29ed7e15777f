"""The committed results that prose speaks of, read as they lie."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "figures"
SMOL, QWEN = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
NAMES = {SMOL: "SmolLM2", QWEN: "Qwen2.5-Coder"}
TASKS = {"arc_easy": "ARC-Easy", "lambada": "LAMBADA", "boolq": "BoolQ", "mmlu": "MMLU"}
ALPHAS = (0.0, 0.1, 0.2, 0.5, 0.8, 1.0)


@cache
def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FIGURES / f"{name}.csv")


@cache
def scores() -> pd.DataFrame:
    return pd.read_parquet(FIGURES / "scores.parquet")


@cache
def result(model: str, name: str) -> xr.Dataset:
    with xr.open_dataset(FIGURES / model / f"{name}.nc") as found:
        return found.load()


@cache
def notes() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "replication_notes.json").read_text())["sets"]


def rows(name: str, **where: Any) -> pd.DataFrame:
    """The rows of a table with these values, by choice scoring."""
    found = table(name)
    for column, value in where.items():
        found = found[found[column] == value]
    return found[found["scoring"] == "choice"] if "scoring" in found else found


def only(name: str, **where: Any) -> pd.Series:
    found = rows(name, **where)
    assert len(found) == 1, (name, where, len(found))
    return found.iloc[0]


def lac(model: str, task: str, effect: str, alpha: float) -> pd.Series:
    return only("summary", model=model, task=task, effect=effect, alpha=alpha, rule="lac", protect=False)


def full(model: str, task: str) -> pd.Series:
    return only("summary", model=model, task=task, effect="none")


def medians(effect: str, *alphas: float) -> list[float]:
    """Median KL to the full model of LAC, over both models and all four tasks, at these alphas."""
    return [float(lac(m, t, effect, a)["kl"]) for m in NAMES for t in TASKS for a in alphas]


def rho(model: str, metric: str, other: str = "ablation KL", subset: int = 0) -> float:
    found = result(model, "agreement")
    return float(found["rho"].isel(subset=subset).sel(metric=metric, other=other))


def fisher(subset: int) -> tuple[float, float]:
    """z and two-sided p of the difference of both models' correlations of usage with ablation KL."""
    apart = math.atanh(rho(QWEN, "usage 0.8", subset=subset)) - math.atanh(rho(SMOL, "usage 0.8", subset=subset))
    spread = math.sqrt(sum(1 / (int(result(m, "agreement")["n_layers"][subset]) - 3) for m in NAMES))
    z = apart / spread
    return z, math.erfc(abs(z) / math.sqrt(2))


def ablation(name: str) -> np.ndarray:
    """Mean KL to the full model by layer when it is bypassed, on SmolLM2."""
    found = result(SMOL, name)
    assert found.attrs["data"] == result(SMOL, "ablation").attrs["data"]
    return found["kl"].mean("sample").values


def rank(values: np.ndarray, layer: int) -> int:
    """1 for the largest."""
    return int((values > values[layer]).sum()) + 1


def matched(model: str, of: str, matching: str) -> pd.Series:
    """A row of the phase control on GSM8K, answers given."""
    found = result(model, "token-phases").to_dataframe()
    found = found[(found["of"] == of) & (found["matched_on"] == matching)]
    assert len(found) == 1
    return found.iloc[0]


def points(row: pd.Series, scale: float = 100) -> str:
    """A difference with its interval, in points."""
    return f"{scale * row['difference']:+.1f} [{scale * row['low']:+.1f}, {scale * row['high']:+.1f}]"


def nats(row: pd.Series) -> str:
    return f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
