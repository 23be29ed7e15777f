"""What an analysis of the command line is, and how its work is cut in parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from lacscope.analyze._prompts import Prompts, PromptsError
from lacscope.traces._measure import Measure, Needs
from lacscope.traces._provenance import Progress

AT_ONCE = 2  # prompts of a part, the unit that is written, and done again when cut
_MISSING = {
    "answers": "it needs answers after the prompts: give --task",
    "questions": "it needs questions of a benchmark: give --task",
    "choices": "it needs questions with several choices: give --task arc_easy, or another like it",
}


@dataclass(frozen=True)
class SoFar:
    """What a piece of work is given when it begins: earlier results, and whom to tell of its progress.

    Attributes:
        parts: the results of the pieces before it.
        progress: a function that is told how far the piece is.
        stored: the finished result of another analysis of the same prompts, by its name; None where there is none.
    """

    parts: tuple[xr.Dataset, ...] = ()
    progress: Progress | None = None
    stored: Callable[[str], xr.Dataset | None] = lambda name: None


NOTHING = SoFar()


@runtime_checkable
class Part(Protocol):
    """One piece of work."""

    def __call__(self, so_far: SoFar = NOTHING) -> xr.Dataset: ...


@dataclass(frozen=True)
class Analysis:
    """One entry.

    Attributes:
        name: the name on the command line, and of the files.
        group: its heading in the list, which asks for all under it.
        says: a line that says what it measures.
        needs: the kind of prompts that it reads, as in a measure's record; prompts of any kind do for what reads no
            answers or questions.
        parts: model and prompts to the pieces of work, each of which is written when it is done.
        join: the pieces' results to the whole result.
        draw: the whole result to Axes.
        fewest: the number of prompts that it needs.
        lacks: a function that says in words what else prompts lack for a model; "" where nothing.
        settings: its own settings that change the result; a result made with other ones is made anew.
        style: the style in which questions are read, of tasks that have it: its paper's; "" for the usual one.
    """

    name: str
    group: str
    says: str
    needs: Needs
    parts: Callable[[Any, Prompts], list[Part]]
    join: Callable[[Sequence[xr.Dataset]], xr.Dataset]
    draw: Callable[[xr.Dataset], Any]
    fewest: int = 1
    lacks: Callable[[Any, Prompts], str] = lambda model, prompts: ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    style: str = ""

    @property
    def missing_in_text(self) -> str:
        """What any text lacks for this analysis, in words; "" where nothing."""
        return _MISSING.get(self.needs, "")

    def missing(self, model: Any, prompts: Prompts) -> str:
        """What these prompts lack for this analysis of this model, in words; "" where nothing."""
        if self.needs == "answers" and prompts.responses is None:
            return self.missing_in_text
        if self.needs in ("questions", "choices") and not prompts.questions:
            return self.missing_in_text
        if self.needs == "choices" and min(len(one.choices) for one in prompts.questions) < 2:
            return self.missing_in_text
        if len(prompts) < self.fewest:
            return f"it needs {self.fewest} prompts or more, got {len(prompts)}"
        return self.lacks(model, prompts)

    def check(self, model: Any, prompts: Prompts) -> None:
        """Raise PromptsError where the prompts lack what it needs."""
        if missing := self.missing(model, prompts):
            raise PromptsError(f"{self.name}: {missing}.")


def piece(run: Callable[..., xr.Dataset], *args: Any) -> Part:
    """A piece that needs nothing of those before it, and is done in one go."""

    def one(so_far: SoFar = NOTHING) -> xr.Dataset:
        return run(*args)

    return one


def whole(run: Callable[[Any, Prompts, SoFar], xr.Dataset]) -> Callable[[Any, Prompts], list[Part]]:
    """All in one piece; ``run`` is also given what is known when it begins, with whom to tell how far it is."""

    def parts(model: Any, prompts: Prompts) -> list[Part]:
        def one(so_far: SoFar = NOTHING) -> xr.Dataset:
            return run(model, prompts, so_far)

        return [one]

    return parts


def each(run: Callable[[Any, Prompts, int], xr.Dataset]) -> Callable[[Any, Prompts], list[Part]]:
    """A piece for every few prompts; ``run`` is also told the place of the first."""

    def parts(model: Any, prompts: Prompts) -> list[Part]:
        starts = range(0, len(prompts), AT_ONCE)
        return [piece(run, model, prompts.part(start, start + AT_ONCE), start) for start in starts]

    return parts


def by_prompt(measure: Measure, **settings: Any) -> Callable[[Any, Prompts], list[Part]]:
    """A measure of a few prompts each, told what it has a keyword for: their data, their form, where they are cut."""

    def one(model: Any, own: Prompts, start: int) -> xr.Dataset:
        said = measure.takes(max_tokens=own.max_tokens, data=own.name, prompt_format=own.prompt_format)
        found: xr.Dataset = measure.function(model, own.whole, **said, **settings)
        return found

    return each(one)
