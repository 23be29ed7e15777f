"""``make bench`` starts, compares like with like, and the documentation says what it measured."""

import json
from pathlib import Path

import pytest

import lacscope

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_the_page_says_what_was_measured() -> None:
    from bench import tables

    measured, page = json.loads(tables.SPEED.read_text("utf-8")), tables.PAGE.read_text("utf-8")
    assert tables.written(page, measured) == page, "draw it anew: python -m bench.tables"


@pytest.mark.slow
def test_both_sides_give_the_same_answers() -> None:
    from bench import __main__ as program
    from bench import speed

    plain, model = program._plain(), lacscope.load_model(program.DEMO_MODEL)
    speed.check_same_answers(plain, model)
    sides = speed.sides(plain, plain, model)
    assert set(speed.LIMITS) <= {(what, side) for what, everyone in sides.items() for side in everyone}
