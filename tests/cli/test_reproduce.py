"""``lacscope reproduce`` and ``lacscope report`` as a user types them."""

import dataclasses
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lacscope.cli import _reproduce as cli_reproduce
from lacscope.cli._app import app
from lacscope.cli._reproduce import parse_alphas
from lacscope.reproduction._run_file import Recipe, read_run
from lacscope.reproduction._settings import ReproductionSettings
from lacscope.reproduction._studies import open_studies

sys.path.insert(0, str(Path(__file__).parents[1] / "reproduction" / "sweep"))

pytestmark = pytest.mark.once

SMALL = (
    *("--limit", "6", "--generate-at", "0.8", "--generate-limit", "3", "--max-new-tokens", "3"),
    *("--alphas", "0.1,0.8", "--control-limit", "3", "--control-seeds", "1"),
)


def refused(*words):
    """What the command says of words that it cannot use."""
    result = CliRunner().invoke(app, ["reproduce", *words])
    assert result.exit_code != 0
    return str(result.exception) if result.exception is not None else result.output


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0.8", (0.8,)),
        ("0,0.5,2", (0.0, 0.5, 2.0)),
        ("none", ()),
    ],
)
def test_alphas_as_they_are_typed(text, alphas):
    assert parse_alphas(text) == alphas


NO_ALPHAS = ["nan", "-0.5", "0,inf", "-1:1:0.5", "0:1", "0:1:0", "1:0:0.1", "0:1:1e-9", "a", "0:inf:1", "", "0:1:2:3"]


@pytest.mark.parametrize("text", NO_ALPHAS)
def test_alphas_that_are_none(text):
    with pytest.raises(ValueError, match=r"alphas are FIRST:LAST:STEP, as 0:1:0\.1, or a list"):
        parse_alphas(text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name a --model and a --task, or a --preset or a RUN.toml that has both"),
        (("--preset", "huge"), "unknown preset 'huge'; choose one of 'demo', 'paper'"),
        (("--preset", "demo", "--task", "bool"), "there is no task 'bool'; choose one of boolq, mmlu"),
        (("--preset", "demo", "bypass"), "unexpected argument 'bypass'"),
        (("--preset", "demo", "--effect", "readout", "skip"), "unknown effect 'skip' to reproduce"),
        (("--preset", "demo", "--data", "boolq=x.csv"), "--data is TASK=FILE with a task of this run"),
        (("--preset", "demo", "--data", "pocket_boolean=no.csv"), "there is no file no.csv"),
        (("--preset", "demo", "--control-at", "0.8"), "--control-at is readout=ALPHA or bypass=ALPHA"),
        (("--preset", "demo", "--control-at", "bypass=0.3"), "the controls at alpha 0.3 need the sweep's own"),
        (("--preset", "demo", "--share", "2"), "--share is K/N"),
        (("--preset", "demo", "--style", "palin"), "unknown style 'palin'; choose one of 'paper', 'plain'"),
        (("--preset", "demo", "--alphas", "0:1"), "alphas are FIRST:LAST:STEP"),
        (("nowhere.toml",), "there is no file: 'nowhere.toml'"),
        (("a.toml", "b.toml"), "give one run: a.toml, b.toml."),
        (("a.toml", "--preset", "demo"), "give one run: a.toml or --preset demo."),
        (("a.json",), "unexpected argument 'a.json'; a run's file ends in .toml."),
    ],
)
def test_words_that_cannot_be_used_are_refused_before_a_model_is_loaded(words, text, monkeypatch, unchecked):
    monkeypatch.setattr(
        "lacscope.models._loading.load_model", lambda *given, **options: pytest.fail("a model was loaded")
    )
    assert text in refused(*words)


def test_several_effects_are_typed_one_after_the_other():
    assert cli_reproduce._effects(["readout"], ["bypass"]) == ("readout", "bypass")
    assert cli_reproduce._effects(["readout,bypass", "readout"], None) == ("readout", "bypass")
    assert cli_reproduce._effects(None, None) is None


def test_alphas_given_on_the_line_say_which_controls_they_leave_out(capsys):
    from lacscope.reproduction._presets import PRESETS

    settings = cli_reproduce._settings(PRESETS["demo"].settings, alphas=(0.0, 0.1))
    assert settings.generate_alphas == PRESETS["demo"].settings.generate_alphas
    assert "no controls for readout: they stand at alpha 0.8" in capsys.readouterr().err
    assert settings.controls == {"bypass": (0.1,)}


@pytest.fixture
def toy(tiny_with_tokenizer, monkeypatch):
    """The toy task under its name, and the tiny model under any; what each model was loaded with."""
    from toy import ToyTask

    loaded = []
    monkeypatch.setattr("lacscope.tasks._registry.task", lambda name: ToyTask(name=name))
    monkeypatch.setattr(
        "lacscope.models._loading.load_model",
        lambda name, **options: loaded.append((name, options)) or tiny_with_tokenizer,
    )
    return loaded


def ids(out):
    """The runs' ids, and what the command says of itself, by part."""
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/*/parts.json")}


def ran(*words):
    result = CliRunner().invoke(app, ["reproduce", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_run_writes_the_file_that_makes_it_again(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("lacscope.cli._reproduce._write_report", lambda out: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id": "{n}", "n": {n}}}\n' for n in range(3)))
    (tmp_path / "my model").mkdir()
    words = ["--model", "my model", "--task", "toy", "--data", "toy=rows.jsonl", *SMALL]
    words += ["--style", "plain", "--device", "cpu", "--chat-template-kwargs", '{"tools": null}']
    ran(*words, "--out", "first")
    written = (tmp_path / "first" / "run.toml").read_text()
    assert 'models = ["../my model"]' in written
    assert 'toy = "../rows.jsonl"' in written
    assert str(tmp_path) not in written
    # From another folder, and elsewhere: the same run.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran(tmp_path / "first" / "run.toml", "--out", "second")
    assert ids(tmp_path / "elsewhere" / "second") == ids(tmp_path / "first") != {}
    assert toy[0] == ("my model", toy[1][1])
    assert toy[1][0] == str(tmp_path / "my model")
    # Without --out it goes on where it stands, and finds its own file there.
    ran(tmp_path / "first" / "run.toml")
    assert [path.name for path in (tmp_path / "first").glob("run*.toml")] == ["run.toml"]
    # Options beside the file win; the other run has a file of its own.
    ran(tmp_path / "first" / "run.toml", "--alphas", "0.1", "--effect", "readout", "--limit", "2")
    changed = read_run(tmp_path / "first" / "run-2.toml")
    kept = read_run(tmp_path / "first" / "run.toml")
    assert (changed.settings.alphas, changed.settings.effects, changed.settings.limit) == ((0.1,), ("readout",), 2)
    assert changed == replace(kept, settings=replace(changed.settings))
    assert kept.settings.alphas == (0.1, 0.8)


def test_the_papers_preset_says_what_it_needs_where_the_machine_is_too_small(monkeypatch):
    monkeypatch.setattr("lacscope.reproduction._presets.memory_here_gib", lambda: 8.0)
    result = CliRunner().invoke(app, ["reproduce", "--preset", "paper"])
    said = " ".join(result.output.split())
    assert result.exit_code == 3
    assert "Qwen/Qwen2.5-7B-Instruct: about 17 GiB of memory in bfloat16 (8 GiB here)" in said
    assert "Too large for this machine: Qwen/Qwen2.5-7B-Instruct, mistralai/Mistral-7B-Instruct-v0.3" in said
    assert "--preset paper --model MODEL" in said


def test_a_report_of_nothing_names_the_command_that_makes_it(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "holds no finished run: `lacscope reproduce --out" in str(result.exception)


@pytest.mark.slow
@pytest.mark.once
def test_the_demo_from_the_command_line_and_again(tmp_path):
    words = ["reproduce", "--preset", "demo", "--task", "pocket_options", *SMALL, "--effect", "readout", "bypass"]
    for _ in range(2):
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    (study,) = open_studies(tmp_path)
    assert (study.model, study.task) == ("smollm2-135m-instruct", "pocket_options")
    # A model that had not read the question would give each letter one chance in 49,152: -10.8 nats.
    assert study.scores.query("effect == 'none' and scoring == 'choice'")["target_logp"].mean() > -5
    assert (tmp_path / "report.md").is_file()
    before = (tmp_path / "report.md").read_text()
    (tmp_path / "report.md").unlink()
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "report.md").read_text() == before
    assert json.loads(next(tmp_path.rglob("accuracy.json")).read_text())["runs"]


def test_every_setting_has_an_option_and_every_option_reaches_the_run():
    options = set(inspect.signature(cli_reproduce.reproduce).parameters)
    renamed = {
        "effects": "effect", "generate_alphas": "generate_at", "control_alphas": "control_at", "keep_text": "no_text",
        "models": "model", "tasks": "task",
    }  # fmt: skip
    fields = [field.name for kind in (ReproductionSettings, Recipe) for field in dataclasses.fields(kind)]
    wanted = {renamed.get(name, name) for name in fields if name != "settings"}
    assert wanted - options == set(), "a setting that the command line does not have"
    assert options - wanted == {"words", "preset", "share"}, "an option that no run.toml keeps"
