"""Option letters."""

from collections.abc import Sequence

LETTERS = "ABCDE"


def letters(n: int) -> tuple[str, ...]:
    """The first ``n`` option letters.

    Raises ValueError for more than five, or fewer than one.

    >>> letters(3)
    ('A', 'B', 'C')
    """
    if not 1 <= n <= len(LETTERS):
        raise ValueError(f"{n} options were given; between 1 and {len(LETTERS)} can be lettered.")
    return tuple(LETTERS[:n])


def lettered(options: Sequence[str]) -> str:
    """The options as lines ``A. first``.

    >>> lettered(["red", "blue"])
    'A. red\\nB. blue'
    """
    return "\n".join(f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True))
