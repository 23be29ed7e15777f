"""Write ``figures/index.md``: every committed figure by model and task, and the command that made it.

The commands are those of ``figures/README.md``: its indented lines, with what they put in place of ``$NAME``.
"""

import re
import shlex
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from string import Template

FIGURES = Path(__file__).parents[1] / "figures"
REPORT = "lacscope report figures"
_HEAD = f"""# Figures by model and task

Written by `make figures`. Each figure stands under the command that made it or, for what `{REPORT}` draws, under
the command that made its scores; `$DATA` is explained in [README.md](README.md). A JSON beside each figure says what
made it, and beside a result of `lacscope analyze` stands its netCDF.
"""


def commands() -> list[str]:
    """The commands of ``figures/README.md`` in full, but for ``$DATA``."""
    text = "\n".join(re.findall(r"^    (.*)", (FIGURES / "README.md").read_text(), re.MULTILINE))
    known: dict[str, str] = {}
    found = []
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        filled = Template(line.strip()).safe_substitute(known)
        if assigned := re.fullmatch(r'([A-Z_]+)="(.*)"', filled):
            known[assigned[1]] = assigned[2]
        elif filled:
            found.append(filled)
    return found


def figures_of(command: str) -> list[str]:
    """Patterns, inside figures/, of the figures that a command makes, or makes the scores of."""
    words = shlex.split(command)
    given: dict[str, list[str]] = defaultdict(list)
    for name, value in pairwise(words):
        given[name].append(value)
    if "plot" in words:
        return [f"{Path(given['--out'][0]).relative_to('figures')}/*.png"]
    if "reproduce" in words:
        model, task = given["--model"][0].removesuffix(".gguf"), given["--task"][0]
        return [f"{model}/{task}/*.png", f"all-models/{task}/*.png"]
    return [f"{words[2].removesuffix('.gguf')}/{what}.png" for what in given["--what"]] if "analyze" in words else []


def index() -> str:
    """The index's text."""
    made = [
        (command, sorted(path for one in figures_of(command) for path in FIGURES.glob(one))) for command in commands()
    ]
    sections = [_HEAD]
    for folder in sorted({path.relative_to(FIGURES).parts[0] for _, paths in made for path in paths}):
        sections.append(f"## {folder}\n")
        by_paths: dict[tuple[Path, ...], list[str]] = defaultdict(list)
        for command, paths in made:
            if here := tuple(path for path in paths if path.relative_to(FIGURES).parts[0] == folder):
                by_paths[here].append(command)
        for paths, makers in by_paths.items():
            sections.append("\n".join(f"    {command}" for command in makers) + "\n")
            sections.append("\n".join(_line(path) for path in paths) + "\n")
    return "\n".join(sections)


def _line(path: Path) -> str:
    inside = path.relative_to(FIGURES)
    return f"- [{'/'.join(inside.with_suffix('').parts[1:])}]({inside.as_posix()})"


if __name__ == "__main__":
    (FIGURES / "index.md").write_text(index())
