"""``lacscope lm-eval`` without a model: what is refused, and what a result looks like as a table."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from lacscope.cli._errors import WithheldError
from lacscope.cli._harness import (
    MissingExtraError,
    lm_eval_command,
    names_private_data,
    score_table,
    usage_lines,
    without_examples,
)
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once


def usage(prefill: float, decode: float | None, early: int) -> dict[str, Any]:
    tokens = {"prefill": 30, "decode": 0 if decode is None else 4}
    return {"tokens": tokens, "usage": {"prefill": prefill, "decode": decode}, "scored": 8, "early": early}


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        "results": {
            "sums": {"alias": "sums", "sample_len": 4, "acc,none": 0.25, "acc_stderr,none": 0.125},
            "words": {"exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A"},
        },
        "lacscope": {
            "model": "tiny",
            "effect": "readout",
            "rule": '{"name": "L2AdaptiveComputation", "alpha": 0.8, "unit": "block"}',
            "usage": {"sums": usage(0.5, None, 0), "words": usage(0.75, 0.125, 3)},
        },
    }


@pytest.fixture
def run() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(lm_eval_command)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_the_table_has_scores_and_usage_side_by_side(results: dict[str, Any]):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(score_table(results))
    lines = console.export_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert "tiny: readout, L2AdaptiveComputation alpha 0.8" in lines[0]
    assert cells == [
        ["sums", "acc", "0.2500", "0.1250", "50.0%", ""],
        ["words", "exact_match (strict)", "0.5000", "", "75.0%", "12.5%"],
    ]


def test_a_score_that_no_exit_can_change_says_so(results: dict[str, Any]):
    assert usage_lines(results) == [
        "sums: 30 prefill, 0 decode tokens read; 0 of 8 scored positions exit before the last block "
        "(identical to the full model by construction).",
        "words: 30 prefill, 4 decode tokens read; 3 of 8 scored positions exit before the last block.",
    ]
    results["lacscope"]["effect"] = "bypass"
    assert "construction" not in usage_lines(results)[0]


def test_solved_examples_of_private_benchmarks_are_left_out():
    own = {"dataset_path": "json", "fewshot_config": {"sampler": "first_n", "samples": [{"question": "zirconium?"}]}}
    configs = {
        "sums": own,
        "leaderboard_gpqa_main": own,
        "renamed": {**own, "dataset_path": "Idavidrein/gpqa"},
        "plain": {"fewshot_config": None},
    }
    written = without_examples({"configs": configs, "results": {}, "samples": {"sums": ["zirconium?"]}})
    assert written["configs"]["sums"] == own
    assert "zirconium" not in json.dumps({name: written["configs"][name] for name in list(configs)[1:]})
    assert written["configs"]["renamed"]["fewshot_config"] == {"sampler": "first_n", "samples": "withheld"}
    assert list(written) == ["configs", "results"]
    assert "zirconium" not in json.dumps(without_examples({"configs": configs}, of_all=True))
    assert configs["renamed"]["fewshot_config"]["samples"] != "withheld"


def test_a_private_data_set_is_known_in_a_task_file_of_any_name(tmp_path: Path):
    assert not names_private_data(None)
    (tmp_path / "deep").mkdir()
    (tmp_path / "own.yaml").write_text("task: own\ninclude: deep/base.yml\n")
    (tmp_path / "notes.txt").write_text("dataset_path: Idavidrein/gpqa\n")
    (tmp_path / "broken.yaml").write_bytes(b"\xff\xfe: [")
    assert not names_private_data(tmp_path)
    (tmp_path / "deep" / "base.yml").write_text("dataset_path: Idavidrein/gpqa\n")
    assert names_private_data(tmp_path)


def test_a_renamed_private_task_is_run_with_nothing_quoted(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    harness = pytest.importorskip("lacscope.harness")

    def fail(*given: Any, **options: Any) -> None:
        raise KeyError("zirconium?")

    monkeypatch.setattr("lacscope.load_model", lambda *given, **options: None)
    monkeypatch.setattr(harness, "find_tasks", lambda *given: None)
    monkeypatch.setattr(harness, "evaluate", fail)
    words = ("m", "--tasks", "own", "--include-path", tmp_path)
    (tmp_path / "own.yaml").write_text("task: own\ndataset_path: json\n")
    assert "zirconium" in str(run(*words).exception)
    (tmp_path / "own.yaml").write_text("task: own\ndataset_path: Idavidrein/gpqa\n")
    error = run(*words).exception
    assert isinstance(error, WithheldError)
    assert "zirconium" not in str(error)


def test_template_options_reach_the_template_or_are_refused(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tiny_with_tokenizer: Any
):
    harness = pytest.importorskip("lacscope.harness")
    given: list[Any] = []
    monkeypatch.setattr("lacscope.load_model", lambda *given, **options: None)
    monkeypatch.setattr(harness, "find_tasks", lambda *given: None)
    monkeypatch.setattr(harness, "evaluate", lambda *words, **options: given.append(options["chat_template_kwargs"]))
    run("m", "--tasks", "t", "--chat", "--chat-template-kwargs", '{"enable_thinking": false}')
    assert given == [{"enable_thinking": False}]
    tokenizer = tiny_with_tokenizer.tokenizer
    chat = [{"role": "user", "content": "the river"}]
    thinking = tokenizer.chat_template + "{% if not enable_thinking %} cold{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", thinking)
    options = {"tokenizer": tokenizer, "chat_template_args": {"enable_thinking": False}}
    assert harness.LacscopeLM(tiny_with_tokenizer, **options).apply_chat_template(chat).endswith("assistant cold")
    options["chat_template_args"] = {"enable_thinkin": False}
    with pytest.raises(InputError, match=r"no option 'enable_thinkin'.*Did you mean 'enable_thinking'"):
        harness.LacscopeLM(tiny_with_tokenizer, **options)


def test_without_the_extra_one_line_says_what_to_install(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = run("m", "--tasks", "t", "--out", tmp_path / "s.json").exception
    assert isinstance(error, MissingExtraError)
    assert str(error) == 'lm-evaluation-harness is not installed: pip install "lacscope[lm-eval]"'


def test_the_library_says_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in [name for name in sys.modules if name.startswith("lacscope.harness")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r'not installed: pip install "lacscope\[lm-eval\]"'):
        importlib.import_module("lacscope.harness")


def test_refused_before_anything_is_loaded(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    old = tmp_path / "s.json"
    old.write_text(json.dumps("old"))
    assert "pass --force to replace it" in str(run("m", "--tasks", "t", "--out", old).exception)
    assert "--out names a folder" in str(run("m", "--tasks", "t", "--out", tmp_path).exception)
    assert "--include-path is no folder" in str(run("m", "--tasks", "t", "--include-path", old).exception)
    template = ("--chat-template-kwargs", '{"enable_thinking": false}')
    assert "--chat-template-kwargs goes with --chat" in str(run("m", "--tasks", "t", *template).exception)
    said = str(run("m", "--tasks", "t", "--chat", "--chat-template-kwargs", "{").exception)
    assert "--chat-template-kwargs is a JSON object" in said
    assert "--tasks names no task" in str(run("m", "--tasks", " ,").exception)
    assert old.read_text() == '"old"'
