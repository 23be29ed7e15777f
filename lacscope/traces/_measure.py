"""The record of a measure: what it is called, what it reads, how it ranks the layers, and which plot draws it."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from lacscope.guards._arguments import made_by, one_of, text
from lacscope.guards._registry import Registry
from lacscope.traces._provenance import Preset

Needs = Literal["weights", "prompts", "answers", "questions", "choices", "trace", "results"]
Parts = Literal["each", "all", ""]
Important = Literal["larger", "smaller"]
_CUT: dict[str, tuple[Needs, ...]] = {"each": ("prompts",), "all": ("prompts", "weights")}
# Named, not imported: a result of a trace is drawn without torch, so the room without torch is asked first.
_ROOMS = ("lacscope.trace_analyses", "lacscope.model_measures")


@dataclass(frozen=True)
class Ranking:
    """How a measure's result ranks the layers.

    Args:
        variable: the variable of the result, over (sample, layer) or (layer).
        important: the side on which the important layers' values lie: the ``"larger"`` or the ``"smaller"``.
        options: keyword arguments of the measure under which it ranks, where they are not its defaults.
        layer: the variable's dimension of the layers that are ranked.
    """

    variable: str
    important: Important = "larger"
    options: Mapping[str, Any] = field(default_factory=dict)
    layer: str = "layer"

    def __post_init__(self) -> None:
        one_of("important", self.important, get_args(Important))


@dataclass(frozen=True)
class Measure:
    """A measure, and all that others need to know of it. It stands beside its function.

    Args:
        function: a public function that returns a labelled result; its name is the measure's.
        label: the measure's name in figures and tables.
        says: a line that says what it measures.
        plot: the plot of its result: a function, or the name of one of ``lacscope.plots``; ``""`` where there is none.
        needs: the kind of thing that it reads: the ``"weights"`` alone; ``"prompts"``; ``"answers"`` after them;
            ``"questions"`` of a benchmark, or those with several ``"choices"``; a ``"trace"``; the ``"results"`` of
            others.
        parts: the way in which ``lacscope analyze`` cuts its work: ``"each"`` prompt's result is its own, and they are
            joined; ``"all"`` prompts at once; ``""`` where it is not run by that alone.
        rankings: a name for each way in which it ranks the layers, as :func:`lacscope.layer_scores` has them.
        papers: the settings of the papers that it is from.
        group: the heading under which ``lacscope analyze --list`` has it.
        command: the name on the command line and of its files; default: the function's, with hyphens.
        style: the style in which benchmarks' questions are read, of those that have it; ``""`` for the usual one.
        fixed: further things that a stored result's identity rests on.

    Raises:
        ValueError: a field of the wrong kind.

    >>> def steps(model, inputs):
    ...     "One number for each layer."
    >>> Measure(steps, "steps", "how many steps", plot="plot_importance").name
    'steps'
    """

    function: Callable[..., Any]
    label: str
    says: str
    plot: str | Callable[..., Any]
    needs: Needs = "prompts"
    parts: Parts = ""
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    papers: tuple[Preset, ...] = ()
    group: str = "own"
    command: str = ""
    style: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function) or not hasattr(self.function, "__name__"):
            raise ValueError(f"a measure's function is one with a name, got {self.function!r:.80}.")
        for name in ("label", "says", "group", "command", "style"):
            text(name, getattr(self, name))
        if not callable(self.plot) and not isinstance(self.plot, str):
            raise ValueError(
                f"plot is a function, or the name of one of lacscope.plots, got {self.plot!r:.80}: for instance "
                "'plot_importance'."
            )
        one_of("needs", self.needs, get_args(Needs))
        one_of("parts", self.parts, get_args(Parts))
        if self.parts and self.needs not in _CUT.get(self.parts, ()):
            raise ValueError(
                f"parts={self.parts!r} with needs={self.needs!r}: lacscope analyze runs by their record alone measures "
                "of prompts, and of the weights with parts='all'. Give parts='' for one that is not run by that."
            )
        if self.parts and not self.plot:
            raise ValueError(f"parts={self.parts!r} without a plot: lacscope analyze draws what it runs. Give plot=.")
        wrong = [name for name, ranking in self.rankings.items() if not isinstance(ranking, Ranking)]
        if wrong:
            raise ValueError(f"rankings[{wrong[0]!r}] is a Ranking(variable), got {self.rankings[wrong[0]]!r:.80}.")
        object.__setattr__(self, "rankings", MappingProxyType(dict(self.rankings)))
        object.__setattr__(self, "command", self.command or self.name.replace("_", "-"))

    @property
    def name(self) -> str:
        """The function's name, which its results carry as their attribute ``measure``."""
        return self.function.__name__

    def takes(self, **options: Any) -> dict[str, Any]:
        """Those of the options that the function has a keyword for."""
        known = inspect.signature(self.function).parameters
        return {name: value for name, value in options.items() if name in known}


def _shipped() -> Iterator[Measure]:
    for room in _ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.iter_modules(package.__path__, f"{room}."):
            held = vars(importlib.import_module(module.name)).values()
            yield from (record for record in held if isinstance(record, Measure))


MEASURES: Registry[Measure] = Registry("measure", _shipped, name_of=lambda measure: measure.name)


def measure_of(result: Any) -> Measure:
    """The record of the measure that made a result.

    Raises:
        ValueError: a result that does not say which, or one of a measure that nobody has registered here.

    >>> from lacscope.testing import synthetic_trace
    >>> from lacscope.trace_analyses import norm_profile
    >>> measure_of(norm_profile(synthetic_trace())).plot
    'plot_norms'
    """
    name = getattr(result, "attrs", {}).get("measure")
    if not isinstance(name, str):
        raise ValueError(
            f"a {type(result).__name__} without the attribute 'measure' does not say which measure made it: give what "
            "a measure or an analysis of lacscope returned."
        )
    if name not in MEASURES:
        raise ValueError(
            f"the result is of the measure {name!r:.80}, which is not registered here: import the package that has it, "
            "or register it with lacscope.measures.register."
        )
    return MEASURES[name]


def register(measure: Measure) -> Measure:
    """Have a measure of yours enter ``layer_scores``, ``lacscope analyze``, ``plots.plot`` and the table of measures.

    A package does so for all who install it, by an entry point of the group ``lacscope`` that names the module that
    registers.

    Args:
        measure: the record of the measure.

    Returns:
        The record.

    Raises:
        ValueError: what is no record, the name of a measure of lacscope's own, or a ranking's that another has.

    >>> register(block_influence_of_mine)  # doctest: +SKIP
    """
    made_by("measure", measure, Measure, "Measure(function, label, says, plot=...)")
    for other in MEASURES.values():
        taken = sorted(set(measure.rankings) & set(other.rankings)) if other.name != measure.name else []
        if taken:
            raise ValueError(f"{other.name} ranks layers as {taken[0]!r} already: give your ranking another name.")
        if other.command == measure.command and other.name != measure.name:
            raise ValueError(f"{other.name} is {other.command!r} on the command line already: give another command=.")
    return MEASURES.register(measure)


def measures_table() -> str:
    """Every measure as a Markdown table, as it stands in docs/measures.md; those that are registered come last."""
    head = ["measure", "what it is", "reads", "ranks the layers as", "plot", "source"]
    lines = [head, ["---"] * len(head)]
    for measure in MEASURES.values():
        drawn = measure.plot if isinstance(measure.plot, str) else measure.plot.__name__
        lines.append(
            [
                f"`{measure.name}`",
                measure.says,
                f"the {measure.needs}" if measure.needs == "weights" else measure.needs,
                ", ".join(measure.rankings) or "",
                f"`{drawn}`" if drawn else "",
                "; ".join(dict.fromkeys(paper.source for paper in measure.papers)),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
