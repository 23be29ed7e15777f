"""``make bench``: the tables of docs/performance.md, and figures/bench/speed.json, which they are held to."""

import argparse
import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import lacscope
from bench import matrices, memory, plans, speed, sweep, tables
from lacscope.analyze._maps import middle
from lacscope.models._loading import DEMO_MODEL, _locate, _read

SWEEP_LIMITS = {"trace, observe": 6.0, "trace, readout": 5.0}
PLAN_LIMIT = 0.80
MATRIX_LIMITS = {"current tokens": 3 * 60, "future tokens, 4 cuts": 8 * 60}
SECTIONS = ("speed", "memory", "plans", "matrices", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds of each comparison")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="torch threads to measure with")
    parser.add_argument("--batches", type=int, default=4, help=f"rounds of {sweep.BATCH} prompts in the sweep's table")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="which tables")
    options = parser.parse_args()
    console = Console(width=120)

    console.print(f"loading {DEMO_MODEL}: plain transformers (sdpa) twice, residual hooks, full hooks")
    plain, again = (_plain() for _ in range(2))
    lean, full = (lacscope.load_model(DEMO_MODEL, hooks=kind) for kind in ("residual", "full"))

    if "speed" in options.only:
        speed.check_same_answers(plain, full)
        console.print(f"{options.rounds} rounds each; this takes some minutes")
        rows = _speed(plain, again, full, options.threads, options.rounds)
        fixed = {n: speed.fixed_cost(plain, full, n, 3 * options.rounds) for n in options.threads}
        console.print(_speed_table(rows))
        for threads, cost in fixed.items():
            met = "met" if cost <= speed.FIXED_MS else "MISSED"
            console.print(f"fixed cost of a call, {threads} threads: {cost:.1f} ms (limit {speed.FIXED_MS:.0f}: {met})")
        _keep(rows, fixed)
    if "memory" in options.only:
        console.print(_memory_table(memory.table(lean, full)))
    if "plans" in options.only:
        layers = middle(full.cfg.n_layers)
        difference = max(plans.check_same_logits(model, layers) for model in (lean, full))
        # Six runs a round: a third of the rounds takes as long as the table above.
        rounds = max(3, options.rounds // 3)
        savings = [row for n in options.threads for row in plans.compare(plain, lean, full, n, rounds)]
        console.print(_plans_table(savings, layers, difference))
    if "matrices" in options.only:
        rows = [row for n in options.threads for row in matrices.measure(full, n)]
        console.print(_matrices_table(rows))
    if "sweep" in options.only:
        console.print(f"{options.batches} rounds of {sweep.BATCH} prompts; a round takes a minute or more")
        rates = [rate for n in options.threads for rate in sweep.compare(plain, lean, n, options.batches)]
        console.print(_sweep_table(rates))


def _plain() -> Any:
    import torch

    found, _ = _read(_locate(DEMO_MODEL)[0], DEMO_MODEL, {"dtype": torch.float32}, None, False)
    return found.eval()


def _speed(plain: Any, again: Any, model: Any, all_threads: list[int], rounds: int) -> list[speed.Ratio]:
    return [
        row
        for threads in all_threads
        for what, everyone in speed.sides(plain, again, model).items()
        for row in speed.compare(what, threads, everyone, rounds)
    ]


def _keep(rows: list[speed.Ratio], fixed: dict[int, float]) -> None:
    """Write what was measured, on which machine and of which commit."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    said = {
        "machine": {"processor": _processor(), "cards": _cards()},
        "commit": commit,
        "torch": torch.__version__,
        "model": DEMO_MODEL,
        "ratios": [asdict(row) | {"limit": row.limit} for row in rows],
        "fixed_ms": {str(threads): round(cost, 2) for threads, cost in fixed.items()},
    }
    tables.SPEED.parent.mkdir(parents=True, exist_ok=True)
    tables.SPEED.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    names = [line for line in about.read_text().splitlines() if line.startswith("model name")] if about.exists() else []
    return f"{names[0].partition(':')[2].strip()} x {len(names)}" if names else platform.processor()


def _cards() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _speed_table(rows: list[speed.Ratio]) -> Table:
    table = Table(title="time / plain transformers with sdpa (whole calls; median of paired ratios, quartiles)")
    for name in ("what", "side", "threads", "ratio", "quartiles", "limit", "plain, s", "rounds"):
        table.add_column(name)
    for row in rows:
        met = "" if row.limit is None else f"{row.limit:.2f} {'met' if row.median <= row.limit else 'MISSED'}"
        table.add_row(
            row.what,
            row.side,
            str(row.threads),
            f"{row.median:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            met,
            f"{row.plain_seconds:.3f}",
            str(row.rounds),
        )
    return table


def _plans_table(rows: list[plans.Saving], layers: list[int], difference: float) -> Table:
    table = Table(
        title=f"decode time with blocks {layers[0]}-{layers[-1]} skipped by a plan / with all blocks "
        f"({speed.DECODE_STEPS} steps; median of paired ratios, quartiles; logits equal bypass to {difference:.1g})"
    )
    for name in ("what", "threads", "ratio", "quartiles", "limit", "all blocks, s", "rounds"):
        table.add_column(name)
    for row in rows:
        limit = PLAN_LIMIT if row.what.startswith("bridge") else None
        table.add_row(
            row.what if limit else f"{row.what}, blocks deleted",
            str(row.threads),
            f"{row.median:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            f"{limit:.2f} {'met' if row.median <= limit else 'MISSED'}" if limit else "",
            f"{row.full_seconds:.3f}",
            str(row.rounds),
        )
    return table


def _matrices_table(rows: list[matrices.Matrix]) -> Table:
    table = Table(title=f"skip influence of every layer on {matrices.PROMPTS} prompts of {matrices.TOKENS} tokens")
    for name in ("what", "threads", "s", "limit, s"):
        table.add_column(name)
    for row in rows:
        limit = MATRIX_LIMITS[row.what]
        met = "met" if row.seconds <= limit else "MISSED"
        table.add_row(row.what, str(row.threads), f"{row.seconds:.0f}", f"{limit} {met}" if row.threads > 1 else "")
    return table


def _sweep_table(rows: list[sweep.Rate]) -> Table:
    table = Table(
        title=f"samples per second, each answered at {len(sweep.ALPHAS)} alphas, against the published code's way "
        "(one prompt, one alpha at a time; medians and extremes of paired ratios)"
    )
    for name in ("what", "threads", "published, 1/s", "ours, 1/s", "times faster", "extremes", "CPU time", "limit"):
        table.add_column(name)
    for row in rows:
        limit = SWEEP_LIMITS.get(row.what)
        table.add_row(
            row.what,
            str(row.threads),
            f"{row.published:.3f}",
            f"{row.ours:.3f}",
            f"{row.ratio:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.cpu_ratio:.2f}",
            f"{limit:.0f} {'met' if row.ratio >= limit else 'MISSED'}" if limit else "",
        )
    return table


def _memory_table(rows: list[tuple[str, float, float]]) -> Table:
    kept = {what: size for what, size, _ in rows}
    streams = kept["run_with_cache, every resid_post"]
    table = Table(title=f"tensor memory of one pass over {memory.TOKENS} tokens")
    for name in ("what", "kept, MB", "share of all resid_post", "peak, MB"):
        table.add_column(name)
    for what, size, peak in rows:
        table.add_row(what, f"{size:.2f}", f"{100 * size / streams:.2f} %", f"{peak:.1f}")
    return table


if __name__ == "__main__":
    main()
