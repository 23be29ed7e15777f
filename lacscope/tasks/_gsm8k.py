"""GSM8K: word problems of primary-school arithmetic (Cobbe et al. 2021)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._answers import parse_number
from lacscope.tasks._base import HubSource, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, code_of, id_of, text_of

CSORDAS = "csordas"
INSTRUCTION = "Think step by step. End with a line that has #### and then the answer as a number."


# As Csordás, Manning and Potts's code puts it, which has it of the LM evaluation harness.
_CSORDAS_PROMPT = (
    "Given the following problem, reason and give a final answer to the problem.\nProblem: {question}\n"
    'Your response should end with "The final answer is [answer]" where [answer] is the response to the problem.\n\n'
)


@dataclass(frozen=True)
class Gsm8k:
    """GSM8K's test set: 1,319 problems, asked without examples.

    The one choice is the published solution, scored teacher-forced. A generated answer is right when its number is
    equal. Styles: ``"plain"``, in chat, the solution without its calculator annotations (``<<2*9=18>>``), ending in
    its line ``#### 18``; ``"csordas"``, as Csordás, Manning and Potts (arXiv 2505.13898) and Hu, Zhou and Zhang
    (arXiv 2512.14064) read it: raw text, the annotations kept, ending in ``The final answer is 18``.
    """

    name: ClassVar[str] = "gsm8k"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = None
    styles: ClassVar[tuple[str, ...]] = ("plain", CSORDAS)
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("openai/gsm8k", "main", "test")
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/openai/grade-school-math"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, solution (without its last line), answer (a number), as_given (that, as published)."""
        name = "solution" if "solution" in raw else "answer"
        steps, mark, last = text_of(raw, name).partition("####")
        answer = parse_number(last if mark else code_of(raw, "answer"))
        if answer is None or not steps.strip() or (name == "answer" and not mark):
            raise FieldError(f"field {name!r} is not a solution that ends in '#### ' and a number")
        return {
            "id": id_of(raw, "id"),
            "question": text_of(raw, "question"),
            "solution": steps.rstrip(),
            "answer": answer,
            "as_given": last.strip() if mark else str(raw.get("as_given", answer)),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The problems with an instruction; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str) -> Question:
        if style == CSORDAS:
            prompt = _CSORDAS_PROMPT.format(question=row["question"])
            solution = f"{row['solution']}\nThe final answer is {row['as_given']}"
        else:
            prompt = f"{row['question']}\n{INSTRUCTION}"
            solution = f"{re.sub(r'<<.*?>>', '', row['solution']).rstrip()}\n#### {row['answer']}"
        return Question(sample, row.get("id", ""), prompt, style != CSORDAS, (solution,), 0, row["answer"])

    def parse(self, text: str, question: Question) -> int | str | None:
        """The answer's number, written plainly."""
        return parse_number(text)

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether it is the solution's number."""
        return parsed is not None and parsed == question.answer
