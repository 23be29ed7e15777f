"""The report of a reproduction, as Markdown: what came out, in words that the numbers support."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lacscope.guards._shown import link, markdown
from lacscope.plots._table import PUBLISHED, PUBLISHED_SOURCE, results_table, to_markdown
from lacscope.reproduction._figures import Figures
from lacscope.reproduction._studies import Findings, Study
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA
from lacscope.reproduction.scores._scores import accuracy_by_group
from lacscope.reproduction.scores._verdicts import verdict
from lacscope.tasks._mmlu_subjects import SUBJECT_GROUPS
from lacscope.tasks._registry import TASKS

_SAID_MATCHINGS = ("raw", "position + class + surprisal", "sample + class + surprisal")
_READING = """\
- **Two scores.** *Choice*: the log-probability of each answer after the prompt; no generation. *Generated*: the answer
  that is written, parsed; one that cannot be parsed is wrong and is counted apart.
- **Four numbers that are not one another.** *Usage*: the share of (layer, token) pairs that are not voids. *Exit
  depth*: how deep a token's last active layer is. *Skippable compute*: what a perfect forecast of the voids could have
  spared, at most. What LAC spares as it runs: nothing, since it decides after a layer has run.
- **`readout`** (what the published code does) runs every layer and reads the answer after a token's last active one. A
  position whose last layer is active is answered by the full model: with no position that exits early a row is
  *identical by construction*, and shows nothing about skipping. **`bypass`** takes the voids out of the pass.
- **Statistics.** One primary comparison per model and task, fixed beforehand: `readout` at alpha 0.8, choice accuracy,
  against the full model. All other tests are Holm-corrected. Accuracies: 95 % Wilson intervals; differences: paired
  bootstrap over samples (over seeds too for random controls; within subject for MMLU); exact McNemar tests. Where the
  full model's interval holds the best constant answer the task cannot show a loss or a gain: *not testable*.
- **PP / RG** (the paper's words): prompt processing is prefill, response generation is decode. With a causal cache a
  token's stream is the same read in either; a difference of PP and RG is one between tokens.
"""


def render(findings: Findings, figures: Figures, out: Path) -> str:
    """The report's text; ``figures`` are linked relative to ``out``."""
    models = ", ".join(dict.fromkeys(study.model for study in findings.studies))
    sections = [
        f"# Void in Language Models, reproduced: {markdown(models)}",
        "Written by `lacscope reproduce` from the shards under `runs/`. Source of the method: arXiv 2505.14467.",
        "## What was run",
        to_markdown(pd.DataFrame([_setting(study) for study in findings.studies])),
        "## What came out",
        *_verdicts(findings),
        "## Table",
        to_markdown(results_table(findings.summary, findings.comparisons).drop(columns="style")),
        f"The paper's figures, for other models than these. {PUBLISHED_SOURCE}:",
        to_markdown(PUBLISHED),
        "## How to read it",
        _READING,
    ]
    for task, style in findings.benchmarks:
        sections += _benchmark(findings, figures, out, task, style)
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _setting(study: Study) -> dict[str, object]:
    spec = study.spec
    alphas = sorted({c.alpha for c in spec.conditions if c.alpha is not None})
    row: dict[str, object] = {
        "model": spec.model,
        "task": spec.task,
        "prompts": study.style,
        "seed": spec.data_seed,
        "dtype": spec.dtype,
        "weights": spec.quantization or "not said to be quantised",
        "alphas": ", ".join(f"{alpha:g}" for alpha in alphas),
    }
    for name in ("choice", "generated", "controls"):
        row[f"{name} (samples)"] = len(study.stores[name].spec.samples) if name in study.stores else 0
    return row


def _verdicts(findings: Findings) -> Iterator[str]:
    comparisons, null = findings.comparisons, _escaped(findings.null)
    for study in findings.studies:
        here = _escaped(_rows(comparisons, study))
        yield f"### {markdown(study.model)}, {markdown(study.task)} ({markdown(study.style)})"
        yield "\n".join(f"- {sentence}" for sentence in verdict(here, null if len(null) else None))


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """The table, whose names sentences of Markdown can be made of."""
    names = [name for name in ("model", "task", "style") if name in table]
    return table.assign(**{name: table[name].map(markdown) for name in names})


def _rows(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A table's rows of one study."""
    return table[(table[["model", "task", "style"]] == [study.model, study.task, study.style]).all(axis=1)]


def _benchmark(findings: Findings, figures: Figures, out: Path, task: str, style: str) -> Iterator[str]:
    yield f"## {markdown(task)} ({markdown(style)} prompts)"
    if task in TASKS:
        yield f"Source: {TASKS[task].source} ({TASKS[task].licence})."
    yield _image(figures, out, "", task, style, "accuracy")
    yield _image(figures, out, "", task, style, "continuous")
    for study in findings.of(task, style):
        yield f"### {markdown(task)}, {markdown(study.model)}"
        yield from _study(findings, figures, out, study)


def _study(findings: Findings, figures: Figures, out: Path, study: Study) -> Iterator[str]:
    summary = _rows(findings.summary, study)
    own = summary[summary["rule"] == "lac"]
    spent = own[(own["scoring"] == "choice") & own["effect"].isin(("readout", "bypass"))]
    yield "What LAC leaves active in the prompt (choice scoring), and what that could spare:"
    yield to_markdown(_percent(spent, ["effect", "alpha"], ["usage_prefill", "exit_prefill", "skippable_prefill"]))
    readout = summary[summary["effect"] == "readout"]
    if len(readout):
        yield "`readout`: scored positions that exit before the last block, and the answers that have one:"
        yield to_markdown(_early(readout))
    thoughts = _thoughts(study)
    if len(thoughts):
        yield (
            "Generated answers that think before they answer; one that never ends its thought has no answer to parse:"
        )
        yield to_markdown(thoughts)
    if (study.scores["group"] != "").any():
        yield "Accuracy by group of subjects (micro), and the mean over subjects (macro); by subject in `subjects.csv`:"
        yield to_markdown(_groups(study))
    for key in figures:
        if key[:3] == (study.model, study.task, study.style):
            yield _image(figures, out, *key)
    if not study.matched_phases.empty:
        yield _phases_in_words(study.matched_phases)


def _percent(rows: pd.DataFrame, keys: list[str], shares: list[str]) -> pd.DataFrame:
    table = rows[keys].reset_index(drop=True)
    for name in shares:
        table[name.replace("_", " ")] = [f"{100 * value:.1f} %" for value in rows[name]]
    return table


def _early(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows[["scoring", "rule", "alpha", "scored", "early", "n_early"]].reset_index(drop=True)
    table.columns = ["scoring", "rule", "alpha", "positions", "exit early", "answers with one"]
    table["accuracy on those"] = [_share(value) for value in rows["accuracy_early"]]
    table["full model on those"] = [_share(value) for value in rows["accuracy_early_full"]]
    kl = ["n/a" if pd.isna(value) else f"{value:.3g}" for value in rows["kl_early"]]
    table["KL at the prompt's end, on those (median, nats)"] = kl
    return table.drop(columns="scoring") if rows["scoring"].nunique() == 1 else table


def _thoughts(study: Study) -> pd.DataFrame:
    """How many answers of each condition think; no row where none does, as in shards older than the column."""
    scores = study.scores
    generated = scores[scores["scoring"] == "generated"]
    if "thought" not in scores or not generated["thought"].isin(("closed", "open")).any():
        return pd.DataFrame()
    # The full model has no alpha, which a group of its own stands for.
    parts = generated.groupby(["effect", "rule", "alpha"], dropna=False, sort=False)["thought"]
    counted = [
        {
            "condition": _condition({"effect": effect, "alpha": alpha}),
            "rule": rule,
            "answers": len(part),
            "think": int(part.isin(("closed", "open")).sum()),
            "never end the thought": int((part == "open").sum()),
        }
        for (effect, rule, alpha), part in parts
    ]
    return pd.DataFrame(counted)


def _groups(study: Study) -> pd.DataFrame:
    choice = study.scores[(study.scores["scoring"] == "choice") & study.scores["rule"].isin(("full", "lac"))]
    choice = choice[choice["effect"] != "observe"]
    names = SUBJECT_GROUPS if set(choice["group"]) <= set(SUBJECT_GROUPS) else None
    found = accuracy_by_group(choice, names)
    found["condition"] = [_condition(row) for row in found.to_dict("records")]
    table = found.pivot(index="condition", columns="group", values="accuracy")
    means = choice.assign(condition=[_condition(row) for row in choice[["effect", "alpha"]].to_dict("records")])
    macro = means.groupby(["condition", "group"])["correct"].mean().groupby("condition").mean()
    table["macro"], table["micro"] = macro, means.groupby("condition")["correct"].mean()
    shown = table.map(lambda share: f"{100 * share:.1f} %").reset_index()
    return shown.rename_axis(None, axis=1)


def _condition(row: Mapping[str, Any]) -> str:
    return "full model" if row["effect"] == "none" else f"{row['effect']}, alpha {row['alpha']:g}"


def _share(value: float) -> str:
    return "identical by construction" if pd.isna(value) else f"{100 * value:.1f} %"


def _phases_in_words(matched: pd.DataFrame) -> str:
    alpha = matched["alpha"].iloc[(matched["alpha"] - PRIMARY_ALPHA).abs().argmin()]
    rows = matched[matched["alpha"] == alpha].set_index("matched_on")
    words = []
    for kind in _SAID_MATCHINGS:
        row = rows.loc[kind]
        if pd.isna(row["difference"]):
            words.append(f"{kind}: no decode token has a partner")
        else:
            interval = "" if pd.isna(row["low"]) else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            words.append(
                f"{kind}: {100 * row['difference']:+.1f} points{interval}, {100 * row['coverage']:.0f} % of the decode "
                "tokens have a partner"
            )
    return f"Usage in decode less that in prefill at alpha {alpha:g}. " + "; ".join(words) + "."


def _image(figures: Figures, out: Path, model: str, task: str, style: str, name: str) -> str:
    path = figures[model, task, style, name]
    return f"![{markdown(f'{task} {model} {name}')}]({link(path.relative_to(out).as_posix())})"
