"""Measure every number of ``replication_notes.md``; writes ``replication_notes.json`` in docs/.

    python tools/replication_notes.py                                # the packaged pocket sets, some minutes
    python tools/replication_notes.py --sets boolq mmlu --data boolq=FILE mmlu=FILE --limit 60

A set that is measured again replaces its own numbers in the JSON and leaves the others. No text of a data set is
written. Everything is greedy and on the demo model; nothing needs the network.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import xarray as xr

import lacscope
from lacscope.models._loading import DEMO_MODEL
from lacscope.models.adapters import adapt
from lacscope.reproduction.controls import median_norm_curve, norm_null
from lacscope.reproduction.scores._norm_null import profile_left_over
from lacscope.reproduction.sweep._reduce import early_exits, scored_positions
from lacscope.rules import FixedLayers, L2AdaptiveComputation
from lacscope.tasks._base import Task
from lacscope.tasks._data import read_rows
from lacscope.tasks._gpqa import Gpqa
from lacscope.tasks._registry import task
from lacscope.tasks._selection import choose
from lacscope.trace_analyses._effects import next_token_shift
from lacscope.traces._provenance import installed_versions
from lacscope.tracing._questions import ReadQuestion, digest, read_questions

DOCS = Path(__file__).parents[1] / "docs"
POCKET = ("pocket_boolean", "pocket_options")
ALPHAS = (0.0, 0.1, 0.5, 0.8)
EFFECT_ALPHAS = (0.1, 0.8)
MAX_NEW_TOKENS = 24
PUBLISHED_STEPS = 50  # decode steps of the published evaluation
PUBLISHED_BATCH = 8  # its default is 1; pads and rows that end apart need more
BATCHED_QUESTIONS = 24
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One set: its questions as read, and the traces that several notes share.

    ``readouts`` holds the full model (rule ``FixedLayers(())``: a readout without voids) and the two readouts,
    which one prefill serves; ``full`` is its first.
    """

    model: Any
    task: Task
    read: list[ReadQuestion]
    full: xr.Dataset
    readouts: xr.Dataset

    @property
    def prompts(self) -> list[list[int]]:
        return [list(one.prompt) for one in self.read]


def measure(model: Any, in_bf16: Any, name: str, data: Path | None, limit: int | None) -> Numbers:
    """All notes of one set."""
    benchmark = task(name)
    rows = read_rows(benchmark, data)
    chosen = [rows[place] for place in choose(rows, limit, seed=0, group=benchmark.group_by)]
    read = read_questions(adapt(model), benchmark.questions(chosen, "paper", seed=0))
    rules = [FixedLayers(()), *map(L2AdaptiveComputation, EFFECT_ALPHAS)]
    prompts = [list(one.prompt) for one in read]
    readouts = lacscope.trace(
        model, prompts, rule=rules, effect="readout", max_new_tokens=MAX_NEW_TOKENS, logits="last"
    )
    shared = Measured(model, benchmark, read, readouts.isel(rule=0, drop=True), readouts)
    found = {
        "n": len(read),
        "prompt_tokens": sum(map(len, prompts)),
        "decode_tokens": int(_phase(shared.full, "decode").sum()),
        "inputs_sha256": digest(read),
        "retokenised_differ": retokenised(shared),
        "first_token": first_token(shared),
        "usage": usage(shared),
        "effects": effects(shared),
        "bf16": bf16(shared, in_bf16),
    }
    if name in POCKET:
        found |= batched(shared)
    if name == "pocket_options":
        found["order"] = order_of_options(model, chosen)
    return found


def first_token(shared: Measured) -> Numbers:
    """Generated answers, as produced and without their first token, which the published code does not record."""
    found = {}
    for index, name in enumerate(("full", *(f"readout {alpha}" for alpha in EFFECT_ALPHAS))):
        produced = [ids[ids >= 0] for ids in shared.readouts.isel(rule=index)["next_token_id"].values]
        found[name] = {"tokens": _rounded(np.mean([len(ids) for ids in produced]))}
        for kept, start in (("kept", 0), ("dropped", 1)):
            texts = [shared.model.tokenizer.decode(ids[start:].tolist(), skip_special_tokens=True) for ids in produced]
            parsed = [shared.task.parse(text, one.question) for text, one in zip(texts, shared.read, strict=True)]
            right = [shared.task.right(each, one.question) for each, one in zip(parsed, shared.read, strict=True)]
            found[name] |= {
                f"accuracy_{kept}": _rounded(np.mean(right)),
                f"unparseable_{kept}": _rounded(np.mean([each is None for each in parsed])),
                f"empty_{kept}": _rounded(np.mean([not text.strip() for text in texts])),
            }
    return found


def usage(shared: Measured) -> Numbers:
    """Usage beside exit depth, skippable compute, early exits, sinks and the norm-only null."""
    full, found = shared.full, {}
    curve = median_norm_curve(full)
    scored = scored_positions(full)
    for alpha in ALPHAS:
        void = lacscope.voids(full, alpha)
        profile = lacscope.layer_usage(full, void)
        without = lacscope.layer_usage(full, void, sinks="exclude").mean("layer")
        first = (~void).isel(token=0).mean()
        depth, skippable = lacscope.mean_exit_depth(full, void), lacscope.skippable_compute(full, void)
        early = early_exits(void, scored)
        null = (~norm_null(curve, alpha)).astype(float)
        row = {"early_of_scored": _rounded(early.sum() / scored.sum()), "scored": int(scored.sum())}
        row |= {"usage_position_0": _rounded(first)}
        for phase in ("prefill", "decode"):
            own = profile.sel(phase=phase).values
            correlation, left = profile_left_over(own, null)
            row |= {
                f"usage_{phase}": _rounded(own.mean()),
                f"usage_{phase}_no_sinks": _rounded(without.sel(phase=phase)),
                f"exit_depth_{phase}": _rounded(depth.sel(phase=phase)),
                f"skippable_bypass_{phase}": _rounded(skippable.sel(phase=phase, effect="bypass")),
                f"skippable_readout_{phase}": _rounded(skippable.sel(phase=phase, effect="readout")),
                f"null_correlation_{phase}": _rounded(correlation),
                f"null_left_over_{phase}": _rounded(left),
            }
        found[str(alpha)] = row | {"null_usage": _rounded(null.mean())}
    sinks = full["sink"] & full["valid"]
    found["sinks"] = int(sinks.sum())
    found["sinks_not_at_position_0"] = int(sinks.isel(token=slice(1, None)).sum())
    return found


def effects(shared: Measured) -> Numbers:
    """Readout and bypass against the full model, after the prompt: KL, agreement and accuracy by log-probability."""
    found = {"full": {"accuracy": _rounded(np.mean(_right(shared.read, shared.full)))}}
    for index, alpha in enumerate(EFFECT_ALPHAS, start=1):
        runs = {
            "readout": shared.readouts.isel(rule=index, drop=True),
            "bypass": lacscope.trace(
                shared.model, shared.prompts, rule=L2AdaptiveComputation(alpha), effect="bypass", logits="last"
            ),
        }
        for effect, changed in runs.items():
            shift = next_token_shift(shared.full, changed)
            agrees = _picked(shared.read, changed) == _picked(shared.read, shared.full)
            found[f"{effect} {alpha}"] = {
                "kl_median": _rounded(shift["kl"].median()),
                "kl_mean": _rounded(shift["kl"].mean()),
                "same_next_token": _rounded(shift["same_token"].mean()),
                "same_choice": _rounded(np.mean(agrees)),
                "accuracy": _rounded(np.mean(_right(shared.read, changed))),
            }
            if effect == "readout":
                found[f"readout {alpha}"]["exit_early"] = int(_last_prompt_voids(changed).sum())
    return found


def bf16(shared: Measured, in_bf16: Any) -> Numbers:
    """Void entries and exits that differ from the float32 model's on the same tokens.

    ``published``: stream, norms, deltas and thresholds in bfloat16. ``stream``: the stream alone, norms float32, as
    lacscope computes with dtype bfloat16. ``norms``: a float32 stream, the rest in bfloat16.
    """
    full = shared.full
    valid = full["valid"].values
    whole = [row[keep].tolist() for row, keep in zip(full["token_id"].values, valid, strict=True)]
    rounded = lacscope.trace(in_bf16, whole)
    read_there = rounded["valid"].values  # its token dimension ends with its own longest sample
    assert np.array_equal(read_there.sum(-1), valid.sum(-1))
    deltas = {"published": _bf16_deltas(rounded), "norms": _bf16_deltas(full)}
    found: Numbers = {"entries": int(valid.sum()) * full.sizes["layer"], "tokens": int(valid.sum())}
    found["zero_deltas"] = {
        "float32": _rounded((_tokens(full, "delta_norm") == 0).mean()),
        **{name: _rounded((delta == 0).float().mean()) for name, delta in deltas.items()},
    }
    for alpha in ALPHAS:
        exact = _of_tokens(lacscope.voids(full, alpha), valid) == 1
        masks = {name: _bf16_voids(delta, alpha) for name, delta in deltas.items()}
        masks["stream"] = _of_tokens(lacscope.voids(rounded, alpha), read_there) == 1
        found[str(alpha)] = {
            name: {
                "flipped": _rounded((mask != exact).mean()),
                "exit_moved": _rounded((_exits(mask) != _exits(exact)).mean()),
            }
            for name, mask in masks.items()
        }
    return found


def order_of_options(model: Any, rows: Sequence[dict[str, Any]]) -> Numbers:
    """The pocket options in GPQA's fields: accuracy and letters picked with the right option at each place."""
    parts = [
        {
            "sample": row["sample"],
            "id": row["id"],
            "question": row["question"],
            "correct": row["choices"][row["answer"]],
            "incorrect": [text for place, text in enumerate(row["choices"]) if place != row["answer"]],
        }
        for row in rows
    ]
    orders = {f"shuffled, seed {seed}": Gpqa().questions(parts, "paper", seed=seed) for seed in (0, 1)}
    orders["always D"] = Gpqa(shuffle=False).questions(parts, "paper", seed=0)
    for place, letter in enumerate("ABC"):
        moved = []
        for part in parts:
            options = [*part["incorrect"][:place], part["correct"], *part["incorrect"][place:]]
            moved.append({**part, "choices": options, "answer": place})
        orders[f"always {letter}"] = task("pocket_options").questions(moved, "paper", seed=0)
    found = {}
    for name, questions in sorted(orders.items()):
        read = read_questions(adapt(model), questions)
        made = lacscope.trace(model, [list(one.prompt) for one in read], logits="last")
        picked = _picked(read, made)
        found[name] = {"accuracy": _rounded(np.mean(_right(read, made)))}
        found[name] |= {f"picks_{letter}": _rounded((picked == place).mean()) for place, letter in enumerate("ABCD")}
    return found


def batched(shared: Measured) -> Numbers:
    """What the published code does to a batch: pads counted, layer 0's threshold over rows, tokens after EOS."""
    order = sorted(range(len(shared.read)), key=lambda place: shared.read[place].question.sample)[:BATCHED_QUESTIONS]
    pads: dict[str, list[np.ndarray]] = {}
    answers: dict[int, list[int]] = {}
    for places in (order[start : start + PUBLISHED_BATCH] for start in range(0, len(order), PUBLISHED_BATCH)):
        prompts = [shared.prompts[place] for place in places]
        ids, mask = _left_padded(prompts, shared.model.tokenizer.pad_token_id)
        for name, active in _prefill_masks(shared.model, ids, mask):
            pads.setdefault(name, []).append(active)
        answers |= dict(zip(places, _published_answers(shared.model.original_model, ids, mask), strict=True))
    found = {}
    for name, parts in pads.items():
        active = np.concatenate(parts, axis=1)
        found[name] = {"usage": _rounded(active.mean()), "usage_layer_0": _rounded(active[0].mean())}
        found[name]["tokens"] = active.shape[1]
    return {"pads": found, "after_eos": _after_eos(shared, answers)}


def _prefill_masks(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Active entries [layer, counted token] of one left-padded batch at alpha 0.8, counted in four ways."""
    alpha = 0.8
    streams = {f"blocks.{layer}.{point}" for layer in range(adapt(model).n_layers) for point in ("hook_in", "hook_out")}
    with torch.no_grad():
        _, cache = model.run_with_cache(ids, attention_mask=mask, names_filter=lambda name: name in streams)
    every = lacscope.trace_from_cache(cache, ids)  # no mask given: pads count
    active = lacscope.voids(every, alpha).transpose("layer", "sample", "token").values == 0
    over_rows = active.copy()
    delta = every["delta_norm"].transpose("layer", "sample", "token").values[0]
    over_rows[0] = delta >= np.float32(alpha) * (delta.max(axis=0) - delta.min(axis=0))
    real, everything = mask.numpy().astype(bool), np.ones(mask.shape, dtype=bool)
    for name, entries, counted in (
        ("lacscope", active, real),
        ("pads counted", active, everything),
        ("layer 0 over rows", over_rows, real),
        ("both, as published", over_rows, everything),
    ):
        yield name, entries[:, counted]


def _published_answers(plain: Any, ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Greedy tokens of a batch the published way: no mask after the prefill, no row stops before all do."""
    with torch.inference_mode():
        out = plain(input_ids=ids, attention_mask=mask, use_cache=True)
        produced = [out.logits[:, -1].argmax(-1, keepdim=True)]
        for _ in range(PUBLISHED_STEPS):
            out = plain(input_ids=produced[-1], past_key_values=out.past_key_values, use_cache=True)
            produced.append(out.logits[:, -1].argmax(-1, keepdim=True))
            if bool((produced[-1] == plain.generation_config.eos_token_id).all()):
                break
    return torch.cat(produced, dim=1).tolist()


def _after_eos(shared: Measured, answers: dict[int, list[int]]) -> Numbers:
    """Decode usage over the tokens that such a run reads, and over those before each row's first EOS."""
    places, stop = list(answers), adapt(shared.model).stop_ids()
    given = [answers[place][:-1] for place in places]  # the last one is never read
    ends = [next((at for at, token in enumerate(ids) if token in stop), len(ids)) for ids in given]
    made = lacscope.trace(shared.model, [shared.prompts[place] for place in places], responses=given)
    decode = _phase(made, "decode")
    in_answer = decode & (decode.cumsum(-1) <= np.array(ends)[:, None])
    alone = [[int(i) for i in shared.full["next_token_id"].values[place] if i >= 0] for place in places]
    pairs = [(own, answers[place][: len(own)]) for own, place in zip(alone, places, strict=True)]
    found: Numbers = {
        "n": len(places),
        "decode_tokens": int(decode.sum()),
        "before_eos": int(in_answer.sum()),
        "share_after_eos": _rounded(1 - in_answer.sum() / decode.sum()),
        "answer_changed_without_mask": sum(own != other for own, other in pairs),
    }
    for alpha in EFFECT_ALPHAS:
        active = lacscope.voids(made, alpha).transpose("layer", "sample", "token").values == 0
        found[str(alpha)] = {
            "usage_to_eos": _rounded(active[:, in_answer].mean()),
            "usage_with_after_eos": _rounded(active[:, decode].mean()),
        }
    return found


def retokenised(shared: Measured) -> int:
    """Prompts whose ids change when the template's text is tokenised again with special tokens, as published."""
    from transformers import AutoTokenizer

    raw = AutoTokenizer.from_pretrained(shared.model.tokenizer.name_or_path)
    chats = [[{"role": "user", "content": one.question.prompt}] for one in shared.read]
    texts = [raw.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return sum(raw(text)["input_ids"] != list(one.prompt) for text, one in zip(texts, shared.read, strict=True))


def _bf16_deltas(trace: xr.Dataset) -> torch.Tensor:
    """Deltas [layer, token] as the published code takes them: each norm rounded to bfloat16, then subtracted."""
    entering, leaving = _tokens(trace, "resid_pre_norm")[:1], _tokens(trace, "resid_post_norm")
    norms = torch.from_numpy(np.concatenate([entering, leaving])).bfloat16()
    return norms[1:] - norms[:-1]


def _bf16_voids(delta: torch.Tensor, alpha: float) -> np.ndarray:
    spread = torch.zeros_like(delta)
    spread[1:] = (delta.cummax(0).values - delta.cummin(0).values)[:-1]
    return (delta < spread * alpha).numpy()


def _tokens(trace: xr.Dataset, name: str) -> np.ndarray:
    return _of_tokens(trace[name], trace["valid"].values)


def _of_tokens(array: xr.DataArray, valid: np.ndarray) -> np.ndarray:
    """[layer, valid token]."""
    return array.transpose("layer", "sample", "token").values[:, valid]


def _exits(void: np.ndarray) -> np.ndarray:
    return (~void * np.arange(1, len(void) + 1)[:, None]).max(axis=0)


def _phase(trace: xr.Dataset, phase: str) -> np.ndarray:
    return trace["valid"].values & (trace["phase"].values == phase)


def _last_prompt_voids(trace: xr.Dataset) -> np.ndarray:
    """Whether the last layer is a void at each prompt's last token: only then can a readout change its logits."""
    last = _phase(trace, "prefill").sum(-1) - 1
    return trace["void"].transpose("sample", "layer", "token").values[np.arange(len(last)), -1, last] == 1


def _picked(read: Sequence[ReadQuestion], made: xr.Dataset) -> np.ndarray:
    """The likeliest choice; each is one token, so the logits after the prompt rank them."""
    logits = made["logits"].values
    return np.array([int(logits[row, [ids[0] for ids in one.choices]].argmax()) for row, one in enumerate(read)])


def _right(read: Sequence[ReadQuestion], made: xr.Dataset) -> np.ndarray:
    return _picked(read, made) == [one.question.target for one in read]


def _left_padded(prompts: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    return ids, mask


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(POCKET), help="tasks with one-token choices")
    parser.add_argument("--data", nargs="+", default=[], metavar="TASK=FILE", help="local files of sets not packaged")
    parser.add_argument("--limit", type=int, default=None, help="questions of each set, a seeded sample")
    parser.add_argument("--out", type=Path, default=DOCS / "replication_notes.json")
    options = parser.parse_args()
    files = {name: Path(path) for name, path in (each.split("=", 1) for each in options.data)}
    model = lacscope.load_model(DEMO_MODEL, hooks="residual")
    in_bf16 = lacscope.load_model(DEMO_MODEL, hooks="residual", dtype="bfloat16")
    for name in options.sets:
        numbers = measure(model, in_bf16, name, files.get(name), options.limit)
        written = json.loads(options.out.read_text()) if options.out.exists() else {"sets": {}}
        written |= {"model": DEMO_MODEL, "style": "paper", "max_new_tokens": MAX_NEW_TOKENS}
        written["versions"] = installed_versions()
        written["sets"][name] = numbers
        options.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
