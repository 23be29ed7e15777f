"""The command line, as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lacscope
from lacscope.testing import synthetic_trace, tiny_transformers_model

pytestmark = pytest.mark.once


class Result:
    def __init__(self, code: int, out: str) -> None:
        self.code, self.out = code, " ".join(out.split())


@pytest.fixture
def run(command: Callable[..., tuple[int, str]]) -> Callable[..., Result]:
    return lambda *words: Result(*command(*words))


@pytest.fixture
def model_folder(tmp_path: Path, make_tokenizer: Callable[..., object]) -> Path:
    folder = tmp_path / "tiny-llama"
    tiny_transformers_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def test_trace_then_plot(run: Callable[..., Result], model_folder: Path, tmp_path: Path):
    out = tmp_path / "t.nc"
    result = run(
        "trace", model_folder, "--prompt", "the river", "--prompt", "a cold wood", "--alpha", 0.5,
        "--effect", "readout", "--max-new-tokens", 4, "--measure", "threshold", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.out
    trace = lacscope.open_trace(out)
    assert trace.sizes["sample"] == 2
    assert trace.attrs["effect"] == "readout"
    assert '"alpha": 0.5' in trace.attrs["rule"]
    assert "threshold" in trace
    usage = 100 * float(lacscope.layer_usage(trace).sel(phase="prefill").mean())
    assert f"usage {usage:.1f} %" in result.out
    result = run("plot", out, "--dpi", 40)
    assert result.code == 0, result.out
    assert len(list((tmp_path / "t_figures").glob("*.png"))) == 4


def test_prompts_file_of_chats(run: Callable[..., Result], model_folder: Path, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"messages": [{"role": "user", "content": "the river"}]}\n\n{"messages": [{"role": "user", "content": "a"}]}\n'
    )
    result = run("trace", model_folder, "--prompts-file", prompts, "--out", tmp_path / "t.nc")
    assert result.code == 0, result.out
    trace = lacscope.open_trace(tmp_path / "t.nc")
    assert "assistant" in "".join(trace.token_text.values[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no prompts: give --prompt TEXT (once or more) or --prompts-file FILE."),
        (["--prompts-file", "nowhere.txt"], "no such prompts file: nowhere.txt"),
        (["--prompt", "a", "--alpha", "-1"], "alpha must be a finite number >= 0, got -1.0"),
        (["--prompt", "a", "--alpha", "nan"], "alpha must be a finite number >= 0, got nan"),
        (["--prompt", "a", "--effect", "skip"], "unknown effect 'skip'; choose one of 'observe', 'readout', 'bypass'."),
        (["--prompt", "a", "--measure", "speed"], "unknown measure 'speed'; choose from attn_out_norm"),
        (["--prompt", "a", "--effect", "bypas"], "Did you mean 'bypass'?"),
        (["--prompt", "a", "--chat-template-kwargs", "on"], "--chat-template-kwargs is a JSON object"),
        (["--prompt", "a", "--top-p", "0"], "top_p must be in (0, 1]"),
        (["--prompt", "a", "--dtype", "int4"], "unknown dtype 'int4'"),
        (["--prompt", ""], "prompt 0 is empty"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Callable[..., Result], model_folder: Path, tmp_path: Path, words: list[str], message: str
):
    result = run("trace", model_folder, "--out", tmp_path / "t.nc", *words)
    assert result.code == 2
    assert message in result.out
    assert "Traceback" not in result.out
    assert not (tmp_path / "t.nc").exists()


def test_unknown_model(run: Callable[..., Result], tmp_path: Path):
    result = run("trace", "./nowhere", "--prompt", "a", "--out", tmp_path / "t.nc")
    assert result.code == 2
    assert "error: no model at nowhere: there is no such file or folder." in result.out


def test_an_existing_file_is_kept_unless_forced(run: Callable[..., Result], model_folder: Path, tmp_path: Path):
    out = tmp_path / "t.nc"
    out.write_text("precious")
    result = run("trace", model_folder, "--prompt", "a", "--out", out)
    assert result.code == 2
    assert "pass --force to replace it" in result.out
    assert out.read_text() == "precious"
    assert run("trace", model_folder, "--prompt", "a", "--out", out, "--force").code == 0
    assert lacscope.open_trace(out).sizes["sample"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("{not json}\n", "line 1: not JSON"),
        ('{"prompt": "a"}\n\n{"prompt": 5}\n', 'line 3: "prompt" is 5, not text; put text in quotes.'),
        ('{"prompt": [5, 7]}\n', 'line 1: "prompt" is [5, 7], not text'),
        ('{"prompt": null}\n', 'line 1: "prompt" is null, not text'),
        ('{"prompt": ""}\n', 'line 1: "prompt" is empty'),
        ('{"prompt": "\\ud83d"}\n', 'line 1: "prompt" has half a character'),
        ('{"prompt": "a", "messages": []}\n', 'line 1: has both "prompt" and "messages"'),
        ('{"messages": []}\n', 'line 1: "messages" is no list of messages'),
        ('{"messages": [{"role": "user"}]}\n', 'line 1: message 1 has no "content"'),
        ('{"messages": [{"role": "user", "content": 5}]}\n', 'line 1: message 1\'s "content" is 5, not text'),
        ('{"question": "a"}\n', 'line 1: needs "prompt" (text) or "messages" (a chat).'),
        ('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n', "some prompts are text and some"),
    ],
)
def test_bad_prompts_files(run: Callable[..., Result], tmp_path: Path, text: str, message: str):
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    result = run("trace", "any", "--prompts-file", file, "--out", tmp_path / "t.nc")
    assert result.code == 2
    assert message in result.out


def test_plotting_a_foreign_file(run: Callable[..., Result], tmp_path: Path):
    file = tmp_path / "x.nc"
    file.write_text("hello")
    result = run("plot", file)
    assert result.code == 2
    assert "x.nc is not a whole file of lacscope's" in result.out
    assert run("plot", tmp_path / "nowhere.nc").code == 2


@pytest.mark.parametrize("words", [[], ["demo"], ["trace"], ["plot"]])
def test_help(run: Callable[..., Result], words: list[str]):
    result = run(*words, "--help")
    assert result.code == 0
    assert "Usage: lacscope" in result.out


@pytest.mark.slow
@pytest.mark.once
def test_help_and_plot_leave_torch_alone(tmp_path: Path, run_python: Callable[[str], str]):
    lacscope.save_trace(synthetic_trace(), tmp_path / "t.nc")
    for words in (["--help"], ["trace", "--help"], ["plot", str(tmp_path / "t.nc"), "--dpi", "40"]):
        printed = run_python(f"""
            import sys
            from lacscope.cli import _app as cli
            sys.argv = ["lacscope", *{words!r}]
            try:
                cli.main()
            except SystemExit as stop:
                assert not stop.code, stop.code
            print("torch" in sys.modules)
        """)
        assert printed.splitlines()[-1] == "False"


@pytest.mark.slow
def test_demo_writes_trace_figures_and_report(tmp_path: Path):
    command = [sys.executable, "-c", "from lacscope.cli._app import main; main()"]
    done = subprocess.run(
        [*command, "demo", "--out", str(tmp_path), "--prompts", "4", "--max-new-tokens", "6"],
        capture_output=True, text=True, timeout=400, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Tracing 4 prompts and their answers" in done.stderr
    assert "Warning" not in done.stderr
    trace = lacscope.open_trace(tmp_path / "trace.nc")
    assert set(trace.phase.values[trace.valid.values]) == {"prefill", "decode"}
    report = (tmp_path / "report.md").read_text()
    for name in ("norms", "usage", "usage_by_alpha", "void_map"):
        assert f"({name}.png)" in report
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert "| `bypass` | 0.8 | 4 |" in report
