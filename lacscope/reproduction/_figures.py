"""The figures of a reproduction, as PNG files, each beside a JSON of what made it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lacscope import plots
from lacscope.plots._saving import write_figure
from lacscope.reproduction._studies import Findings, Study
from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA
from lacscope.reproduction.scores._scores import usage_by_layer
from lacscope.trace_analyses._norms import norms_by_layer

ALL_MODELS = "all-models"
Figures = dict[tuple[str, str, str, str], Path]


def save_reproduction_figures(findings: Findings, out: Path, dpi: int = 150) -> Figures:
    """Draw every figure into ``out/<model>/<task>/``; what compares models, into ``out/all-models/<task>/``.

    Returns:
        Path of each by (model, task, style, name); the model is "" for a figure with one column per model.
    """
    import matplotlib.pyplot as plt

    paths: Figures = {}
    with plots.style():
        for key, axes, made_by in _drawn(findings):
            model, task, style, name = key
            run = next(one.folder for one in findings.of(task, style) if model in ("", one.model))
            folder = out / (run.parent.name if model else ALL_MODELS) / run.name
            folder.mkdir(parents=True, exist_ok=True)
            first = np.ravel(np.asarray(axes, dtype=object))[0]
            paths[key] = write_figure(first.figure, folder / f"{name}.png", made_by, dpi)
            plt.close(first.figure)
    return paths


def _drawn(findings: Findings) -> Iterator[tuple[tuple[str, str, str, str], Any, dict[str, Any]]]:
    for task, style in findings.benchmarks:
        studies = findings.of(task, style)
        summary = findings.summary[(findings.summary["task"] == task) & (findings.summary["style"] == style)]
        made_by = {"runs": [study.made_by() for study in studies]}
        accuracy = plots.plot_accuracy_by_alpha(summary, findings.references(task, style))
        yield ("", task, style, "accuracy"), accuracy, made_by
        yield ("", task, style, "continuous"), plots.plot_continuous_by_alpha(summary), made_by
        for study in studies:
            for name, axes, more in _of_study(study):
                yield (study.model, task, style, name), axes, {**study.made_by(), **more}


def _of_study(study: Study) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    usage = usage_by_layer(study.scores)
    alphas = usage["alpha"].values
    alpha = float(alphas[np.abs(alphas - PRIMARY_ALPHA).argmin()])
    yield "usage", plots.plot_usage_by_layer(usage.sel(alpha=alpha)), {"alpha": alpha}
    yield "norms", plots.plot_layer_norms(norms_by_layer(study.norms)), {}
    if not study.controlled_summary.empty:
        for effect, alpha in _controlled(study):
            yield f"controls_{effect}_{alpha:g}", plots.plot_controls(_at(study, effect, alpha)), {"alpha": alpha}
    matched = study.matched_phases
    if not matched.empty:
        alpha = float(matched["alpha"].iloc[(matched["alpha"] - PRIMARY_ALPHA).abs().argmin()])
        yield "phases", plots.plot_phase_control(matched[matched["alpha"] == alpha]), {"alpha": alpha}


def _controlled(study: Study) -> list[tuple[str, float]]:
    """Effects and alphas that have controls."""
    found = study.controlled_summary
    controls = found[~found["rule"].isin(("full", "lac"))]
    return [(str(e), float(a)) for e, a in controls[["effect", "alpha"]].drop_duplicates().itertuples(index=False)]


def _at(study: Study, effect: str, alpha: float) -> Any:
    found = study.controlled_summary
    return found[(found["effect"] == "none") | ((found["effect"] == effect) & np.isclose(found["alpha"], alpha))]
