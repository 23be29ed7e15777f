"""All colours stand in one file."""

import re
from pathlib import Path

import pytest

from lacscope import plots
from lacscope.plots import _looks

pytestmark = pytest.mark.once

COLOUR = re.compile(r"#[0-9A-Fa-f]{6}\b")


def test_no_other_file_of_the_plots_names_a_colour() -> None:
    files = [path for path in Path(plots.__file__).parent.glob("*.py") if COLOUR.search(path.read_text())]
    assert [path.name for path in files] == ["_looks.py"]


def test_lines_and_phases_are_told_apart_without_colour() -> None:
    assert len({(look.linestyle, look.marker) for look in _looks.LINE_LOOKS}) == len(_looks.LINE_LOOKS)
    assert len({(look.linestyle, look.marker, look.hatch) for look in _looks.LOOKS.values()}) == 2
    assert len({(look.linestyle, look.marker) for look in _looks.EFFECT_LOOKS.values()}) == 2
