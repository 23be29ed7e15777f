"""Writes what a folder of runs shows: tables, figures and a report. No model, no torch."""

from pathlib import Path

import pandas as pd

from lacscope.guards._shown import csv
from lacscope.reproduction._figures import save_reproduction_figures
from lacscope.reproduction._report import render
from lacscope.reproduction._studies import Findings, open_studies
from lacscope.reproduction.scores._scores import accuracy_by_group
from lacscope.traces._atomic import write_atomically


def write_reproduction(out: Path) -> Path:
    """Write tables, figures and ``report.md`` of all runs under ``out``, and return the report's path.

    ``scores.parquet`` has one row per sample and condition, ``summary.csv`` one per condition, ``comparisons.csv``
    one per comparison, ``subjects.csv`` one per condition and subject (MMLU), ``phases.csv`` the phase control; the
    figures lie by model and task, each beside a JSON of what made it.

    Raises:
        StoreError: the reasons of :func:`open_studies`.
    """
    findings = Findings(open_studies(out))
    _write_tables(findings, out)
    figures = save_reproduction_figures(findings, out)
    report = out / "report.md"
    write_atomically(report, render(findings, figures, out).encode())
    return report


def _write_tables(findings: Findings, out: Path) -> None:
    phases = [study.matched_phases for study in findings.studies]
    grouped = findings.scores[findings.scores["group"] != ""]
    tables = {
        "summary": findings.summary,
        "comparisons": findings.comparisons,
        "subjects": accuracy_by_group(grouped) if len(grouped) else pd.DataFrame(),
        "phases": pd.concat(phases),
    }
    write_atomically(out / "scores.parquet", findings.scores.to_parquet(None, index=False, compression="zstd"))
    for name, table in tables.items():
        if not table.empty:
            write_atomically(out / f"{name}.csv", csv(table))
