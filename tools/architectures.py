"""Which architectures lacscope reads rightly; writes ``architectures.json`` and ``architectures.md`` in docs/.

    python tools/architectures.py                  # every causal language model that transformers can build tiny
    python tools/architectures.py --kinds gpt2 rwkv

Each is judged on a tiny random model against plain transformers, which knows nothing of lacscope or TransformerLens:
norms are those of ``output_hidden_states``, generated tokens those of reading the whole text again for each, a padded
batch is compared with the shorter prompt alone, and what skips blocks with a model whose blocks are replaced. What is
not exact has to be refused with an ``UnsupportedModelError``: anything else is a fault, and the command says so and
ends with 1.
"""

import argparse
import copy
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import transformers
from tiny_architectures import N_LAYERS, CannotBuildError, build, kinds
from torch import nn

import lacscope
from lacscope.models._checks import check_blocks
from lacscope.models.adapters import build_bridge
from lacscope.traces._provenance import installed_versions

DOCS = Path(__file__).parents[1] / "docs"
PROMPTS = [[5, 17, 60, 9, 33, 71, 8, 20, 44], [44, 3, 90, 51]]
NEW_TOKENS = 4
TOLERANCE = 1e-4
EXACT = "exact"
WITHOUT_EMBEDDING = ("falcon_mamba", "mamba", "mamba2", "rwkv")  # whose hidden states begin after the first block
VERSIONS = {"transformers": "transformers", "transformer_lens": "transformer-lens"}
COLUMNS = ("read", "decode", "padded", "bypass", "readout", "sublayers", "plans")


class WrongError(AssertionError):
    """lacscope gave a number, and plain transformers gives another."""


def judge(kind: str) -> dict[str, Any]:
    """The row of one kind of model.

    Returns:
        ``class``; ``outcome``: "exact", "exact with residual hooks only", "refused", "wrong", "crashed" or "not built";
        ``reason`` for all but the first; and for what is exact, each of ``COLUMNS``.
    """
    try:
        plain = build(kind)
    except CannotBuildError as error:
        return {"outcome": "not built", "reason": str(error)}
    row: dict[str, Any] = {"class": type(plain).__name__}
    residual = _judged(lambda: _judge_bridge(plain, kind, "residual"))
    full = _judged(lambda: _judge_bridge(plain, kind, "full"))
    for hooks in (residual, full):
        if hooks["outcome"] in ("wrong", "crashed"):
            return row | hooks
    if residual["outcome"] == "refused":
        if full["outcome"] == EXACT:
            return row | {"outcome": "wrong", "reason": "exact with all hooks, and refused without"}
        return row | residual
    kept = residual if full["outcome"] == "refused" else full
    only = {} if kept is full else {"outcome": "exact with residual hooks only", "reason": full["reason"]}
    return row | kept | only


def _judged(judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"outcome": EXACT} | judge()
    except lacscope.UnsupportedModelError as error:
        return {"outcome": "refused", "reason": " ".join(str(error).split())}
    except WrongError as error:
        return {"outcome": "wrong", "reason": str(error)}
    except Exception as error:
        return {"outcome": "crashed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _judge_bridge(plain: Any, kind: str, hooks: str) -> dict[str, Any]:
    model = build_bridge(copy.deepcopy(plain), None, name=kind, residual_only=hooks == "residual")
    if hooks == "full":
        check_blocks(model)  # trace would help itself to the lean path
    found = {"read": _judge_reading(plain, model)}
    columns = {
        "decode": _judge_decode,
        "padded": _judge_padding,
        "bypass": _judge_bypass,
        "readout": _judge_readout,
        "sublayers": _judge_sublayers,
        "plans": _judge_plans,
    }
    return found | {name: _column(lambda judge=judge: judge(plain, model)) for name, judge in columns.items()}


def _column(judge: Callable[[], str]) -> str:
    try:
        return judge()
    except (lacscope.UnsupportedModelError, lacscope.PlanError) as error:
        return f"refused: {' '.join(str(error).split())}"


# --- each against plain transformers --------------------------------------------------------------------------


def _judge_reading(plain: Any, model: Any) -> str:
    trace = lacscope.trace(model, PROMPTS[:1], logits="last")
    _same("norms", _norms(trace, 0), _plain_norms(plain, PROMPTS[0]))
    _same("logits", trace.logits.values[0], _last_logits(plain, PROMPTS[0]))
    return EXACT


def _judge_padding(plain: Any, model: Any) -> str:
    trace = lacscope.trace(model, PROMPTS, batch_size=2)
    for sample, prompt in enumerate(PROMPTS):
        _same(
            f"norms of prompt {sample} of a batch", _norms(trace, sample)[:, : len(prompt)], _plain_norms(plain, prompt)
        )
    found = json.loads(trace.attrs["self_check"])
    return EXACT if found["padding"] == "equal" else f"{EXACT}, one prompt at a time"


def _judge_decode(plain: Any, model: Any) -> str:
    trace = lacscope.trace(model, PROMPTS[:1], max_new_tokens=NEW_TOKENS)
    _same_tokens("generated tokens", trace, plain)
    read = PROMPTS[0] + _generated(trace)[:-1]
    _same("norms of generated tokens", _norms(trace, 0), _plain_norms(plain, read))
    return EXACT


def _judge_bypass(plain: Any, model: Any) -> str:
    trace = lacscope.trace(
        model, PROMPTS[:1], rule=lacscope.FixedLayers([1]), effect="bypass", logits="last", max_new_tokens=NEW_TOKENS
    )
    without = _without(plain, {1})
    _same("logits with block 1 bypassed", trace.logits.values[0], _last_logits(without, PROMPTS[0]))
    _same_tokens("tokens with block 1 bypassed", trace, without)
    return EXACT


def _judge_readout(plain: Any, model: Any) -> str:
    exits = [N_LAYERS - 1, N_LAYERS - 2]
    rules = [lacscope.FixedLayers(range(exit_, N_LAYERS)) for exit_ in exits]
    traces = lacscope.trace(model, PROMPTS[:1], rule=rules, effect="readout", logits="last", max_new_tokens=NEW_TOKENS)
    for place, exit_ in enumerate(exits):
        trace, early = traces.isel(rule=place), _without(plain, set(range(exit_, N_LAYERS)))
        _same(f"logits read out after block {exit_ - 1}", trace.logits.values[0], _last_logits(early, PROMPTS[0]))
        _same_tokens(f"tokens read out after block {exit_ - 1}", trace, early)
    return EXACT


def _judge_sublayers(plain: Any, model: Any) -> str:
    if model.get_hook_point("blocks.0.hook_attn_out") is None:
        return "refused: no hook_attn_out; hooks='full' has it where the architecture does"
    rule = lacscope.FixedLayers([1], unit="sublayers")
    trace = lacscope.trace(
        model, PROMPTS[:1], rule=rule, effect="bypass", logits="last", measures=["attn_out_norm", "mlp_out_norm"]
    )
    _same(
        "logits without both sublayers of block 1",
        trace.logits.values[0],
        _last_logits(_without(plain, {1}), PROMPTS[0]),
    )
    return EXACT


def _judge_plans(plain: Any, model: Any) -> str:
    with lacscope.plan(model, lacscope.Plan.skip(N_LAYERS, [1])):
        trace = lacscope.trace(model, PROMPTS[:1], logits="last")
    without = _without(plain, {1})
    _same("logits of a plan that skips block 1", trace.logits.values[0], _last_logits(without, PROMPTS[0]))
    try:
        with lacscope.plan(model, lacscope.Plan.skip(N_LAYERS, [1])):
            trace = lacscope.trace(model, PROMPTS[:1], max_new_tokens=NEW_TOKENS)
    except (lacscope.UnsupportedModelError, lacscope.PlanError) as error:
        return f"{EXACT} without a cache; with one refused: {' '.join(str(error).split())}"
    _same_tokens("tokens of a plan that skips block 1", trace, without)
    return EXACT


# --- plain transformers -----------------------------------------------------------------------------------------


@torch.no_grad()
def _plain_norms(model: Any, ids: list[int]) -> np.ndarray:
    """||h_1|| .. ||h_{L-1}||: [layer, token]. The last hidden state is after the final norm, and left out."""
    states = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
    first = 0 if model.config.model_type in WITHOUT_EMBEDDING else 1
    return torch.stack([state[0].double().norm(dim=-1) for state in states[first:][: N_LAYERS - 1]]).numpy()


def _norms(trace: Any, sample: int) -> np.ndarray:
    return trace.resid_post_norm.values[sample, : N_LAYERS - 1]


@torch.no_grad()
def _last_logits(model: Any, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1].float().numpy()


def _without(plain: Any, blocks: set[int]) -> Any:
    """A copy whose blocks give back the stream that they are given."""
    model = copy.deepcopy(plain)
    layers = _layers(model)
    returns: dict[int, Any] = {}
    handles = [
        layer.register_forward_hook(lambda module, args, output, i=i: returns.__setitem__(i, output))
        for i, layer in enumerate(layers)
    ]
    with torch.no_grad():
        model(torch.tensor([[5, 6]]), use_cache=False)
    for handle in handles:
        handle.remove()
    for block in blocks:
        layers[block].forward = _giving_back(returns[block])  # type: ignore[method-assign]
    return model


def _giving_back(output: Any) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        return (stream, *[None] * (len(output) - 1)) if isinstance(output, tuple) else stream

    return forward


def _layers(model: nn.Module) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == N_LAYERS)


# --- comparing ----------------------------------------------------------------------------------------------------


def _same(what: str, found: np.ndarray, right: np.ndarray) -> None:
    if found.shape != right.shape:
        raise WrongError(f"{what}: {found.shape} values for {right.shape}")
    off = float(np.abs(found - right).max() / np.abs(right).max())
    if not off <= TOLERANCE:
        raise WrongError(f"{what} are off by {off:.1e} of the largest")


def _generated(trace: Any) -> list[int]:
    produced = trace.next_token_id.values[0]
    return [int(i) for i in produced[produced >= 0]]


def _same_tokens(what: str, trace: Any, model: Any) -> None:
    """Each token is the likeliest after those before it, or as likely but for rounding."""
    tokens = _generated(trace)
    if len(tokens) != NEW_TOKENS and tokens[-1] != model.config.eos_token_id:
        raise WrongError(f"{what}: {len(tokens)} of {NEW_TOKENS}")
    for place, token in enumerate(tokens):
        logits = _last_logits(model, PROMPTS[0] + tokens[:place])
        if logits[token] < logits.max() - TOLERANCE * np.abs(logits).max():
            raise WrongError(f"{what}: token {place} is {token} and not {int(logits.argmax())}")


# --- the page -----------------------------------------------------------------------------------------------------

PAGE = """# Architectures

What lacscope does with each causal language model of transformers {transformers}, under TransformerLens
{transformer_lens}. `python tools/architectures.py` makes this page and `architectures.json`; the tests hold the project
to it. Each is a tiny random model of {n_layers} layers, judged against plain transformers alone: norms against
`output_hidden_states`, generated tokens against reading the whole text again, a padded batch against the shorter prompt
alone, bypass, readout and plans against a model with blocks replaced. *Refused* is an `UnsupportedModelError` in words.

{counts}

## Exact

*Sublayers*: attention and MLP measured and bypassed apart (`hooks="full"`). *Plans*: blocks skipped, with a cache and
without.

| kind | decode | padded batch | effects | sublayers | plans |
|---|---|---|---|---|---|
{exact}

## Exact with `hooks="residual"` only

| kind | decode | padded batch | effects | plans | why not with all hooks |
|---|---|---|---|---|---|
{residual}

## Refused

| kind | in these words |
|---|---|
{refused}

## Not built

transformers makes no tiny model of these by itself, so nothing is known of them.

| kind | why |
|---|---|
{unbuilt}
"""


def page(table: dict[str, Any]) -> str:
    """The table as Markdown."""
    rows = table["kinds"]
    chosen = {outcome: {k: r for k, r in rows.items() if r["outcome"] == outcome} for outcome in OUTCOMES}
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in chosen.items())
    return PAGE.format(
        **table["versions"],
        n_layers=N_LAYERS,
        counts=f"{len(rows)} kinds: {counts}.",
        exact=_lines(chosen["exact"], lambda r: [*_cells(r), _short(r["sublayers"]), _short(r["plans"])]),
        residual=_lines(
            chosen["exact with residual hooks only"], lambda r: [*_cells(r), _short(r["plans"]), r["reason"]]
        ),
        refused=_lines(chosen["refused"], lambda r: [r["reason"]]),
        unbuilt=_lines(chosen["not built"], lambda r: [r["reason"]]),
    )


OUTCOMES = ("exact", "exact with residual hooks only", "refused", "not built")


def _cells(row: dict[str, Any]) -> list[str]:
    effects = {_short(row["bypass"]), _short(row["readout"])}
    return [_short(row["decode"]), _short(row["padded"]), effects.pop() if len(effects) == 1 else ", ".join(effects)]


def _short(verdict: str) -> str:
    return verdict.partition(":")[0]


def _lines(rows: dict[str, Any], cells: Callable[[dict[str, Any]], list[str]]) -> str:
    lines = (
        f"| `{kind}` | {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for kind, row in rows.items()
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=None, metavar="KIND", help="judge these again; default: all")
    parser.add_argument("--out", type=Path, default=DOCS / "architectures.json")
    options = parser.parse_args()
    table: dict[str, Any] = {"versions": {}, "kinds": {}}
    if options.kinds is not None and options.out.exists():
        table = json.loads(options.out.read_text())
    chosen = kinds() if options.kinds is None else options.kinds
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    for kind in chosen:
        table["kinds"][kind] = row = judge(kind)
        sys.stdout.write(f"{kind}: {row['outcome']} {row.get('reason', '')}"[:200] + "\n")
        sys.stdout.flush()
    table["versions"] = {ours: installed_versions()[theirs] for ours, theirs in VERSIONS.items()}
    table["kinds"] = dict(sorted(table["kinds"].items()))
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(table))
    faults = [kind for kind, row in table["kinds"].items() if row["outcome"] not in OUTCOMES]
    if faults:
        sys.stdout.write(f"{len(faults)} wrong or crashed: {', '.join(faults)}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
