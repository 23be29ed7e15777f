"""The pocket set: 96 questions of the project's own writing, packaged, for demos and quick checks.

48 short passages with a yes/no question (24 answers each way; in each, 12 stated and 12 to be inferred) and
48 four-option questions (12 right answers in each place). MIT, like the code. Small models score near chance
on parts of it: it is for seeing that a pipeline works, not for ranking models.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

PocketKind = Literal["yes_no", "multiple_choice"]
POCKET_KINDS: tuple[PocketKind, ...] = ("yes_no", "multiple_choice")
POCKET_LETTERS = "ABCD"


@dataclass(frozen=True)
class PocketItem:
    """One question. ``answer`` is True or False for yes/no, an index into ``choices`` otherwise."""

    id: str
    kind: PocketKind
    question: str
    answer: bool | int
    topic: str
    passage: str = ""
    choices: tuple[str, ...] = ()
    reasoning: str = ""

    @property
    def answer_text(self) -> str:
        """What a right answer begins with: ``"Yes"``, ``"No"`` or a letter."""
        if self.kind == "yes_no":
            return "Yes" if self.answer else "No"
        return POCKET_LETTERS[int(self.answer)]

    def prompt(self) -> str:
        """The question as a user would put it, asking for a short answer."""
        if self.kind == "yes_no":
            return f"{self.passage}\n\nQuestion: {self.question}\nAnswer with Yes or No."
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(POCKET_LETTERS, self.choices, strict=True))
        return f"{self.question}\n{options}\nAnswer with the letter of the right option."

    def chat(self) -> list[dict[str, str]]:
        """The prompt as a chat of one user message."""
        return [{"role": "user", "content": self.prompt()}]


def load_pocket(kind: PocketKind | None = None) -> list[PocketItem]:
    """The packaged questions, all or of one kind, in their fixed order.

    Raises ValueError for an unknown kind.

    >>> len(load_pocket("yes_no")), len(load_pocket())
    (48, 96)
    """
    if kind is not None and kind not in POCKET_KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(map(repr, POCKET_KINDS))}, or None for all.")
    lines = (files("lacscope") / "data" / "pocket.jsonl").read_text(encoding="utf-8").splitlines()
    return [item for item in _parse(lines) if kind in (None, item.kind)]


def _parse(lines: Iterable[str]) -> Iterable[PocketItem]:
    for line in lines:
        fields: dict[str, Any] = json.loads(line)
        yield PocketItem(**{**fields, "choices": tuple(fields.get("choices", ()))})
