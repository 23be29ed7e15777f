"""The speed table of docs/performance.md, drawn from figures/bench/speed.json: ``python -m bench.tables``."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SPEED = ROOT / "figures/bench/speed.json"
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- speed: python -m bench.tables -->", "<!-- end of speed -->"


def speed_table(measured: dict[str, Any]) -> str:
    """Ratios by side and number of threads, median (quartiles), with the limit that each was given."""
    rows = measured["ratios"]
    threads = sorted({row["threads"] for row in rows})
    names = list(dict.fromkeys((row["what"], row["side"]) for row in rows))
    lines = [
        "| | " + " | ".join(f"{n} thread{'s' * (n > 1)}" for n in threads) + " | limit |",
        "|---|" + "---|" * (len(threads) + 1),
    ]
    for what, side in names:
        cells = [
            f"{row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            for n in threads
            for row in rows
            if (row["what"], row["side"], row["threads"]) == (what, side, n)
        ]
        limit = next(row["limit"] for row in rows if (row["what"], row["side"]) == (what, side))
        lines.append(f"| {what}, {side} | {' | '.join(cells)} | {'' if limit is None else f'{limit:.2f}'} |")
    fixed = ", ".join(
        f"{cost:.1f} ms with {n} thread{'s' * (int(n) > 1)}" for n, cost in sorted(measured["fixed_ms"].items())
    )
    machine = measured["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"A call of `trace` on 8 tokens takes longer than the plain pass by {fixed} (limit 5 ms).",
            f"Measured on {machine['processor']}, {', '.join(machine['cards']) or 'no GPU'}, "
            f"torch {measured['torch']}, {rows[0]['rounds']} rounds, at commit `{measured['commit'][:7]}`.",
        ]
    )


def written(page: str, measured: dict[str, Any]) -> str:
    """The page with its table drawn anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{speed_table(measured)}\n{END}{after}"


def main() -> None:
    PAGE.write_text(written(PAGE.read_text("utf-8"), json.loads(SPEED.read_text("utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
