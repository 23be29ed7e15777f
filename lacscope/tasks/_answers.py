"""What a generated answer says. Parsing is cautious: an answer that names two options decides nothing.

Every parser gives None for an answer it cannot read; such an answer is counted as wrong, and apart.
An explicit statement ("the answer is B") wins over everything before it. An option that is only ruled out
("not B", "B is wrong") is not named. What stands in a thought (``<think>...</think>``) is no part of the answer.
"""

import re
from collections.abc import Sequence

from lacscope.tasks._answer_cleaning import typed, without_marks
from lacscope.tasks._letters import LETTERS
from lacscope.tasks._thoughts import without_thoughts

# A letter counts when it stands alone; what follows must not make it an article or part of a word ("A good", "X-ray").
_CONNECTIVES = (
    "is|was|because|since|as|for|and|or|but|not|if|would|although|though|rather|instead|over|seems|looks|here"
)
_AFTER = rf"(?![\w'-])(?=\W*$|\s*[^\w\s]|\s*\n|\s+(?:{_CONNECTIVES})\b)"
_OPEN, _CLOSE = r"[\"'(\[{<]*", r"[\"')\]}>.:]*"
_UPPER = rf"(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+)?{_OPEN}\b([A-E]){_AFTER}"
_LOWER = rf"{_OPEN}\b([a-e])(?=[)\].,:;!]*(?:\s|$))(?!\s+\w)"

_NEGATIONS = (
    # "A and C are wrong"
    r"\b[A-E]\b(?:\s*,\s*(?:and\s+|or\s+)?\b[A-E]\b|\s+(?:and|or)\s+\b[A-E]\b)+\s+(?:are|were)\s+(?:all\s+|both\s+)?"
    r"(?:not|wrong|incorrect|false)\b",
    # "B is wrong", "(B) isn't right"; but "B) is not ..." and "B. is not ..." are an option and its text
    r"(?:\([A-E]\)|\b[A-E]\b)\s+(?:is|was|are|can|could|would)(?:\s+be|\s+also|\s+clearly|\s+simply)*"
    r"(?:n't|not|\s+not|\s+wrong|\s+incorrect|\s+false|\s+ruled\s+out|\s+impossible)\b",
    # "not B", "rather than option B", "rule out B"
    r"(?:\b(?:not|neither|nor|never|rather than|instead of|than|except|eliminate|rule[sd]? out|ruling out)|n't)"
    r"\s+(?:be\s+)?(?:the\s+)?(?:option\s+|choice\s+|answer\s+)?[\"'(\[]*[A-E]\b(?![\w'-])",
)
_STATEMENT = (
    r"(?:\b(?:answer|option|choice|response)\b[^.:=\n]{0,60}?(?:\bis\b|\bwould be\b|\bshould be\b|\bmust be\b|:|=|->)"
    r"|\b(?:choose|pick|select|go(?:ing)? with|correct one is)\b)"
    r"[\s:]*(?:the\s+)?(?:option\s+|choice\s+|letter\s+|answer\s+)?:?\s*"
)
_STATED = (
    re.compile(rf"(?i:{_STATEMENT})(?:{_OPEN}\b([A-Z]){_AFTER}|{_LOWER})"),
    re.compile(rf"{_OPEN}\b([A-E])\b{_CLOSE}(?i:\s+is\s+(?:the\s+)?(?:correct|right|best|true|answer)\b)"),
)
_LEAD = re.compile(rf"\s*(?:{_UPPER}|{_LOWER})")
# A label opens a line or a sentence when it names an option; anywhere when it only shows that options are listed.
_LABEL = re.compile(rf"(?m)(?:^|[.!?\n]\s)\s*{_OPEN}([A-E])[)\].:](?=\s|$)")
_LISTED = re.compile(rf"(?:^|\s){_OPEN}([A-E])[)\].:](?=\s+\S)")
_NEXT_LABEL = re.compile(rf"[^\n]*\n\s*{_OPEN}([A-E])[)\].:](?=\s)")
_INLINE = re.compile(
    rf"(?:(?i:\b(?:think|believe|say|guess|is|be|so|therefore|thus|hence|and|or|both|but|either|option|choice|answer))"
    rf"[\s,:]+|[=/,:]\s*|\n\s*|[(\[]){_OPEN}\b([A-E]){_AFTER}"
)
_TOGETHER = re.compile(rf"\s*{_CLOSE}\s*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+)?{_OPEN}\b([A-E])\b")
_REASONS = re.compile(r"(?i)\b(?:because|since|explanation|reasoning|rationale|justification|reason)\b")

_BOOLEAN_ECHO = re.compile(r"(?i)[\[(]?\b(?:true|yes)\s*(?:/|\||\bor\b)\s*(?:false|no)\b[\])]?\??")
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_UNDECIDED = re.compile(
    r"(?i)\b(?:whether|if|neither)\b[^.\n]{0,80}?\b(?:true|false)\b(?:\s+(?:or|nor|and)\s+(?:true|false|not)\b)?"
    r"|\byes,? and no\b"
)
_BOOLEAN_STATED = re.compile(
    r"(?i)\b(?:answer|response|output|conclusion)\b[^.:\n]{0,60}?(?:\bis\b|\bwould be\b|:|=)[\s:]*[\"'(\[]*"
    r"\b(true|false|yes|no)\b(?!\s+(?:and|or)\s+(?:true|false|yes|no)\b)(?!\s+(?:one|evidence|information)\b)"
)
_BOOLEAN_LEAD = re.compile(
    r"(?i)[\s\"'(\[]*\b(?:(true|false|yes)\b(?!\s*(?:and|or|,|/)\s*(?:true|false|yes|no)\b)"
    r"|(no)(?=\W*$|\s*[^\w\s]|\s*\n|\s+(?:it|they|he|she|the|this|that|because|since|as|there|you|we|i)\b)"
    r"(?!\s*(?:and|or|,|/)\s*(?:true|false|yes)\b))"
)

_NUMBER = re.compile(r"(?<![\w.])(-?)\$?\s?(-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_NUMBER_STATED = re.compile(r"(?i)\banswer\s+is\b|\banswer\s*[:=]|\\boxed\s*\{")


def parse_letter(text: str, n_options: int, options: Sequence[str] = ()) -> int | None:
    """Index of the one option that an answer names by its letter, or by its full text where no letter is given.

    Args:
        text: the generated answer.
        n_options: the number of options that there were, 1 to 5; other letters name nothing.
        options: their texts.

    >>> parse_letter("The answer is (C).", 4), parse_letter("A, not B", 4), parse_letter("A or B", 4)
    (2, 0, None)
    >>> parse_letter("It must be the heron.", 2, ["a stone", "the heron"])
    1
    """
    known, text = LETTERS[:n_options], without_thoughts(text)
    plain = without_marks(text)
    for index, option in enumerate(map(without_marks, options)):
        # Its letter and its text ("A Paris", "C. (A) and (B)"): whatever the text is like, it is named.
        if len(option) > 1 and re.fullmatch(rf"{_OPEN}{LETTERS[index]}{_CLOSE}\s+{re.escape(option)}\W*", plain):
            return index
    exact = _whole_option(text, options)
    if exact is not None:
        return exact
    plain = _without_negated(plain)
    statements = [match for each in _STATED for match in each.finditer(plain)]
    if statements:
        stated = max(statements, key=lambda match: match.end())
        said = plain[len(plain[: _start(stated)].rstrip("\"'([{<")) :].split("\n", 1)[0]
        exact = _whole_option(said, options)  # "The answer is I, II and III."
        if exact is not None:
            return exact
        listed = _shares(stated, plain, known) or _opens_a_list(stated, plain, known)
        return None if listed else _index(stated, known)
    for part in (_REASONS.split(plain, maxsplit=1)[0], plain):
        named = _named(part, known)
        labels = {letter for letter in _LISTED.findall(part) if letter in known}
        if len(named) == 1 and labels <= named:
            return known.index(named.pop())
        lead = _LEAD.match(part)
        if lead is not None and named and len(labels) < 2 and not _shares(lead, part, known):
            return _index(lead, known)
        if named:
            return None
    return parse_option(text, options)


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """Index of the one option whose full text stands in an answer, in any case.

    An option whose text is only found inside a longer option's text is not named by it.

    >>> parse_option("A red cell, I think.", ["cell", "red cell", "bone"])
    1
    """
    wanted = [_bare(option) for option in options]
    rest, found = _bare(without_thoughts(text)), []
    for option in sorted(filter(None, set(wanted)), key=lambda option: (-len(option), option)):
        # Not inside a word or a number: 1 is not named by 12, by 1.5 or by -1.
        pattern = rf"(?<![\w.-]){re.escape(option)}(?!\w|[.,]\d)"
        if re.search(pattern, re.sub(rf"\bnot\s+(?:the\s+|an?\s+)?{pattern}", " ", rest)):
            found += [index for index, each in enumerate(wanted) if each == option]
        rest = re.sub(pattern, " ", rest)
    return found[0] if len(found) == 1 else None


def parse_boolean(text: str) -> bool | None:
    """Whether an answer says true (or yes) or false (or no); None where it says neither, or both.

    >>> parse_boolean("False, because it sank."), parse_boolean("**Yes**"), parse_boolean("True/False")
    (False, True, None)
    """
    plain = _BOOLEAN_ECHO.sub(" ", without_marks(without_thoughts(text)))
    plain = re.sub(r"(?i)(?:\bnot|n't)\s+(true|false)\b", lambda found: f" {not _TRUTH[found[1].lower()]}", plain)
    stated = list(_BOOLEAN_STATED.finditer(plain))
    if stated:
        return _TRUTH[stated[-1][1].lower()]
    lead = _BOOLEAN_LEAD.match(plain)
    if lead is not None:
        return _TRUTH[(lead[1] or lead[2]).lower()]
    # "no" inside a sentence denies something else ("there is no evidence"): only the others count here.
    said = {_TRUTH[word.lower()] for word in re.findall(r"(?i)\b(?:true|false|yes)\b", _UNDECIDED.sub(" ", plain))}
    return said.pop() if len(said) == 1 else None


def parse_number(text: str) -> str | None:
    """An answer's number, written plainly: after ``####``, else after "answer is", else the last one.

    Without currency sign, thousands' commas and trailing zeros after the point, so that equal numbers are equal text.

    >>> parse_number("9 at $2 make $1,018.50."), parse_number("#### 18\\n\\nA farmer has 3"), parse_number("?")
    ('1018.5', '18', None)
    """
    text = typed(without_thoughts(text))
    _, mark, rest = text.partition("####")
    if mark and (after := _NUMBER.search(rest)):
        return _plain_number(after)
    stated = list(_NUMBER_STATED.finditer(text))
    if stated:
        line = text[stated[-1].end() :].strip().split("\n", 1)[0]
        found = list(_NUMBER.finditer(line))
        if found:
            # "the answer is 3 + 4 = 7": what follows the first number makes it a sum.
            is_sum = re.match(r"\s*[-+*/=]", line[found[0].end() :]) is not None
            return _plain_number(found[-1] if is_sum else found[0])
    found = list(_NUMBER.finditer(text))
    return _plain_number(found[-1]) if found else None


def first_word(text: str) -> str | None:
    """The first word, without the punctuation around it; None where there is none.

    >>> first_word(' "well-worn," he said')
    'well-worn'
    """
    found = re.search(r"[^\W_]+(?:['-][^\W_]+)*", typed(without_thoughts(text)))
    return found[0] if found else None


def _plain_number(found: re.Match[str]) -> str:
    digits = found[2].replace(",", "")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    digits = digits.lstrip("-").lstrip("0") or "0"
    sign = "-" if "-" in found[0] and digits != "0" else ""
    return sign + (f"0{digits}" if digits.startswith(".") else digits)


def _bare(text: str) -> str:
    return without_marks(text).rstrip(".!").casefold()


def _whole_option(text: str, options: Sequence[str]) -> int | None:
    """Index of the one option that the text is, but for its marks and its end; a lone letter is taken for a letter."""
    found = [index for index, option in enumerate(map(_bare, options)) if len(option) > 1 and option == _bare(text)]
    return found[0] if len(found) == 1 else None


def _without_negated(text: str) -> str:
    for pattern in _NEGATIONS:
        text = re.sub(pattern, " ", text)
    return text


def _start(match: re.Match[str]) -> int:
    return match.start(next(number for number, group in enumerate(match.groups(), 1) if group))


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _index(match: re.Match[str], known: str) -> int | None:
    return known.index(_letter(match)) if _letter(match) in known else None


def _shares(match: re.Match[str], text: str, known: str) -> bool:
    """Whether another letter stands beside it on equal terms ("A or B")."""
    other = _TOGETHER.match(text, match.end())
    return other is not None and other[1] in known and other[1] != _letter(match)


def _named(text: str, known: str) -> set[str]:
    """The letters named in any way."""
    found = [letter for each in (_LABEL, _INLINE) for letter in each.findall(text)]
    lead = _LEAD.match(text)
    if lead is not None:
        found.append(_letter(lead))
    return {letter for letter in found if letter in known}


def _opens_a_list(match: re.Match[str], text: str, known: str) -> bool:
    """Whether the next line goes on with the next letter: "The answer is:\\nA. ...\\nB. ..."."""
    after, own = _NEXT_LABEL.match(text, match.end()), _index(match, known)
    return after is not None and own is not None and after[1] == known[own + 1 : own + 2]
