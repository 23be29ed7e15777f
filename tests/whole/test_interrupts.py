"""Ctrl-C in a command, as the kernel sends it: one line that says what is on disk and what goes on; exit code 130."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from word_tokenizer import WORDS, word_tokenizer

from lacscope.cli._errors import Interrupted, Terminated, interruptible, keeping
from lacscope.testing import tiny_transformers_model

pytestmark = pytest.mark.once

# Runs the command line with one function slowed down, and says when it is there.
SLOWED = """
import signal, sys, time
from pathlib import Path
import {module} as module
before = module.{name}
seen = []
# A shell that starts the tests in the background has Ctrl-C ignored, and a child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
def slow(*given, **options):
    seen.append(None)
    if len(seen) >= {calls}:
        Path({flag!r}).write_text("")
        time.sleep(60)
    return before(*given, **options)
module.{name} = slow
from lacscope.cli._app import main
sys.argv = ["lacscope", *{words!r}]
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model ``m`` and a benchmark file ``rows.jsonl``."""
    folder = tmp_path_factory.mktemp("interrupts")
    tiny_transformers_model("llama").save_pretrained(folder / "m")
    word_tokenizer().save_pretrained(folder / "m")
    rows = [{"text": " ".join(WORDS[i : i + 5])} for i in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def interrupted(tmp_path: Path) -> Callable[..., tuple[int, str, float]]:
    """Run a command until a function was called so often, send a signal: exit code, standard error, seconds to end."""

    def run(words: list[object], slow: str, calls: int = 1, number: int = signal.SIGINT) -> tuple[int, str, float]:
        flag = tmp_path / "flag"
        flag.unlink(missing_ok=True)
        module, name = slow.rsplit(".", 1)
        code = SLOWED.format(module=module, name=name, calls=calls, flag=str(flag), words=[str(word) for word in words])
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "400"}
        )
        try:
            while not flag.exists():
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                time.sleep(0.05)
            process.send_signal(number)
            began = time.monotonic()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, said, time.monotonic() - began

    return run


@pytest.mark.slow
def test_reproduce_says_which_shards_are_there_and_goes_on_from_them(home: Path, tmp_path: Path, interrupted):
    words = ["reproduce", "--model", home / "m", "--task", "lambada", "--data", f"lambada={home / 'rows.jsonl'}"]
    words += ["--alphas", "0.1,0.8", "--generate-at", "none", "--control-at", "none", "--shard-size", 2]
    words += ["--out", tmp_path / "o [/b]"]
    code, said, seconds = interrupted(words, "lacscope.reproduction.sweep._runner.score_shard", calls=3)
    last = said.strip().splitlines()[-1]
    assert code == 130, said
    assert last.startswith(
        f"interrupted. {tmp_path / 'o [/b]'}/runs has 2 of 4 shards of the parts begun. Go on with: "
    )
    assert f"lacscope reproduce --model {home / 'm'} --task lambada" in last
    assert f"--out '{tmp_path / 'o [/b]'}'" in last
    assert "Traceback" not in said
    assert seconds < 20
    done = subprocess.run(
        [sys.executable, "-m", "lacscope", *map(str, words)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "COLUMNS": "400"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8/8 samples, 4 kept from before" in done.stderr
    assert (tmp_path / "o [/b]" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_analyze_says_what_is_there_and_keeps_it(home: Path, tmp_path: Path, interrupted, number: int):
    words = ["analyze", home / "m", "--task", "lambada", "--data", f"lambada={home / 'rows.jsonl'}"]
    words += ["--what", "lim", "--what", "variance", "--limit", 6, "--out", tmp_path / "o"]
    # Three parts of the first, its join, and one part of the second.
    code, said, _ = interrupted(words, "lacscope.analyze._store.write_sealed", calls=6, number=number)
    how, last = "interrupted" if number == signal.SIGINT else "terminated", said.strip().splitlines()[-1]
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
    assert last.startswith(f"{how}. {tmp_path / 'o' / 'm'} has 1 of 2 results and 1 part of others. Go on with: ")
    again = subprocess.run(
        [sys.executable, "-m", "lacscope", *map(str, words)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "COLUMNS": "400"},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "variance.png (kept from before)" in again.stderr
    assert "lim: 1 part kept from before" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "slow", "said"),
    [
        (
            ["trace", "{m}", "--prompt", "the river", "--out", "{o}/t.nc"],
            "lacscope.tracing._run.check_options",
            "Nothing was written.",
        ),
        (["plot", "{t}", "--out", "{o}"], "lacscope.plots._saving.write_figure", "What {o} holds is whole."),
        (["demo", "--out", "{o}"], "lacscope.cli._demo.demo_items", "What {o} holds is whole."),
        (["report", "{o}"], "lacscope.reproduction._write.open_studies", "All shards in {o} are as they were."),
        (["lm-eval", "{m}", "--tasks", "arc_easy"], "lacscope.harness.find_tasks", "Nothing was written."),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)  # fmt: skip
def test_every_other_command(home: Path, tmp_path: Path, interrupted, words, slow, said):
    from lacscope import save_trace
    from lacscope.testing import synthetic_trace

    save_trace(synthetic_trace(), tmp_path / "t.nc")
    places = {"m": str(home / "m"), "o": str(tmp_path / "o"), "t": str(tmp_path / "t.nc")}
    given = [word.format(**places) for word in words]
    code, printed, seconds = interrupted(given, slow)
    assert code == 130, printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"interrupted. {said.format(**places)}")
    assert last.endswith(": " + shlex.join(["lacscope", *given]))
    assert seconds < 20
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


# --- without a process ----------------------------------------------------------------------------------


def test_what_is_kept_is_told_of_an_interrupt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["lacscope", "analyze", "a b", "--traceback"])

    @interruptible
    def command(stop: BaseException) -> None:
        with keeping(lambda: "2 of 3 are there. Go on with"):
            raise stop

    for stop, code in ((KeyboardInterrupt(), 130), (Terminated(), 143)):
        with pytest.raises(Interrupted) as ended:
            command(stop)
        assert ended.value.code == code
        assert ended.value.__notes__ == ["2 of 3 are there. Go on with: lacscope analyze 'a b'"]
    with pytest.raises(OSError, match="full") as failed:
        command(OSError(28, "full", "f"))
    assert failed.value.__notes__ == ["2 of 3 are there. Go on with: lacscope analyze 'a b'"]
    with pytest.raises(KeyError) as bug:
        command(KeyError("x"))
    assert not hasattr(bug.value, "__notes__")
