"""docs/plans.md: its example runs, and its table is what the builders say."""

import re
from pathlib import Path

import torch
from helpers import PROMPTS

import lacscope
from lacscope.plans import Plan
from lacscope.testing import tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope = {"model": tiny_model("llama"), "tokens": torch.tensor([PROMPTS[0]])}
    exec(compile(block, "docs/plans.md", "exec"), scope)
    assert scope["logits"].shape[:2] == (1, len(PROMPTS[0]))
    assert len(scope["frozen"].order) == 2
    assert scope["faster"].shape[1] > len(PROMPTS[0])


def test_the_table_is_what_the_builders_say():
    rows = re.findall(r"^\| `(Plan\.[^`]*)` \| ([0-9].*) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 9
    for made, words in rows:
        if "shuffle" not in made:
            assert eval(made, {"Plan": Plan, "lacscope": lacscope}).describe() == words, made
