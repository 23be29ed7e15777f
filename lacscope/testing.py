"""Small things to test against: synthetic traces, and tiny random models built in process."""

from typing import Any

import numpy as np
import xarray as xr

from lacscope.dataset import NORMS, SampleTrace, build
from lacscope.thresholds import lac_thresholds

_WORDS = (" the", " river", " rises", " in", " a", " forest", ".", " Is", " it", " deep", "?", "\n", "<|im_start|>", " yes")


def synthetic_trace(
    n_samples: int = 3,
    n_layers: int = 12,
    prompt_tokens: int = 20,
    decode_tokens: int = 6,
    *,
    alpha: float = 0.8,
    seed: int = 0,
) -> xr.Dataset:
    """A trace that no model made, shaped like a real one: a falling middle, a sink at token 0, uneven lengths.

    Needs no torch. Norms, deltas and voids agree with each other as in an ``observe`` trace at ``alpha``.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for sample in range(n_samples):
        prompt = prompt_tokens - sample % 3
        decode = max(0, decode_tokens - sample % 2)
        length = prompt + decode
        depth = np.linspace(0, 1, n_layers)[:, None]
        step = 6 * np.exp(-8 * depth) + 5 * depth**4 + rng.normal(0.0, 0.6, (n_layers, length))
        start = rng.uniform(8, 12, (1, length))
        post = np.maximum(start + np.cumsum(step, axis=0), 1.0)
        post[1:-1, 0] *= 60
        pre = np.concatenate([start, post[:-1]])
        pre, post = pre.astype(np.float32), post.astype(np.float32)
        delta = post - pre
        update = np.abs(delta) + rng.uniform(2, 6, delta.shape).astype(np.float32)
        ids = rng.integers(0, len(_WORDS), length)
        decoding = np.arange(length) >= prompt
        produced = np.where(np.arange(length) >= prompt - 1, np.append(ids[1:], 1), -1) if decode else np.full(length, -1)
        samples.append(
            SampleTrace(
                token_id=ids,
                next_token_id=produced,
                decode=decoding,
                layerwise=dict(zip(NORMS, (pre, post, delta, update), strict=True)),
                void=delta < lac_thresholds(delta, alpha),
            )
        )
    attrs = {
        "model": "synthetic",
        "rule": f'{{"alpha": {alpha}, "name": "L2AdaptiveComputation", "unit": "block"}}',
        "effect": "observe",
        "seed": seed,
        "cost": '{"attend": 2304.0, "block": 7077888.0, "head": 56623104.0, "kv": 442368.0}',
    }
    return build(samples, attrs, token_text=dict(enumerate(_WORDS)), special_ids=[12])
