"""The gallery: a page for each model and task under figures/, each figure with what made it and the lines that draw it.

The pages are written under docs/gallery/ before Sphinx looks for pages, and are not committed.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from lacscope.analyze._catalogue import catalogue

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
TASKS = {"arc_easy": "ARC-Easy", "boolq": "BoolQ", "lambada": "LAMBADA", "mmlu": "MMLU"}
# Which plot draws a result of `lacscope analyze`.
PLOTS = {name: analysis.draw.__name__ for name, analysis in catalogue().items()}
_KINDS = {
    "accuracy": "Accuracy by alpha",
    "continuous": "Distance from the full model by alpha",
    "norms": "Norms by layer",
    "phases": "Decode against prefill",
    "usage": "Usage by layer",
}
_TITLES = {"commands": "Commands that made the data <commands>", "report": "Report of the reproduction <report>"}
# Figures of several panels, which `lacscope analyze` puts together from several plots.
PANELS = {"token-usage": "plot_usage_by_group` and `plot_effects_by_group", "token-phases": "plot_phase_control"}


def pages() -> dict[str, str]:
    """Text of each page of the gallery, by the name of its file."""
    models = sorted({path.parent for path in FIGURES.glob("*/*.nc")})
    written = {"void_map": _void_map()}
    written |= {f"task_{task}": _task(task, name) for task, name in TASKS.items()}
    written |= {f"analysis_{folder.name}": _analysis(folder) for folder in models}
    for page, file in (("commands", "README.md"), ("report", "report.md")):
        written[page] = _copied(file)
    written["index"] = _index(list(written))
    return written


def _index(names: list[str]) -> str:
    return (
        "# Gallery\n\n"
        "Every figure that is committed under `figures/`, with what made it and the lines that draw it again. The "
        "lines are to be run in a checkout of the repository. The last two pages are the commands that made the "
        "data, and the report that `lacscope report` wrote.\n\n```{toctree}\n:maxdepth: 1\n\n"
        + "\n".join(_TITLES.get(name, name) for name in names)
        + "\n```\n"
    )


def _void_map() -> str:
    path = FIGURES / "smollm2-135m-instruct" / "pocket" / "void_map.json"
    made, folder = json.loads(path.read_text()), path.parent.relative_to(ROOT)
    return (
        "# The void map\n\n"
        f"![Void map](../../{folder}/void_map.png)\n\n"
        f"One prompt of {made['model']} and its answer, L2 Adaptive Computation at alpha {made['alpha']}: what "
        "[reading a void map](../void_maps.md) explains. The commands trace the demo model and draw it:\n\n"
        "```bash\nlacscope demo --out runs/demo\n"
        f"lacscope plot runs/demo/trace.nc --out {folder} --sample {made['sample']}\n```\n\n"
        "The other figures of that trace:\n\n"
        + "\n\n".join(f"![{one}](../../{folder}/{one}.png)" for one in ("norms", "usage", "usage_by_alpha"))
        + "\n"
    )


def _task(task: str, name: str) -> str:
    parts = [
        f"# {name}\n\n"
        f"What `lacscope reproduce` scored on {name}. `lacscope report figures` draws all figures of this page from "
        "the score shards; the lines under a figure draw it alone. How usage, norms and controls are to be read stands "
        "in [voids, usage and depth](../concepts/voids.md) and [statistics](../concepts/statistics.md).\n"
    ]
    for path in sorted(FIGURES.glob(f"*/{task}/*.png")):
        made = json.loads(path.with_suffix(".json").read_text())
        model = made.get("model", "")
        heading = ", ".join(words for words in (_words(path.stem), model) if words)
        parts.append(f"## {heading}\n\n![{heading}](../../{path.relative_to(ROOT)})\n")
        parts.append("\n".join(_settings(one) for one in made.get("runs", [made])))
        parts.append(_lines_of_task(task, model, path.stem))
    return "\n".join(parts)


def _lines_of_task(task: str, model: str, kind: str) -> str:
    """The lines that draw a figure of a reproduction; for the two that have no public call, the command."""
    drawn = {"accuracy": "plot_accuracy_by_alpha", "continuous": "plot_continuous_by_alpha"}
    if kind in drawn:
        arguments = "findings.summary, full" if kind == "accuracy" else "findings.summary"
        lines = [f'full = findings.references("{task}", studies[0].style)'] if kind == "accuracy" else []
        return _python(
            "from pathlib import Path",
            "",
            "from lacscope import plots",
            "from lacscope.reproduction import Findings, open_studies",
            "",
            f'studies = [one for one in open_studies(Path("figures")) if one.task == "{task}"]',
            "findings = Findings(studies)",
            *lines,
            "with plots.style():",
            f"    plots.{drawn[kind]}({arguments})",
        )
    study = (
        "from pathlib import Path",
        "",
        "import lacscope",
        "from lacscope import plots",
        "",
        'studies = {(one.model, one.task): one for one in lacscope.open_studies(Path("figures"))}',
        f'study = studies["{model}", "{task}"]',
    )
    if kind == "phases":
        return _python(
            *study,
            "phases = study.matched_phases",
            "with plots.style():",
            '    plots.plot_phase_control(phases[phases["alpha"] == 0.8])',
        )
    if kind.startswith("controls_"):
        _, effect, alpha = kind.split("_")
        return _python(
            *study,
            "table = study.controlled_summary",
            f'at = (table["effect"] == "{effect}") & (table["alpha"] == {alpha})',
            "with plots.style():",
            '    plots.plot_controls(table[at | (table["effect"] == "none")])',
        )
    return "```bash\nlacscope report figures\n```\n"


def _analysis(folder: Path) -> str:
    parts = [
        f"# Analyses of {folder.name}\n\n"
        "Results of `lacscope analyze`, each a netCDF file beside its figure. The commands that made the files stand "
        "in [the list of commands](commands.md).\n"
    ]
    for path in sorted(folder.glob("*.png")):
        made = json.loads(path.with_suffix(".json").read_text())
        inside = path.relative_to(ROOT).as_posix()
        parts.append(f"## {path.stem}\n\n![{path.stem}](../../{inside})\n")
        parts.append(f"`lacscope analyze --what {path.stem}`. {_settings(made)}")
        if path.stem in PANELS:
            parts.append(f"`lacscope analyze` puts this figure together, with `{PANELS[path.stem]}`.\n")
            continue
        parts.append(
            _python(
                "import xarray as xr",
                "",
                "from lacscope import plots",
                "",
                f'result = xr.load_dataset("{inside.removesuffix(".png")}.nc")',
                "with plots.style():",
                f"    plots.{PLOTS[path.stem]}(result)",
            )
        )
    return "\n".join(parts)


def _settings(made: dict[str, Any]) -> str:
    """What made a figure, in a line: model, data, n, quantisation."""
    said = [str(made["model"])]
    said += [str(made[key]) for key in ("data", "quantization") if made.get(key)]
    if made.get("n_samples"):
        said.append(f"n = {made['n_samples']}")
    if made.get("departures"):
        said.append(f"departures from the paper: {made['departures']}")
    return _plain("; ".join(said)) + ".\n"


def _plain(text: str) -> str:
    """Text with no markup in it: names of models and data obey none."""
    return re.sub(r"([\\`*_<>\[\]$|{}])", r"\\\1", text)


def _python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _words(kind: str) -> str:
    """What a figure of a reproduction shows."""
    name, *of = kind.split("_")
    return f"Controls of {of[0]} at alpha {of[1]}" if of else _KINDS[name]


def _copied(file: str) -> str:
    """A page of figures/, its links and images made to hold from docs/gallery/."""
    known = {"README.md": "commands.md", "report.md": "report.md", "index.md": "index.md"}

    def moved(match: re.Match[str]) -> str:
        return f"]({known.get(match[1]) or posixpath.join('../../figures', match[1])})"

    text = (FIGURES / file).read_text()
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", moved, text)


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "gallery"
    folder.mkdir(exist_ok=True)
    wanted = {f"{name}.md": text for name, text in pages().items()}
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
