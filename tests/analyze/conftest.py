"""Three toy questions, as the analyses of the command line read them."""

import pytest

from lacscope.analyze._prompts import Prompts
from lacscope.models.adapters import adapt
from lacscope.tasks._base import Question
from lacscope.tracing._inputs import read_inputs, read_responses

TEXTS = (
    "the river rises in a wood it is deep is it cold",
    "the wood is cold it is in the deep river is the river deep",
    "it is a deep cold river in a cold wood it rises the wood is deep",
)


@pytest.fixture
def toy(tiny_with_tokenizer) -> Prompts:
    """Of 13 to 17 tokens with their answers, whose kind is the pocket set's: chance is one half."""
    adapter = adapt(tiny_with_tokenizer)
    questions = tuple(Question(i, "", text, False, ("deep", "cold wood"), i % 2, "") for i, text in enumerate(TEXTS))
    answers = read_responses(adapter, [one.choices[one.target] for one in questions], len(questions))
    return Prompts(
        "toy",
        tuple(map(tuple, read_inputs(adapter, list(TEXTS)))),
        tuple(map(tuple, answers)),
        questions,
        ("pocket_boolean",) * len(questions),
    )
