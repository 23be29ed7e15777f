"""The page "replication notes": its tables are the JSON's numbers, its links resolve, and what measured them is right.

A measured table follows a comment ``<!-- measured: path; path; ... -->``, one path into the JSON a row, with ``*`` for
the column's heading.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "replication_notes.md").read_text()
MEASURED = json.loads((DOCS / "replication_notes.json").read_text())
TABLES = re.findall(r"<!-- measured: ([^>]*?)\s-->\n((?:\|[^\n]*\n)+)", PAGE)
SECTIONS = ("first_token", "usage", "effects", "bf16", "pads", "after_eos", "order")


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("replication_notes", DOCS.parent / "tools" / "replication_notes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def at(path: str, column: str) -> Any:
    found = MEASURED
    for step in path.split("/"):
        found = found[column if step == "*" else step]
    return found


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]


def shown(value: float, cell: str) -> str:
    """The value as the cell writes it: in per cent or not, to as many decimals."""
    number = cell.removesuffix(" %").replace(",", "")
    decimals = len(number.partition(".")[2])
    return f"{value * (100 if cell.endswith(' %') else 1):.{decimals}f}" + (" %" if cell.endswith(" %") else "")


@pytest.mark.parametrize(("paths", "table"), TABLES, ids=[paths.split(";")[0].strip() for paths, _ in TABLES])
def test_tables_are_the_measured_numbers(paths: str, table: str):
    heading, _, *rows = table.splitlines()
    rules = [" ".join(path.split()) for path in paths.split(";")]
    assert len(rules) == len(rows)
    for path, row in zip(rules, rows, strict=True):
        assert len(cells(row)) == len(cells(heading))
        for column, cell in zip(cells(heading)[1:], cells(row)[1:], strict=True):
            assert cell.replace(",", "") == shown(at(path, column), cell), (path, column)


def test_every_table_is_measured():
    assert len(TABLES) == len(re.findall(r"^\|---", PAGE, re.MULTILINE)) > len(SECTIONS)


def test_every_note_has_a_table_of_every_set_that_was_measured():
    for section in SECTIONS:
        assert any(f"/{section}/" in paths for paths, _ in TABLES), section
    tables = "".join(paths + table.splitlines()[0] for paths, table in TABLES)
    assert all(name in tables for name in MEASURED["sets"])


def test_links_resolve():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert linked
    assert not [path for path in linked if not (DOCS / path).exists()]


def test_no_text_of_a_data_set_is_kept():
    def texts(found: Any) -> list[str]:
        if isinstance(found, dict):
            return [text for value in found.values() for text in texts(value)]
        return [found] if isinstance(found, str) else []

    for numbers in MEASURED["sets"].values():
        assert texts(numbers) == [numbers["inputs_sha256"]]


def test_with_the_right_option_in_one_place_accuracy_is_how_often_its_letter_is_picked():
    order = MEASURED["sets"]["pocket_options"]["order"]
    for letter in "ABCD":
        assert order[f"always {letter}"]["accuracy"] == order[f"always {letter}"][f"picks_{letter}"]


def test_measured_numbers_obey_their_laws():
    for numbers in MEASURED["sets"].values():
        assert numbers["bf16"]["entries"] == 30 * numbers["bf16"]["tokens"]
        assert numbers["bf16"]["tokens"] == numbers["prompt_tokens"] + numbers["decode_tokens"]
        for alpha in (0.1, 0.8):
            if numbers["effects"][f"readout {alpha}"]["exit_early"] == 0:
                assert numbers["effects"][f"readout {alpha}"]["kl_mean"] == 0
        early = [numbers["usage"][alpha]["early_of_scored"] for alpha in ("0.0", "0.1", "0.5", "0.8")]
        assert early == sorted(early)


def published(norms: torch.Tensor, alpha: float) -> np.ndarray:
    """The published hook's lines, layer by layer, for norms [layer + 1, row, token] in their own number format."""
    deltas = torch.zeros_like(norms[1:])
    active = []
    for layer in range(len(deltas)):
        deltas[layer] = norms[layer + 1] - norms[layer]
        before = deltas[:layer] if layer else deltas[layer]
        threshold = (before.max(0).values - before.min(0).values) * alpha
        active.append(~torch.less(deltas[layer], threshold))
    return torch.stack(active).numpy()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.8])
def test_bf16_voids_are_the_published_ones_of_single_rows(script: Any, alpha: float):
    rounded = (100 + torch.randn(9, 40, generator=torch.Generator().manual_seed(0)).cumsum(0)).bfloat16()
    alone = [published(rounded[:, None, [token]], alpha)[:, 0, 0] for token in range(40)]
    voids = script._bf16_voids(rounded[1:] - rounded[:-1], alpha)
    assert np.array_equal(~voids, np.stack(alone, axis=1))
    assert 0 < voids.mean() < 1


def test_layer_0_over_rows_and_pads_are_counted_as_published(script: Any, tiny: Any):
    ids, mask = script._left_padded([[5, 6, 7, 8, 9, 10], [11, 12, 13]], 0)
    streams = {}

    def keep(stream: torch.Tensor, hook: Any) -> None:
        streams[hook.name] = torch.linalg.vector_norm(stream, dim=-1)

    ends = ["blocks.0.hook_in", *(f"blocks.{layer}.hook_out" for layer in range(4))]
    with torch.no_grad():
        tiny.run_with_hooks(ids, attention_mask=mask, fwd_hooks=[(name, keep) for name in ends])
    wanted = published(torch.stack([streams[name] for name in ends]), 0.8)
    found = dict(script._prefill_masks(tiny, ids, mask))
    assert np.array_equal(found["both, as published"], wanted.reshape(4, -1))
    assert np.array_equal(found["layer 0 over rows"], wanted[:, mask.numpy().astype(bool)])
    assert np.array_equal(found["lacscope"][1:], found["layer 0 over rows"][1:])
    assert found["pads counted"].shape == (4, 12)


def test_exits_are_the_last_active_layers(script: Any):
    void = np.array([[False, True, False], [True, True, False], [True, True, True]])
    assert script._exits(void).tolist() == [1, 0, 2]


@pytest.mark.once
@pytest.mark.slow
def test_the_script_measures_what_the_json_holds(script: Any, demo: Any):
    from lacscope import load_model

    numbers = script.measure(demo, load_model("smollm2-135m-instruct", dtype="bfloat16"), "pocket_options", None, 2)
    committed = MEASURED["sets"]["pocket_options"]
    assert numbers.keys() == committed.keys()
    assert {name: numbers[name].keys() for name in SECTIONS} == {name: committed[name].keys() for name in SECTIONS}
