"""Results of measures of importance that no model made: 30 layers, shaped like a real one's."""

import numpy as np
import xarray as xr

from lacscope.traces._spread import with_spread

N_LAYERS = 30
ATTRS = {
    "model": "synthetic",
    "data": "GSM8K test",
    "n_samples": 12,
    "positions": "all tokens but sinks",
    "aggregation": "mean over tokens, per sample",
    "preset": "doe_2025/importance",
    "departures": "data = GSM8K test (paper: PG19)",
    "orientation": "larger = more important",
}
LAYERS = np.arange(N_LAYERS)
DEPTH = np.linspace(0, 1, N_LAYERS)


def noise(*shape: int, scale: float = 0.02) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(scale=scale, size=shape)


def ranking(values: np.ndarray, *, units: str = "1") -> xr.Dataset:
    dims = ("sample", "layer") if values.ndim == 2 else ("layer",)
    score = (dims, values, {"long_name": "1 - mean cos(h_l, h_l+1)", "units": units})
    found = xr.Dataset({"score": score}, {"layer": np.arange(values.shape[-1])}, {**ATTRS, "importance": "score"})
    return with_spread(found)


def block_influences(n_samples: int = 12) -> xr.Dataset:
    curve = 0.5 * np.exp(-8 * DEPTH) + 0.06 + 0.3 * DEPTH**8
    return ranking(np.abs(curve + noise(n_samples, N_LAYERS)))


def angular() -> xr.Dataset:
    mean = np.full((N_LAYERS, N_LAYERS), np.nan)
    for n in range(1, N_LAYERS + 1):
        first = np.arange(N_LAYERS + 1 - n)
        middle = np.abs((first + n / 2) / N_LAYERS - 0.6)
        mean[n - 1, : len(first)] = np.clip(0.04 + 0.4 * (n / N_LAYERS) ** 0.7 * (0.4 + middle), 0, 1)
    low, high = np.nanpercentile(mean, [1, 99], axis=1, keepdims=True)
    scaled = np.clip(mean, low, high)
    scaled = (scaled - low) / np.where(high > low, high - low, 1)
    return xr.Dataset(
        {
            "mean_distance": (("n", "layer"), mean),
            "scaled_distance": (("n", "layer"), scaled),
            "first_to_drop": ("n", np.nanargmin(mean, axis=1)),
        },
        {"layer": LAYERS, "n": LAYERS + 1},
        ATTRS,
    )


def similarity(lowest: float = 0.1) -> xr.Dataset:
    place = np.concatenate([[0.0, 0.25], np.linspace(0.3, 0.7, N_LAYERS - 2), [1.0]])
    values = np.maximum(1 - np.abs(place[:, None] - place), lowest)
    states = np.arange(N_LAYERS + 1)
    return xr.Dataset(
        {"mean_similarity": (("state", "other_state"), values)}, {"state": states, "other_state": states}, ATTRS
    )


def variance(n_samples: int = 12) -> xr.Dataset:
    depth = np.linspace(0, 1, N_LAYERS + 1)
    values = np.exp(-4 + 7 * depth + noise(n_samples, N_LAYERS + 1, scale=0.2))
    found = {"variance": (("sample", "state"), values)}
    return with_spread(xr.Dataset(found, {"state": np.arange(N_LAYERS + 1)}, ATTRS))


def identity(n_samples: int = 12) -> xr.Dataset:
    values = np.abs(1.4 * np.exp(-6 * DEPTH) + 0.15 + noise(n_samples, N_LAYERS))
    return with_spread(xr.Dataset({"identity_distance": (("sample", "layer"), values)}, {"layer": LAYERS}, ATTRS))


def updates(lowest_r2: float = 0.1) -> xr.Dataset:
    curves = {
        "r2": 0.9 + 0.08 * DEPTH,
        "r2_update": lowest_r2 + 0.3 * DEPTH,
        "cos_update": 0.5 + 0.3 * DEPTH,
        "cos_residual": 0.1 - 0.3 * DEPTH,
        "projection_update": 0.6 + 0.2 * DEPTH,
        "projection_residual": 0.2 + 0.1 * DEPTH,
    }
    found = {name: (("sample", "layer"), curve + noise(12, N_LAYERS)) for name, curve in curves.items()}
    attrs = {**ATTRS, "map": "1 + B, B of rank 8"}
    return with_spread(xr.Dataset({**found, "spearman": ("layer", 0.4 + 0.3 * DEPTH)}, {"layer": LAYERS}, attrs))
