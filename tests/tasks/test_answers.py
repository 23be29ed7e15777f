"""Answers as models really write them, and what the parsers make of each. All texts are invented."""

import pytest

from lacscope.tasks._answers import first_word, parse_boolean, parse_letter, parse_number, parse_option

pytestmark = pytest.mark.once

ORGANELLES = ("Golgi apparatus", "Mitochondrion", "Lysosome", "Ribosome")
ECHO = "A. Golgi apparatus\nB. Mitochondrion\nC. Lysosome\nD. Ribosome"

LETTER_ANSWERS = [
    # a bare letter, in all its dress
    ("B", "B"),
    ("b", "B"),
    ("a", "A"),
    (" B.\n", "B"),
    ("B)", "B"),
    ("b)", "B"),
    ("(B)", "B"),
    ("[B]", "B"),
    ("**B**", "B"),
    ("**B.**", "B"),
    ("`C`", "C"),
    ('"C"', "C"),
    ("“C”", "C"),
    ("$\\boxed{D}$", "D"),
    ("\\boxed{\\text{D}}", "D"),
    ("Option B", "B"),
    ("Option: B", "B"),
    ("[Option B]", "B"),
    ("[Option] B", "B"),
    ("[Option]\nB. Mitochondrion", "B"),
    ("### B", "B"),
    # a letter and its text, or its reasons
    ("B. Mitochondrion", "B"),
    ("B: Mitochondrion", "B"),
    ("B Mitochondrion", "B"),
    ("(B) Mitochondrion", "B"),
    ("**B. Mitochondrion**", "B"),
    ("D. Ribosome\n\nThe correct answer is: D. Ribosome", "D"),
    ("B) because A is wrong", "B"),
    ("B, because A and C are wrong.", "B"),
    ("B. It makes ATP, while option C digests waste.", "B"),
    ("C is right", "C"),
    ("B\n\nExplanation: A. stores, C. digests, D. builds.", "B"),
    # statements
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: (B)**", "B"),
    ("Answer = C", "C"),
    ("The answer is (C).", "C"),
    ("The answer is C", "C"),
    ("The correct answer is **C**.", "C"),
    ("The correct answer is:\n\nB. Mitochondrion", "B"),
    ("The correct answer is option D.", "D"),
    ("The right option is B, since cells need ATP.", "B"),
    ("The answer to the question is C.", "C"),
    ("The answer would be D.", "D"),
    ("I think B", "B"),
    ("I would choose B.", "B"),
    ("I'd go with (D).", "D"),
    ("So it is C.", "C"),
    ("Option C is correct.", "C"),
    ("(A) is the correct answer.", "A"),
    # one option among others that are set aside
    ("A, not B", "A"),
    ("B rather than A", "B"),
    ("It is not A but B.", "B"),
    ("A is wrong, so B.", "B"),
    ("A is incorrect. B isn't it either. The answer is D.", "D"),
    ("A, B and D are wrong. C.", "C"),
    ("At first B looks right, and C too. But the answer is D.", "D"),
    ("The answer is A. Wait, no. The answer is B.", "B"),
    (f"{ECHO}\n\nAnswer: C", "C"),
    # no letter, one option's text
    ("Mitochondrion", "B"),
    ("mitochondrion.", "B"),
    ("It is the mitochondrion.", "B"),
    ("The main site is the lysosome, I believe.", "C"),
    ("A ribosome builds it.", "D"),
    ("A Ribosome", "D"),
    ("The mitochondrion, not the ribosome.", "B"),
    ("The correct answer is B.\n\nQuestion:\nWhat is water?\n\nAnswer: D", "B"),
    ("The best answer, going by the passage, is D.", "D"),
    ("Output format:\n    C", "C"),
    # nothing to be read
    ("", None),
    ("   \n", None),
    ("A or B", None),
    ("A and B", None),
    ("A/B", None),
    ("Both B and C.", None),
    ("The answer is A or B.", None),
    ("The answer could be either A or B.", None),
    ("Either (A) or (C)", None),
    (ECHO, None),
    ("Options:\n" + ECHO, None),
    ("B. Mitochondrion\nC. Lysosome", None),
    ("A. Golgi apparatus B. Mitochondrion C. Lysosome D. Ribosome", None),
    ("The correct option is:\n\n" + ECHO, None),
    ("A good question!", None),
    ("A good question. I cannot tell.", None),
    ("I am not sure.", None),
    ("I", None),
    ("I'm sorry, but I can't help with that.", None),
    ("As an AI language model, I do not have enough information to answer.", None),
    ("None of the above", None),
    ("None of the options is correct.", None),
    ("A is wrong.", None),
    ("The answer is not A.", None),
    ("The answer is E.", None),
    ("The answer is a matter of debate.", None),
    ("Mitochondrion or ribosome", None),
    ("The X-ray shows it.", None),
    ("Cells contain many parts that work together.", None),
    ("[Option]", None),
]


@pytest.mark.parametrize(("text", "letter"), LETTER_ANSWERS, ids=[text[:40] for text, _ in LETTER_ANSWERS])
def test_letters(text: str, letter: str | None) -> None:
    assert parse_letter(text, 4, ORGANELLES) == (None if letter is None else "ABCD".index(letter))


@pytest.mark.parametrize(
    ("text", "options", "index"),
    [
        ("Vitamin C", ("Vitamin A", "Vitamin C", "Iron", "Zinc"), 1),  # its own C names no option
        ("It is found in vitamin C.", (), None),
        ("B cells make them.", (), None),
        ("B cells make them.", ("T cells", "plasma", "B cells", "platelets"), 2),
        ("D", ("C", "D", "E", "F"), 3),  # a bare letter is a letter, also where it is an option's text
        ("red cell", ("cell", "red cell", "bone", "skin"), 1),
        ("The cell and the red cell.", ("cell", "red cell", "bone", "skin"), None),
        ("12", ("1", "2", "12", "21"), 2),
        ("The answer is 12.", ("1", "2", "12", "21"), 2),
        ("It is 1.", ("1", "-1", "1.5", "12"), 0),
        ("It is -1.", ("1", "-1", "1.5", "12"), 1),
        ("It is \u22121.", ("1", "\u22121", "1.5", "12"), 1),
        ("It is 1.5.", ("1", "-1", "1.5", "12"), 2),
        ("x*(y+1)", ("x*y", "x*(y+1)", "y", "x"), 1),
        ("C. (A) and (B).", ("iron", "zinc", "(A) and (B).", "lead"), 2),
        ("B. is not a metal.", ("is a metal.", "is not a metal."), 1),
        ("The answer is I and II.", ("I", "II", "I and II", "none"), 2),
        ("The answer is (A) and (B).", ("iron", "zinc", "(A) and (B).", "lead"), 2),
        ("A Paris", ("Paris", "Rome"), 0),
        ("same", ("same", "same", "other", "more"), None),
        ("C. 5", ("1", "5", "7", "9"), 2),  # letter and text disagree: the letter was asked for
    ],
)
def test_letters_and_texts_that_meet(text: str, options: tuple[str, ...], index: int | None) -> None:
    assert parse_letter(text, 4, options) == index


def test_only_the_letters_there_are_count() -> None:
    assert parse_letter("E", 5) == 4
    assert parse_letter("E", 4) is None
    assert parse_letter("The answer is C.", 2) is None


def test_an_options_text_in_raw_text() -> None:
    assert parse_option(" a small lizard lives here", ("a lizard", "a small lizard")) == 1
    assert parse_option("nothing", ("a lizard", "")) is None


BOOLEAN_ANSWERS = [
    ("True", True),
    ("False", False),
    ("true.", True),
    ("TRUE", True),
    ("[True]", True),
    ("[False]", False),
    ("**False**", False),
    ("**Answer:** True", True),
    ("Answer: False", False),
    ("Yes", True),
    ("No", False),
    ("no.", False),
    ("Yes, it does.", True),
    ("No, it was replaced.", False),
    ("No it was not.", False),
    ("No\n\nThe passage says so.", False),
    ("False, because the passage says it is true of ducks only.", False),
    ("False - the lens was removed.", False),
    ("True. The lens is still there.\n\nTherefore the answer is False.", False),
    ("The answer is True.", True),
    ("The answer to the question is no.", False),
    ("The statement is false.", False),
    ("It is not true.", False),
    ("That isn't true.", False),
    ("It is not false.", True),
    ("Based on the passage, yes, it does.", True),
    ("Output Format:\nTrue", True),
    ("[True/False]\nTrue", True),
    ("[True/False]: False", False),
    ("True or False? True", True),
    ("“False”", False),
    ("Answer: **Yes**", True),
    ("True\n\nQuestion: Is it tall?\nAnswer: False", True),
    ("True/False", None),
    ("[True/False]", None),
    ("True or False", None),
    ("Yes/No", None),
    ("True and False", None),
    ("Yes and no.", None),
    ("It is both true and false.", None),
    ("Neither true nor false.", None),
    ("", None),
    ("No information is given about the lens.", None),
    ("There is no evidence for it.", None),
    ("I cannot determine whether this is true.", None),
    ("It is unclear if that is true or false.", None),
    ("I'm sorry, I can't answer that.", None),
    ("The lighthouse was built in 1871.", None),
    ("Nothing was truly falsified.", None),
]


@pytest.mark.parametrize(("text", "said"), BOOLEAN_ANSWERS, ids=[text[:40] for text, _ in BOOLEAN_ANSWERS])
def test_booleans(text: str, said: bool | None) -> None:
    assert parse_boolean(text) is said


NUMBER_ANSWERS = [
    ("18", "18"),
    ("$18", "18"),
    ("18.", "18"),
    ("18.00", "18"),
    ("18.50", "18.5"),
    ("0018", "18"),
    ("1,234", "1234"),
    ("$1,234,567.", "1234567"),
    (".5", "0.5"),
    ("0.0", "0"),
    ("-0", "0"),
    ("-3", "-3"),
    ("\u22123", "-3"),
    ("-$3", "-3"),
    ("$-3", "-3"),
    ("She has 16 - 3 - 4 = 9 eggs.", "9"),
    ("16-3-4=9", "9"),
    ("She sells 9.\n#### 18", "18"),
    ("9 * 2 = 18\n#### $1,018.00\n", "1018"),
    ("#### 18\n\nQuestion: 3 cows eat 7 bales.", "18"),
    ("The answer is 18 dollars, 9 more than before.", "18"),
    ("The final answer is: $18.", "18"),
    ("**Answer: 18**", "18"),
    ("The answer is $\\boxed{18}$.", "18"),
    ("So \\boxed{18} it is, from 9 eggs.", "18"),
    ("The answer is 9 * 2 = 18.", "18"),
    ("The answer is 7. No: the answer is 18, as 9 are sold.", "18"),
    ("1, 2, 3", "3"),
    ("GPT4 cannot say.", None),
    ("The answer is unclear.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "number"), NUMBER_ANSWERS, ids=[text[:40] for text, _ in NUMBER_ANSWERS])
def test_numbers(text: str, number: str | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (" signs.", "signs"),
        ("signs", "signs"),
        (' "Signs," she said', "Signs"),
        ("\nsigns\nmore", "signs"),
        (" don't know", "don't"),
        (" don\u2019t know", "don't"),
        (" well-worn shoes", "well-worn"),
        ("...", None),
        ("", None),
    ],
)
def test_first_words(text: str, word: str | None) -> None:
    assert first_word(text) == word


def test_there_are_enough_answers() -> None:
    for answers in (LETTER_ANSWERS, BOOLEAN_ANSWERS, NUMBER_ANSWERS):
        assert len({text for text, _ in answers}) == len(answers)
    assert len(LETTER_ANSWERS) >= 60
