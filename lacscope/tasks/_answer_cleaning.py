"""A generated answer without what surrounds its words."""

import re

# Typographic quotes, dashes and signs, as the answers' patterns know them.
_ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2212": "-", "\u00d7": "*"})
_NEXT_QUESTION = re.compile(r"(?<=\S)\s*\n\W*(?:Question|Passage)\b")


def typed(text: str) -> str:
    """Typographic quotes and signs as a keyboard writes them.

    >>> typed("\\u201c\\u22123\\u201d")
    '"-3"'
    """
    return text.translate(_ASCII)


def without_marks(text: str) -> str:
    """Without Markdown's and LaTeX's marks and the templates' own "[Option]", up to the next question it made up.

    >>> without_marks("**Answer:** $\\\\boxed{B}$\\n\\nQuestion: Which one sinks?")
    'Answer: B'
    """
    text = _NEXT_QUESTION.split(typed(text).strip(), maxsplit=1)[0]
    for _ in range(2):  # once for each of \boxed{\text{B}}
        text = re.sub(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?i)\[option\]", " ", re.sub(r"[*`$#]|(?<!\w)_+|_+(?!\w)", "", text)).strip()
