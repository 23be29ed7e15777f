"""A task of few words, for the tiny model with its word-level tokenizer. No network, no real benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lacscope.reproduction.sweep._spec import FULL, Condition, SweepSpec
from lacscope.tasks._base import HubSource, Question

WORDS = ("the", "river", "rises", "in", "a", "wood", "is", "it", "deep", "cold")
CHOICES = {
    "single": ("deep", "cold", "wood"),
    "several": ("deep wood", "cold", "the river is cold"),
    "one": ("deep cold wood",),
}


@dataclass(frozen=True)
class ToyTask:
    """Prompts of random words; the answer is whichever choice is its target."""

    kind: str = "single"
    private: bool = False
    name: str = "toy"
    chance: float | None = 1 / 3
    styles: tuple[str, ...] = ("plain",)
    scorings: tuple[str, ...] = ("choice", "generated")
    hub: HubSource | None = None
    licence: str = "none"
    source: str = "none"
    group_by: str | None = None

    def normalise(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        return dict(raw)

    def questions(self, rows: Sequence[Any], style: str, *, seed: int, shots: Sequence[Any] = ()) -> list[Question]:
        return toy_questions(len(rows), self.kind)

    def parse(self, text: str, question: Question) -> int | str | None:
        said = [index for index, choice in enumerate(question.choices) if choice in text]
        return said[0] if said else None

    def right(self, parsed: int | str | None, question: Question) -> bool:
        return parsed == question.target


def toy_questions(n: int, kind: str = "single", chat: bool = False) -> list[Question]:
    rng = np.random.default_rng(0)
    choices = CHOICES[kind]
    made = []
    for sample in range(n):
        prompt = " ".join(rng.choice(WORDS, size=rng.integers(3, 12)))
        target = int(rng.integers(len(choices)))
        made.append(
            Question(sample * 3, f"q{sample}", prompt, chat, choices, target, choices[target], group=f"g{sample % 2}")
        )
    return made


SWEPT = (
    Condition("none", "full"),
    Condition("observe", "lac", 0.0),
    Condition("observe", "lac", 0.8),
    Condition("readout", "lac", 0.0),
    Condition("readout", "lac", 0.8),
    Condition("bypass", "lac", 0.0),
    Condition("bypass", "lac", 0.8),
)


def build_tiny(tokenizer_folder: Path) -> Any:
    """The tiny Llama with the tokenizer of a folder, in a process of its own."""
    from transformers import AutoTokenizer

    from lacscope.models.adapters import build_bridge
    from lacscope.testing import tiny_transformers_model

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    return build_bridge(tiny_transformers_model("llama"), tokenizer, name="tiny-llama", residual_only=True)


LAC = Condition("bypass", "lac", 0.8)


def spec(**changes: Any) -> SweepSpec:
    given: dict[str, Any] = {
        "model": "tiny",
        "weights": "aa",
        "dtype": "float32",
        "device": "cpu",
        "task": "toy",
        "style": "plain",
        "inputs": "bb",
        "samples": (3, 1, 4, 15, 9),
        "scoring": "choice",
        "conditions": (FULL, LAC),
        "shard_size": 2,
        "versions": (("torch", "2"),),
    }
    return SweepSpec(**{**given, **changes})
