"""Prompts shared by several tasks. Those of "paper" are verbatim, with all their indentation.

The two ``PAPER_`` templates are copied from ``eval.py`` (``format_boolq_prompt`` and ``format_prompt``, the
latter for MMLU and GPQA alike) of https://github.com/manishemirani/void_in_language_models at commit
3e2e83047052db6f98f656ebe373bf4cbb21fb29, the published code of "Void in Language Models" (arXiv 2505.14467).
MIT License, Copyright (c) 2025 manishemirani.
"""

from collections.abc import Sequence

from lacscope.tasks._letters import lettered

# "Options:" before the question is theirs, and so is the missing indentation of options B to D.
PAPER_BOOLEAN = """
    Respond to the given question based on the passage with True or False.
    Passage:
    {passage}

    Options:
    {question}

    Output Format:
    [True/False]
    """
PAPER_OPTIONS = """
    Question:
    {question}

    Options:
    {options}

    Output format:
    [Option]

    """
PLAIN_BOOLEAN = "{passage}\n\nQuestion: {question}\nAnswer with yes or no."
PLAIN_OPTIONS = "{question}\n{options}\nAnswer with the letter of the right option."


def paper_boolean(passage: str, question: str) -> str:
    """The paper's BoolQ prompt."""
    return PAPER_BOOLEAN.format(passage=passage, question=question)


def paper_options(question: str, options: Sequence[str]) -> str:
    """The paper's MMLU and GPQA prompt."""
    return PAPER_OPTIONS.format(question=question, options=lettered(options))


def plain_boolean(passage: str, question: str) -> str:
    """A yes/no question about a passage, as a user would put it.

    >>> plain_boolean("Ice floats.", "Does ice float?")
    'Ice floats.\\n\\nQuestion: Does ice float?\\nAnswer with yes or no.'
    """
    return PLAIN_BOOLEAN.format(passage=passage, question=question)


def plain_options(question: str, options: Sequence[str]) -> str:
    """A question with lettered options, as a user would put it (the pocket set's wording).

    >>> plain_options("Which floats?", ["ice", "lead"])
    'Which floats?\\nA. ice\\nB. lead\\nAnswer with the letter of the right option.'
    """
    return PLAIN_OPTIONS.format(question=question, options=lettered(options))
