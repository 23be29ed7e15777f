"""Small things to test against: synthetic traces and tables of scores, and tiny random models built in process."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lacscope.traces._lac import lac_thresholds
from lacscope.traces._schema import NORMS, SampleTrace, build

_WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
_SPECIAL = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GROUPED = {**_WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 128}
_COMMON: dict[str, Any] = _SPECIAL

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**_WIDTHS, "max_position_embeddings": 128},
    "opt": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
    },
    "phi": {**_WIDTHS, "max_position_embeddings": 128},
    "falcon": {"hidden_size": 32, "num_attention_heads": 4, "new_decoder_architecture": False},
    "bloom": {"hidden_size": 32, "n_head": 4},
    "olmo2": _GROUPED,
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
}

_WORDS = (
    " the",
    " river",
    " rises",
    " in",
    " a",
    " wood",
    ".",
    " Is",
    " it",
    " deep",
    "?",
    "\n",
    "<|im_start|>",
    " y",
)


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
        post[1:-1, 0] *= 60  # a sink
        pre = np.concatenate([start, post[:-1]])
        pre, post = pre.astype(np.float32), post.astype(np.float32)
        delta = post - pre
        update = np.abs(delta) + rng.uniform(2, 6, delta.shape).astype(np.float32)
        ids = rng.integers(0, len(_WORDS), length)
        decoding = np.arange(length) >= prompt
        produced = np.full(length, -1)
        if decode:
            produced[prompt - 1 :] = np.append(ids[prompt:], 1)
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


def tiny_model(
    architecture: str = "llama",
    *,
    n_layers: int = 4,
    hooks: str = "full",
    seed: int = 0,
    **config: Any,
) -> Any:
    """A tiny random ``TransformerBridge``, built in process: no download, no tokenizer.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        n_layers: number of blocks.
        hooks: ``"full"`` or ``"residual"``, as for :func:`lacscope.load_model`.
        seed: the seed of the random weights; the caller's random state is left as it was.
        config: more options of the transformers configuration.

    Raises:
        ValueError: an unknown architecture.
    """
    from lacscope.models.adapters import build_bridge

    hf_model = tiny_transformers_model(architecture, n_layers=n_layers, seed=seed, **config)
    return build_bridge(hf_model, None, name=f"tiny-{architecture}", residual_only=hooks == "residual")


def tiny_transformers_model(architecture: str = "llama", *, n_layers: int = 4, seed: int = 0, **config: Any) -> Any:
    """The same as a plain transformers model in evaluation mode, float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lacscope.models.adapters import without_gradients

    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(sorted(ARCHITECTURES))}.")
    options = {**_COMMON, **ARCHITECTURES[architecture], **config}
    depth = "n_layer" if architecture in ("gpt2", "bloom") else "num_hidden_layers"
    model_config = AutoConfig.for_model(architecture, **{depth: n_layers}, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model_config)
        # Fresh weights are too small to move a norm: scaled up, blocks differ and deltas change sign.
        with without_gradients():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(4.0)
    return model.eval()


def synthetic_scores(
    n_samples: int = 40,
    n_layers: int = 12,
    n_choices: int = 2,
    *,
    model: str = "synthetic",
    task: str = "boolq",
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0),
    skill: float = 1.5,
    harm: float = 1.0,
    private: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """A scores table that no model made, with all three parts: choice, generated and controls.

    Needs no torch. Choice and generated rows are of every sample; controls (2 seeds; bypass at alpha 0.1, readout
    at 0.8) of the first half.

    Args:
        n_samples, n_layers, n_choices: sizes. ``n_choices=1`` is a task scored by its gold answer's text.
        model, task: names in the table.
        alphas: the alphas of the LAC rows.
        skill: mean margin of the right choice in the full model, nats; 0 is a model that knows nothing.
        harm: nats that ``readout`` takes from the margin at alpha 1; ``bypass`` takes eight times as much, a control
            half as much again as LAC. 0 leaves every score as the full model's.
        private: True to leave the generated text out, as for GPQA.
        seed: the seed of all that is random.
    """
    rng = np.random.default_rng(seed)
    target = rng.integers(0, n_choices, n_samples)
    base = rng.normal(-4.0, 1.0, (n_samples, n_choices))
    base[np.arange(n_samples), target] += rng.normal(skill, 1.5, n_samples)
    tokens = {"n_prefill": rng.integers(30, 60, n_samples), "n_decode": rng.integers(2, 8, n_samples)}
    rows = []
    for scoring, effect, rule, alpha, row_seed, protect in _synthetic_conditions(alphas):
        control = rule not in ("full", "lac")
        loss = {"readout": 1.0, "bypass": 8.0}.get(effect, 0.0) * harm * (0.0 if math.isnan(alpha) else alpha)
        loss *= 1.5 if control else 1.0
        for sample in range(n_samples // 2 if control else n_samples):
            early = _synthetic_early(effect, alpha, rng)
            lost = 0.0 if effect == "readout" and not early else loss
            logp = base[sample] + (rng.normal(0.0, 0.4, n_choices) * lost if lost else 0.0)
            logp[target[sample]] -= lost
            lengths = {name: int(counts[sample]) for name, counts in tokens.items()}
            row = {
                "model": model,
                "task": task,
                "style": "paper",
                "sample": sample,
                "group": f"subject {sample % 4}" if task == "mmlu" else "",
                "scoring": scoring,
                "effect": effect,
                "rule": rule,
                "alpha": alpha,
                "seed": row_seed,
                "protect": protect,
                "target": int(target[sample]),
                "early": early,
            }
            row |= _synthetic_answer(scoring, logp, base[sample], int(target[sample]), lost, private, rng)
            rows.append(row | _synthetic_usage(scoring, effect, alpha, n_layers, lengths, rng))
    return pd.DataFrame(rows)


def synthetic_norms(
    n_samples: int = 40, n_layers: int = 12, *, model: str = "synthetic", task: str = "boolq", seed: int = 0
) -> pd.DataFrame:
    """The norms table beside :func:`synthetic_scores`: one row per (sample, phase, layer), a falling middle."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, n_layers)
    step = 6 * np.exp(-8 * depth) + 5 * depth**4
    rows = []
    for sample in range(n_samples):
        for phase in ("prefill", "decode"):
            delta = step + rng.normal(0.0, 0.6, n_layers)
            pre = rng.uniform(8, 12) + np.concatenate([[0.0], np.cumsum(delta)[:-1]])
            for layer in range(n_layers):
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "sample": sample,
                        "phase": phase,
                        "layer": layer,
                        "n": 40 if phase == "prefill" else 5,
                        "resid_post_norm_mean": pre[layer] + delta[layer] + 0.2,
                        "resid_post_norm_median": pre[layer] + delta[layer],
                        "delta_norm_mean": delta[layer] + 0.05,
                        "delta_norm_median": delta[layer],
                        "resid_pre_norm_median": pre[layer],
                    }
                )
    return pd.DataFrame(rows)


def _synthetic_conditions(alphas: Sequence[float]) -> Iterator[tuple[str, str, str, float, int, bool]]:
    """(scoring, effect, rule, alpha, seed, protect) of every condition of a run."""
    generated_at = {alphas[len(alphas) // 2], alphas[-1]}
    for scoring in ("choice", "generated"):
        yield scoring, "none", "full", math.nan, -1, False
        for alpha in alphas:
            yield scoring, "observe", "lac", alpha, -1, False
            if scoring == "choice" or alpha in generated_at:
                yield scoring, "readout", "lac", alpha, -1, False
                yield scoring, "bypass", "lac", alpha, -1, False
    for seed in (0, 1):
        yield "choice", "readout", "permuted_exits", 0.8, seed, False
        for rule in ("random_layers", "random_tokens"):
            for protect in (False, True):
                yield "choice", "bypass", rule, 0.1, seed, protect
    yield "choice", "readout", "constant_exit", 0.8, -1, False
    yield "choice", "readout", "norm_null", 0.8, -1, False
    for rule in ("lowest_usage", "last_layers", "norm_null"):
        yield "choice", "bypass", rule, 0.1, -1, False


def _synthetic_early(effect: str, alpha: float, rng: np.random.Generator) -> int:
    """Scored positions that exit before the last block: where there is none, readout is the full model."""
    return int(rng.random() < 0.3 + 0.5 * alpha) if effect in ("observe", "readout") else 0


def _synthetic_answer(
    scoring: str, logp: np.ndarray, full: np.ndarray, target: int, loss: float, private: bool, rng: np.random.Generator
) -> dict[str, Any]:
    generated, lone = scoring == "generated", len(logp) == 1
    unparseable = generated and bool(rng.random() < min(0.9, loss / 8))
    picked = -1 if unparseable else int(logp.argmax())
    others = np.delete(logp, target)
    return {
        "picked": picked,
        "correct": bool(logp[0] > -3.0) and not unparseable if lone else picked == target,
        "unparseable": unparseable,
        "choice_logp": logp.tolist(),
        "target_logp": float(logp[target]),
        "margin": math.nan if lone else float(logp[target] - others.max()),
        "target_tokens": 3 if lone else 1,
        "kl_to_full": float(np.abs(logp - full).mean()),
        "agrees": picked == int(full.argmax()),
        "n_tokens": 6 if generated else 0,
        "text": f"The answer is {picked}." if generated and not private else "",
    }


def _synthetic_usage(
    scoring: str, effect: str, alpha: float, n_layers: int, tokens: dict[str, int], rng: np.random.Generator
) -> dict[str, Any]:
    """Active counts by layer: layers 0 and 1 always, the middle ever less as alpha grows, late layers again more."""
    depth = np.linspace(0, 1, n_layers)
    rate = np.ones(n_layers)
    if effect != "none":
        rate = np.clip(1.0 - (0.3 + 0.65 * alpha) * np.sin(np.pi * np.clip(depth * 1.1, 0, 1)) ** 0.5, 0.02, 1.0)
        rate[:2] = 1.0
    counts = {"prefill": tokens["n_prefill"], "decode": tokens["n_decode"] if scoring == "generated" else 0, "sink": 1}
    found: dict[str, Any] = {"scored": max(counts["decode"], 1)}
    for phase, n in counts.items():
        active = rng.binomial(n, rate)
        found |= {f"n_{phase}": n, f"active_{phase}": active.tolist()}
        if phase != "sink":
            found[f"exit_{phase}"] = float(rng.uniform(0.93, 0.97) if effect != "none" else 1.0) if n else math.nan
            spared = {"bypass": 1 - active.mean() / n, "readout": 0.04}.get(effect, 0.0) if n else math.nan
            found[f"skippable_{phase}"] = 0.9 * float(spared)
    return found
