"""The page "architectures": complete, without a wrong or crashed row, and what judging again finds.

A sample in the default suite, all others among the slow tests.
"""

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from lacscope.traces._provenance import installed_versions

pytestmark = pytest.mark.once

DOCS = Path(__file__).parents[2] / "docs"
TABLE = json.loads((DOCS / "architectures.json").read_text())
ROWS: dict[str, dict[str, Any]] = TABLE["kinds"]
SAMPLE = (
    "bamba",
    "bert",
    "bert, bidirectional",
    "bloom, residual after its norm",
    "deepseek_v3",
    "deepseek_v4",
    "falcon, ALiBi",
    "gemma3_text",
    "glm_moe_dsa",
    "gpt2",
    "gpt_bigcode",
    "helium",
    "jamba",
    "llama",
    "mamba",
    "mixtral",
    "openai-gpt",
    "opt",
    "phi",
    "recurrent_gemma",
    "rwkv",
)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("architectures", DOCS.parent / "tools" / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_has_a_row_and_none_is_wrong_or_crashed(script: Any) -> None:
    if TABLE["versions"]["transformers"] == installed_versions()["transformers"]:
        assert list(ROWS) == script.kinds()
    assert {row["outcome"] for row in ROWS.values()} <= set(script.OUTCOMES)
    assert all(row["reason"] for row in ROWS.values() if row["outcome"] != "exact")


def test_the_page_is_the_table(script: Any) -> None:
    assert (DOCS / "architectures.md").read_text() == script.page(TABLE)


def test_refusals_are_sentences() -> None:
    for kind, row in ROWS.items():
        for said in (row.get("reason", ""), *(row.get(column, "") for column in ("decode", "sublayers", "plans"))):
            assert len(said) < 420, kind
            assert "Traceback" not in said


@pytest.mark.parametrize(
    "kind",
    [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.slow) for kind in ROWS],
)
def test_judging_again_finds_the_row(script: Any, kind: str) -> None:
    versions = installed_versions()
    if any(TABLE["versions"][ours] != versions[theirs] for ours, theirs in script.VERSIONS.items()):
        pytest.skip("the table is of other versions")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = script.judge(kind)
    assert (found["outcome"], found.get("class")) == (ROWS[kind]["outcome"], ROWS[kind].get("class"))
    for column in script.COLUMNS:
        assert found.get(column, "").partition(":")[0] == ROWS[kind].get(column, "").partition(":")[0], column
