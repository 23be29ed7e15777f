"""A trace in words: the numbers of the figures as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from lacscope.guards._shown import code, link, markdown, ranges
from lacscope.trace_analyses._depth import mean_exit_depth, skippable_compute
from lacscope.trace_analyses._norms import norm_profile
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._atomic import write_atomically
from lacscope.traces._schema import PHASES, cost_of, rule_of


@dataclass(frozen=True)
class EffectRow:
    """What one effect did, compared with the full model: a line of the report's table."""

    effect: str
    alpha: float
    median_kl: float
    same_token: float
    n_early: int
    n: int
    answer: str


def write_report(
    trace: xr.Dataset,
    voids: xr.DataArray,
    folder: Path,
    figures: Mapping[str, Path],
    *,
    title: str,
    effects: Sequence[EffectRow] = (),
    full_answer: str = "",
) -> Path:
    """Write ``report.md`` beside its figures: what was run, what was found, and what it does not say."""
    alpha = voids.attrs.get("alpha")
    sections = [
        f"# {markdown(title)}",
        _setting(trace),
        "## Norms",
        _image(figures, "norms", folder) + _norms_in_words(trace),
        f"## Usage at alpha = {alpha}",
        _image(figures, "usage", folder) + _usage_in_words(trace, voids),
    ]
    if effects:
        sections += ["## Taking the voids out", _effects_in_words(effects, full_answer)]
    sections += [
        "## Usage against alpha",
        _image(figures, "usage_by_alpha", folder)
        + "Alpha scales the threshold. `alpha = 0` is not the full model: a layer with a falling norm is a void "
        "there. Layers 0 and 1 do not depend on alpha. All alphas come from one trace; no forward pass was added.",
        "## One prompt and its answer",
        _image(figures, "void_map", folder)
        + "Each column is a token as it was *read*; the first token of the answer is produced by the prompt's last "
        "column and read in the first decode column.",
        "## What this does not say",
        _CAVEATS,
    ]
    path = folder / "report.md"
    write_atomically(path, ("\n\n".join(sections) + "\n").encode())
    return path


_CAVEATS = """- Usage is a share of a mask, not of compute. The rule decides after a block has run: by itself it
  saves nothing.
- Prefill and decode do not compute differently: with a causal cache, a token's stream is the same in either
  phase. A difference between them is a difference between their tokens and positions.
- The rule follows the growth of the norm with depth, which the layers share. A profile that looks like that growth
  says little about single layers."""


def _image(figures: Mapping[str, Path], name: str, folder: Path) -> str:
    path = figures.get(name)
    return f"![{name.replace('_', ' ')}]({link(path.relative_to(folder).as_posix())})\n\n" if path else ""


def _percent(value: float | xr.DataArray) -> str:
    return "no tokens" if np.isnan(float(value)) else f"{100 * float(value):.1f} %"


def _setting(trace: xr.Dataset) -> str:
    valid, phase = trace["valid"], trace["phase"]
    counts = ", ".join(f"{int((valid & (phase == name)).sum())} {name}" for name in PHASES)
    versions = json.loads(trace.attrs["versions"])
    dtype = markdown(trace.attrs.get("dtype", "unknown dtype"))
    rows = {
        "model": f"{markdown(trace.attrs['model'])} ({trace.sizes['layer']} layers, {dtype})",
        "effect": code(trace.attrs["effect"]) + (f", rule {code(trace.attrs['rule'])}" if rule_of(trace) else ""),
        "samples": str(trace.sizes["sample"]),
        "tokens read": f"{counts} ({int((valid & trace['sink']).sum())} of them sinks)",
        "weights": markdown(
            f"{trace.attrs.get('quantization', 'not quantised')}; "
            f"processing: {trace.attrs.get('weight_processing', 'unknown')}"
        ),
        "versions": ", ".join(markdown(f"{name} {number}") for name, number in versions.items()),
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _norms_in_words(trace: xr.Dataset) -> str:
    profile = norm_profile(trace)
    norm, delta = profile.sel(quantity="resid_post_norm"), profile.sel(quantity="delta_norm")
    sentences = []
    for phase in PHASES:
        if int(profile["n"].sel(phase=phase)) == 0:
            sentences.append(f"No tokens were read in {phase}.")
            continue
        curve, change = norm["median"].sel(phase=phase), delta["median"].sel(phase=phase)
        falling = [int(layer) for layer in change["layer"].values[change.values < 0]]
        noun = "layer" if len(falling) == 1 else "layers"
        where = f"it falls at {noun} {', '.join(ranges(falling))}" if falling else "it falls at no layer"
        sentences.append(
            f"In {phase} the median norm goes from {float(curve[0]):.0f} after layer 0 to {float(curve[-1]):.0f} after "
            f"the last; {where}."
        )
    share = float(norm["sink_share"].sel(phase="prefill").max())
    layer = int(np.argmax(norm["sink_share"].sel(phase="prefill").fillna(0).values))
    sentences.append(
        f"Sinks (position 0 and massive-activation tokens) make up {_percent(share)} of the plain mean norm in prefill "
        f"at layer {layer}, which is why the curves are medians without them."
    )
    return " ".join(sentences)


def _usage_in_words(trace: xr.Dataset, voids: xr.DataArray) -> str:
    plain = layer_usage(trace, voids).mean("layer")
    without = layer_usage(trace, voids, sinks="exclude").mean("layer")
    depth = mean_exit_depth(trace, voids)
    bound = skippable_compute(trace, voids) if cost_of(trace) is not None else None
    lines = [
        "| phase | tokens | usage | usage without sinks | mean exit depth | skippable, bypass | skippable, readout "
        "| realised saving |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for phase in PHASES:
        bounds = (
            [_percent(bound.sel(phase=phase, effect=effect)) for effect in ("bypass", "readout")]
            if bound is not None
            else ["unknown", "unknown"]
        )
        cells = [
            phase,
            str(int(plain["n"].sel(phase=phase))),
            _percent(plain.sel(phase=phase)),
            _percent(without.sel(phase=phase)),
            _percent(depth.sel(phase=phase)),
            *bounds,
            "0 %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    explanation = (
        "\n\n*Usage* is the share of (layer, token) pairs that are active, pooled over tokens. *Exit depth* is the "
        "last active layer, as a share of the depth: a model can have low usage and still need nearly all its depth. "
        "*Skippable* is the share of FLOPs, head included, that a perfect forecast of the voids could spare: a bound "
        "in hindsight. The rule itself spares nothing, since it runs a block to judge it."
    )
    return "\n".join(lines) + explanation


def _effects_in_words(effects: Sequence[EffectRow], full_answer: str) -> str:
    lines = [
        "| effect | alpha | prompts | last token exits before the last block | median KL to the full model (nats) "
        "| same next token | first prompt's answer |",
        "|---|---|---|---|---|---|---|",
        f"| full model | | {effects[0].n} | | 0 | 100.0 % | {_cell(full_answer)} |",
    ]
    lines += [
        f"| `{row.effect}` | {row.alpha} | {row.n} | {row.n_early} | {row.median_kl:.2f} | {_percent(row.same_token)} "
        f"| {_cell(row.answer)} |"
        for row in effects
    ]
    explanation = (
        "\n\n`readout` runs every block and reads the answer from the stream after the last active one: it is what "
        "the paper's published code does. `bypass` takes the void blocks out of the pass, as the paper's text "
        "describes. They are not the same thing. KL and next token are measured after each prompt's last token; a "
        "readout of a token that is active in the last block is the full model by construction, so only those that "
        "exit before it can differ."
    )
    return "\n".join(lines) + explanation


def _cell(text: str) -> str:
    shown = " ".join(text.split())
    return code(f"{shown[:90]}{'…' if len(shown) > 90 else ''}")
