"""``lacscope analyze`` as a user types it."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lacscope.analyze._catalogue import catalogue
from lacscope.cli._app import app
from lacscope.model_measures import CSORDAS_PROMPT_FORMAT
from lacscope.models._checks import UnsupportedModelError

pytestmark = pytest.mark.once

LINE = " ".join(["the river is deep and cold"] * 20)


def run(*words):
    return CliRunner().invoke(app, ["analyze", *map(str, words)])


def refused(*words):
    """What the command says of words that it cannot use."""
    result = run(*words)
    assert result.exit_code != 0
    return str(result.exception) if result.exception is not None else result.output


@pytest.fixture
def loads_tiny(monkeypatch, tiny_with_tokenizer):
    monkeypatch.setattr("lacscope.models._loading.load_model", lambda name, **options: tiny_with_tokenizer)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "river.txt"
    path.write_text("\n".join([LINE, "short", LINE.replace("deep", "wood"), LINE.replace("cold", "rises")]))
    return path


def test_each_analysis_reads_gsm8k_as_its_paper_puts_it(loads_tiny, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "is it deep", "answer": "river <<1+1=2>>2\n#### 2"}))
    words = ("m", "--data", f"gsm8k={path}", "--what", "contributions", "--what", "block-influence")
    forms = {}
    for style in ((), ("--style", "plain")):
        assert run(*words, *style, "--out", tmp_path / "".join(style)).exit_code == 0
        made = json.loads(next((tmp_path / "".join(style)).glob("*/contributions.json")).read_text())
        forms[style] = made["settings"]["prompt_format"]
    assert forms == {(): CSORDAS_PROMPT_FORMAT, ("--style", "plain"): "chat template in style plain"}
    assert "(paper: raw text in style csordas)" in made["departures"]
    refusal = refused(*words, "--style", "paper")
    assert "--style 'paper' is none of gsm8k; choose from csordas, plain." in refusal


def test_the_list_names_every_analysis():
    result = run("--list")
    assert result.exit_code == 0
    listed = [line.split("│")[1].strip() for line in result.stdout.splitlines() if "│" in line]
    assert [name for name in listed if name] == list(catalogue())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name a MODEL, or list the analyses with --list"),
        (("m",), "give --task (benchmarks) or --text (a text file) to read, one of the two"),
        (("m", "--task", "boolq", "--text", "a.txt"), "give --task (benchmarks) or --text (a text file)"),
        (("m", "--text", "no.txt"), "there is no file: 'no.txt'"),
        (("m", "--text", __file__, "--data", "x.csv"), "--data names the file of a --task"),
        (("m", "--task", "boolq", "--max-tokens", "64"), "--max-tokens cuts a --text"),
        (("m", "--task", "bool"), "there is no task 'bool'; choose one of boolq"),
        (("m", "--data", "bool=x.csv"), "there is no task 'bool'; choose one of boolq"),
        (("m", "--task", "boolq", "--what", "lime"), "there is no analysis 'lime'; choose from contributions"),
        (("m", "--task", "boolq", "--data", "mmlu=x.csv"), "--data is TASK=FILE with a task of this run (boolq)"),
        (
            ("m", "--text", __file__, "--what", "lim", "--what", "erasure"),
            "erasure: it needs answers after the prompts",
        ),
        (("m", "--text", __file__, "--what", "painters"), "painters: it needs questions of a benchmark"),
    ],
)
def test_words_that_cannot_be_used_are_refused_before_a_model_is_loaded(words, text, monkeypatch):
    monkeypatch.setattr(
        "lacscope.models._loading.load_model", lambda *given, **options: pytest.fail("a model was loaded")
    )
    assert text in refused(*words)


def test_a_text_without_long_lines(loads_tiny, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("the river is deep\n")
    assert "short.txt has no line of 400 characters or more" in refused("m", "--text", path, "--out", tmp_path / "o")


def test_one_passage_is_too_few_to_fit_on(loads_tiny, text, tmp_path):
    words = ("m", "--text", text, "--what", "updates", "--limit", 1, "--out", tmp_path / "o")
    assert "updates: it needs 2 prompts or more, got 1" in refused(*words)


def test_a_group_leaves_out_what_the_text_has_not_and_says_so(loads_tiny, text, tmp_path, monkeypatch):
    few = {name: catalogue()[name] for name in ("contributions", "erasure", "gradients")}
    monkeypatch.setattr("lacscope.analyze._catalogue.catalogue", lambda: few)
    out = tmp_path / "o"
    words = ("m", "--text", text, "--what", "depth", "--limit", 2, "--max-tokens", 16, "--out", out)
    result = run(*words)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "erasure: left out, it needs answers after the prompts: give --task" in said
    assert "gradients: left out" in said
    assert sorted(path.name for path in (out / "tiny-llama").iterdir()) == [
        f"contributions{suffix}" for suffix in (".json", ".nc", ".png")
    ]


def test_what_cannot_be_made_does_not_end_a_group(loads_tiny, text, tmp_path, monkeypatch):
    few = [catalogue()[name] for name in ("contributions", "cosines", "logit-lens")]

    def refuse(model, prompts):
        raise UnsupportedModelError("this model has [no] such thing.")

    few[1] = replace(few[1], parts=refuse)
    monkeypatch.setattr("lacscope.analyze._catalogue.catalogue", lambda: {one.name: one for one in few})
    out = tmp_path / "o"
    result = run("m", "--text", text, "--what", "depth", "--limit", 2, "--max-tokens", 16, "--out", out)
    assert "cosines: not made, this model has [no] such thing." in " ".join(result.stderr.split())
    assert str(result.exception) == "1 of 3 analyses were not made: cosines. See above."
    assert sorted(path.stem for path in (out / "tiny-llama").glob("*.nc")) == ["contributions", "logit-lens"]
    alone = run("m", "--text", text, "--what", "cosines", "--limit", 2, "--out", out)
    assert str(alone.exception) == "this model has [no] such thing."


def test_results_of_other_prompts_are_not_replaced_unasked(loads_tiny, text, tmp_path):
    words = ("m", "--text", text, "--what", "lim", "--what", "zd", "--out", tmp_path)
    assert run(*words, "--limit", 1).exit_code == 0
    lim = tmp_path / "tiny-llama" / "lim.nc"
    before = lim.read_bytes()
    said = refused(*words, "--limit", 2)
    assert "lim stands there already, of river.txt (n = 1), made with other prompts, settings or versions" in said
    assert "give another --out, or --force to replace" in said
    assert lim.read_bytes() == before
    assert run(*words, "--limit", 2, "--force").exit_code == 0
    assert lim.read_bytes() != before


def test_a_whole_run_and_again(loads_tiny, tmp_path, monkeypatch):
    words = ("org/m", "--task", "pocket_boolean", "--what", "lim", "--what", "cosines", "--limit", 3, "--out", tmp_path)
    first = run(*words)
    assert first.exit_code == 0, first.output
    folder = tmp_path / "tiny-llama"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}{suffix}" for name in ("lim", "cosines") for suffix in (".nc", ".json", ".png")
    }
    said = json.loads((folder / "lim.json").read_text())
    assert (said["data"], said["n_samples"], said["model"]) == ("pocket_boolean", 3, "tiny-llama")
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nc")}
    monkeypatch.setattr("lacscope.analyze._store.ResultStore.write_part", lambda *given: pytest.fail("done again"))
    assert run(*words).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nc")} == written


def test_a_file_names_its_task(loads_tiny, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the river is deep and cold"}\n{"text": "the wood is cold and deep"}\n')
    result = run("m", "--data", f"lambada={rows}", "--what", "lim", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "o" / "tiny-llama" / "lim.json").read_text())
    assert (said["data"], said["n_samples"]) == ("lambada", 2)


def test_a_hub_name_is_one_folder(loads_tiny, text, tmp_path, monkeypatch, tiny_with_tokenizer):
    monkeypatch.setattr(tiny_with_tokenizer.cfg, "model_name", "org/tiny")
    assert run("org/tiny", "--text", text, "--what", "zd", "--max-tokens", 8, "--out", tmp_path / "o").exit_code == 0
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["org--tiny"]
