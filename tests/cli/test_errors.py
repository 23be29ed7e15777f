"""What stops a command: a mistake of the user's, or a bug of ours, is told as what it is, by text and exit code."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lacscope
from lacscope.cli._errors import WithheldError, is_users, quoting_nothing
from lacscope.tasks._data import DataError
from lacscope.testing import synthetic_trace
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    return lacscope.save_trace(synthetic_trace(), tmp_path / "t.nc")


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*given: Any, **options: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [KeyError("layer"), ValueError("boom [/b]"), RuntimeError("boom"), AssertionError()])
def test_an_unknown_exception_is_a_bug_of_ours(command: Any, trace_file: Path, monkeypatch: Any, error: Exception):
    monkeypatch.setattr("lacscope.plots._saving.norm_profile", failing(error))
    code, said = command("plot", trace_file)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert code == 1
    assert line.startswith(f"error: unexpected {type(error).__name__}: ")
    assert "at lacscope/plots/_saving.py, line " in line
    assert f"a bug in lacscope, not a mistake of yours: see how with lacscope plot {trace_file} --traceback." in line
    assert "Traceback" not in said


def test_the_traceback_is_shown_where_it_is_asked_for(command: Any, trace_file: Path, monkeypatch: Any):
    monkeypatch.setattr("lacscope.plots._saving.norm_profile", failing(KeyError("layer")))
    for words in (("--traceback", "plot", trace_file), ("plot", trace_file, "--traceback")):
        code, said = command(*words)
        assert code == 1
        assert "Traceback (most recent call last)" in said
        assert "in save_figures" in said
        assert "report it with the lines above" in said
    # Of a mistake too.
    code, said = command("plot", trace_file, "--alpha", "-1", "--traceback")
    assert code == 2
    assert "Traceback (most recent call last)" in said
    assert "Traceback" not in command("plot", trace_file, "--alpha", "-1")[1]


def test_whose_an_error_is():
    def of(call: Callable[[], Any]) -> bool:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        return is_users(caught.value)

    trace = synthetic_trace()
    assert of(lambda: lacscope.voids(trace, -1.0))
    assert of(lambda: lacscope.L2AdaptiveComputation(float("nan")))
    assert of(lambda: lacscope.open_trace("/nowhere/t.nc"))
    assert of(lambda: Path("/nowhere/t.nc").read_bytes())
    assert of(failing(InputError("prompt 0 is empty")))
    assert of(failing(MemoryError()))
    assert of(failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    # Of others' raise, of no raise at all, of none that a user can mend.
    assert not of(lambda: int("x"))
    assert not of(lambda: np.stack([]))
    assert not of(lambda: trace["nothing"])
    assert not of(lambda: lacscope.layer_usage(trace, 3))  # type: ignore[arg-type]
    assert not of(failing(ValueError("raised outside of lacscope")))


def test_an_accident_in_our_own_lines_is_not_dressed_as_the_users(monkeypatch: Any):
    from lacscope.cli import _reproduce as cli_reproduce

    monkeypatch.setattr(cli_reproduce, "suppress", lambda *given: nullcontext())
    with pytest.raises(ValueError, match="could not convert") as caught:
        cli_reproduce.parse_alphas("a")
    assert not is_users(caught.value)


# --- private benchmarks ---------------------------------------------------------------------------------


def test_what_others_say_of_a_private_row_is_withheld(command: Any, trace_file: Path, monkeypatch: Any):
    def private_failure(*given: Any, **options: Any) -> None:
        with quoting_nothing(True):
            raise ValueError("cannot read 'zirconium wombats'")

    monkeypatch.setattr("lacscope.plots._saving.norm_profile", private_failure)
    for more in ((), ("--traceback",)):
        code, said = command("plot", trace_file, *more)
        assert code == 1
        assert "unexpected ValueError (its message is withheld: it may quote a private benchmark)" in said
        assert "zirconium" not in said.replace("raise ValueError(\"cannot read 'zirconium wombats'\")", "")
    assert "in private_failure" in said


def test_our_own_words_on_a_private_row_are_kept():
    for error in (
        DataError("g.jsonl, row 3: no field 'question'."),
        InputError("prompt 3 is empty."),
        OSError(2, "no"),
    ):
        with pytest.raises(type(error)), quoting_nothing(True):
            raise error
    quoting = InputError("the template refuses chat 0: zirconium")
    quoting.__cause__ = ValueError("zirconium")
    with pytest.raises(WithheldError), quoting_nothing(True):
        raise quoting
    with pytest.raises(ValueError, match="zirconium"), quoting_nothing(False):
        raise ValueError("zirconium")


def test_a_failure_in_an_analysis_of_gpqa_quotes_nothing(
    command: Any, tmp_path: Path, monkeypatch: Any, tiny_with_tokenizer: Any
):
    from lacscope.analyze._catalogue import catalogue

    def fail(model: Any, prompts: Any) -> None:
        raise ValueError(f"cannot do {prompts.questions[0].prompt!r}")

    monkeypatch.setattr("lacscope.models._loading.load_model", lambda name, **options: tiny_with_tokenizer)
    few = (replace(catalogue()["lim"], parts=fail), catalogue()["cosines"])
    monkeypatch.setattr("lacscope.analyze._catalogue.catalogue", lambda: {one.name: one for one in few})
    row = {"question": "zirconium wombats", "correct": "deep", "incorrect": ["cold", "river", "wood"]}
    (tmp_path / "g.jsonl").write_text(json.dumps(row))
    words = ("analyze", "m", "--data", f"gpqa={tmp_path / 'g.jsonl'}", "--out", tmp_path / "o")
    for more in ((), ("--what", "lim"), ("--traceback",)):
        code, said = command(*words, *more)
        assert code == 1, said
        assert "unexpected ValueError (its message is withheld" in said
        assert "zirconium" not in said
    assert (tmp_path / "o" / "tiny-llama" / "cosines.nc").is_file()


# --- files and folders ----------------------------------------------------------------------------------


def test_a_full_disk_names_the_path_what_is_kept_and_what_goes_on(command: Any, trace_file: Path, monkeypatch: Any):
    out = trace_file.parent / "figures"
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    code, said = command("plot", trace_file, "--out", out, "--dpi", 40)
    assert code == 2
    assert "could not write the file (No space left on device); nothing was changed: " + str(out) in said
    assert f"What {out} holds is whole. Go on with: lacscope plot {trace_file} --out {out} --dpi 40" in said
    assert len(list(out.iterdir())) == 2
    assert not [path for path in out.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    "words",
    [
        ("plot", "{t}", "--out", "{f}"),
        ("demo", "--out", "{f}"),
        ("trace", "m", "--prompt", "a", "--out", "{f}/t.nc"),
        ("analyze", "m", "--task", "boolq", "--out", "{f}"),
        ("reproduce", "--preset", "demo", "--out", "{f}"),
        ("lm-eval", "m", "--tasks", "arc_easy", "--out", "{f}/s.json"),
    ],
    ids=lambda words: words[0],
)
def test_a_file_where_a_folder_is_needed(command: Any, trace_file: Path, tmp_path: Path, words: Any, monkeypatch: Any):
    monkeypatch.setattr("lacscope.models._loading.load_model", failing(AssertionError("a model was loaded")))
    (tmp_path / "f").write_text("precious")
    code, said = command(*(word.format(t=trace_file, f=tmp_path / "f") for word in words))
    assert code == 2, said
    assert f"a folder is needed here, and this is a file; give another --out: {tmp_path / 'f'}" in said
    assert (tmp_path / "f").read_text() == "precious"


def test_a_folder_that_cannot_be_written_to(command: Any, trace_file: Path, tmp_path: Path, monkeypatch: Any):
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode, **how: not mode & os.W_OK and real(path, mode, **how))
    code, said = command("plot", trace_file, "--out", tmp_path)
    assert code == 2
    assert f"this folder cannot be written to; give another --out: {tmp_path}" in said


@pytest.mark.parametrize("damage", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(500), "cut", "flip"])
def test_a_damaged_trace_is_named(command: Any, trace_file: Path, damage: Any):
    raw = trace_file.read_bytes()
    flipped = raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:]
    trace_file.write_bytes({"cut": raw[:-100], "flip": flipped}[damage] if isinstance(damage, str) else damage)
    code, said = command("plot", trace_file)
    assert code == 2
    assert f"error: {trace_file} is " in said
    assert "whole file of lacscope's" in said or "its content is not what was written" in said


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("t.txt", b"\xff\xfe\x00", "t.txt is UTF-16 (it begins with ff fe); save it as UTF-8."),
        ("t.txt.gz", b"hello", "t.txt.gz cannot be read as .gz"),
        ("t.txt.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abc", "t.txt.gz cannot be read as .gz"),
    ],
)
def test_a_text_that_is_none(
    command: Any, tmp_path: Path, name: str, content: bytes, text: str, monkeypatch: Any, tiny_with_tokenizer: Any
):
    monkeypatch.setattr("lacscope.models._loading.load_model", lambda name, **options: tiny_with_tokenizer)
    (tmp_path / name).write_bytes(content)
    code, said = command("analyze", "m", "--text", tmp_path / name, "--out", tmp_path / "o")
    assert code == 2, said
    assert text in said


def test_version_and_exit_codes(command: Any):
    assert command("--version") == (0, f"lacscope {version('lacscope')}\n")
    code, said = command("--help")
    assert code == 0
    said = " ".join(said.replace("│", " ").split())
    assert "--traceback" in said
    assert "0 done; 1 a bug in lacscope" in said
    assert "130 interrupted (Ctrl-C)" in said
