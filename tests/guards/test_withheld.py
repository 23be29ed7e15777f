"""A private benchmark's text is written nowhere: every file and every line printed is searched for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text

from lacscope.guards._withheld import holds_text, is_withheld, without_text
from lacscope.tasks._gpqa import Gpqa
from lacscope.testing import synthetic_trace, tiny_transformers_model
from lacscope.trace_analyses._tokens import token_classes
from lacscope.traces._schema import TraceError
from lacscope.traces._sealed import read_sealed, write_sealed

pytestmark = pytest.mark.once

# Words that occur nowhere else; each is one token, and those of a question stand side by side in the vocabulary.
WORDS = tuple(f"{word}{i}" for i in range(4) for word in ("zirconium", "wombat", "quasar", "alphorn", "betatron"))
OTHERS = (
    "Answer",
    "with",
    "the",
    "letter",
    "of",
    "right",
    "option.",
    "A",
    "B",
    "C",
    "D",
    "A.",
    "B.",
    "C.",
    "D.",
    "user",
)
FIRST = 40
MODEL = "m [b] $\\frac{ |<i>"


def rows() -> list[dict[str, Any]]:
    found = []
    for i in range(4):
        one, two, three, right, wrong = WORDS[5 * i : 5 * i + 5]
        question = " ".join([one, two, three, *["the right letter"] * i])
        found.append({"question": question, "correct": right, "incorrect": [wrong, f"{wrong} {two}", f"{one} {wrong}"]})
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, whose tokenizer has a token for each marked word, and ``g.jsonl``."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>")
    vocabulary = {word: i for i, word in enumerate((*special, *OTHERS))} | {w: FIRST + i for i, w in enumerate(WORDS)}
    vocabulary |= {f"filler{i}": i for i in range(len(special) + len(OTHERS), FIRST)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = "{{ bos_token }}{% for m in messages %} user {{ m['content'] }} {{ eos_token }}{% endfor %} "
    folder = tmp_path_factory.mktemp("private")
    made.save_pretrained(folder / MODEL)
    tiny_transformers_model("llama").save_pretrained(folder / MODEL)
    (folder / "g.jsonl").write_text("\n".join(map(json.dumps, rows())))
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All text on the figures that are written."""
    texts: list[str] = []
    save = Figure.savefig

    def saving(figure: Figure, *args: Any, **options: Any) -> None:
        found = figure.findobj(Text)
        texts.extend(one.get_text() for one in found)
        # The model's name has a dollar sign before what is no formula.
        assert not [one for one in found if "frac{" in one.get_text() and one.get_parse_math()]
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return texts


def quotes(text: str) -> list[str]:
    return [word for word in WORDS if word in text]


def leaks(folder: Path) -> Iterator[str]:
    """Where the marked words stand in the files below a folder, as text or as token ids."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".nc":
            yield from (f"{path.name}: {what}" for what in _in_netcdf(read_sealed(path)))
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
            for name in table:
                yield from (f"{path.name}: {word} in {name}" for word in quotes(str(table[name].to_list())))
        elif path.is_file() and path.suffix != ".png":
            yield from (f"{path.name}: {word}" for word in quotes(path.read_text(encoding="utf-8")))


def _in_netcdf(found: xr.Dataset) -> Iterator[str]:
    yield from (f"{word} in the attributes" for word in quotes(str(found.attrs)))
    for name, variable in found.variables.items():
        values = np.ravel(variable.values)
        if variable.dtype.kind in "OSU":
            yield from (f"{word} in {name}" for word in quotes(" ".join(map(str, values))))
        elif variable.dtype.kind in "iuf":
            # Three words of a question in a row, or the logits to find them with.
            yield from (f"ids in {name}" for i in range(len(values) - 2) if _are_ids(values[i : i + 3].tolist()))
            if "vocab" in variable.dims:
                yield f"logits in {name}"


def _are_ids(three: list[float]) -> bool:
    return three[0] >= FIRST and (three[0] - FIRST) % 5 == 0 and three == [three[0], three[0] + 1, three[0] + 2]


def analyze(home: Path, out: Path, *more: object) -> list[object]:
    files = ("--task", "gpqa", "--data", f"gpqa={home / 'g.jsonl'}")
    return ["analyze", home / MODEL, *files, "--limit", 4, "--out", out, *more]


def test_maps_over_tokens_and_their_figures_hold_no_text(home: Path, command: Any, drawn: list[str], tmp_path: Path):
    code, said = command(*analyze(home, tmp_path, "--what", "erasure"))
    assert code == 0, said
    assert list(leaks(tmp_path)) == []
    assert drawn
    assert quotes(" ".join(drawn) + said) == []
    # What is not text is there, and the axis numbers the tokens.
    (path,) = tmp_path.rglob("erasure.nc")
    assert float(read_sealed(path)["effect"].max()) > 0
    assert {"0", "1", "2"} <= set(drawn)


def test_the_search_finds_what_a_public_benchmark_writes(
    home: Path, command: Any, drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Gpqa, "private", False)
    assert command(*analyze(home, tmp_path, "--what", "erasure"))[0] == 0
    found = list(leaks(tmp_path))
    assert any("in token_text" in one for one in found)
    assert any("ids in token_id" in one for one in found)
    assert quotes(" ".join(drawn))
    # And what stands there with its text is written anew without, once the benchmark is private.
    monkeypatch.setattr(Gpqa, "private", True)
    before = read_sealed(next(tmp_path.rglob("erasure.nc")))
    assert command(*analyze(home, tmp_path, "--what", "erasure"))[0] == 0
    assert list(leaks(tmp_path)) == []
    xr.testing.assert_equal(
        read_sealed(next(tmp_path.rglob("erasure.nc")))["effect"].drop_vars(["token_text", "token_id"]),
        before["effect"].drop_vars(["token_text", "token_id"]),
    )


def test_no_text_means_the_same_of_any_benchmark(
    home: Path, command: Any, drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Gpqa, "private", False)
    assert command(*analyze(home, tmp_path, "--what", "erasure", "--no-text"))[0] == 0
    assert list(leaks(tmp_path)) == []
    assert quotes(" ".join(drawn)) == []
    # Asked for with its text, it is made again.
    assert command(*analyze(home, tmp_path, "--what", "erasure"))[0] == 0
    assert list(leaks(tmp_path))


@pytest.mark.slow
def test_parts_of_what_was_interrupted_hold_none(
    home: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from lacscope.analyze._store import ResultStore

    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ResultStore, "write", interrupt)
        assert command(*analyze(home, tmp_path, "--what", "token-usage"))[0] == 130
    assert len(list(tmp_path.rglob("part-*.nc"))) == 2
    assert list(leaks(tmp_path)) == []
    cut = command(*analyze(home, tmp_path, "--what", "token-usage"))
    assert cut[0] == 0, cut[1]
    # Classes are of the texts that no part holds: the same as where the texts were there.
    monkeypatch.setattr(Gpqa, "private", False)
    assert command(*analyze(home, tmp_path / "public", "--what", "token-usage"))[0] == 0
    paths = sorted(tmp_path.rglob("token-usage.nc"), key=lambda path: "public" in path.parts)
    one, other = map(read_sealed, paths)
    xr.testing.assert_equal(one, other)
    assert "function word" in one["group"].values


@pytest.mark.slow
def test_every_analysis(home: Path, command: Any, drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = command(*analyze(home, tmp_path / "a"))[1]
    assert list(leaks(tmp_path)) == []
    assert quotes(" ".join(drawn) + said) == []
    made = sorted(tmp_path.rglob("*.nc"))
    assert len(made) >= 25, said
    monkeypatch.setattr(Gpqa, "private", False)
    whats = ("erasure", "gradients", "lim", "painters", "tokens")
    command(*analyze(home, tmp_path / "b", *(word for what in whats for word in ("--what", what))))
    with_text = {path.name for path in tmp_path.glob("b/*/*.nc")}
    assert len(with_text) >= 7
    for path in made:
        if path.name not in with_text:
            continue
        one, other = read_sealed(path), read_sealed(tmp_path / "b" / path.relative_to(tmp_path / "a"))
        for name, variable in one.data_vars.items():
            np.testing.assert_array_equal(variable.values, other[name].values, err_msg=f"{path.name}: {name}")


@pytest.mark.slow
def test_a_reproduction_with_traces_and_its_report(home: Path, command: Any, drawn: list[str], tmp_path: Path):
    words = (
        *("--task", "gpqa", "--data", f"gpqa={home / 'g.jsonl'}", "--out", tmp_path, "--keep-traces"),
        *("--generate-at", "0.8", "--max-new-tokens", "4", "--alphas", "0.1,0.8", "--control-seeds", "1"),
    )
    for given in (("reproduce", "--model", home / MODEL, *words), ("report", tmp_path)):
        code, said = command(*given)
        assert code == 0, said
        assert quotes(said) == []
    assert len(list(tmp_path.rglob("*.nc"))) > 3
    assert list(tmp_path.rglob("*.parquet"))
    assert list(leaks(tmp_path)) == []
    assert drawn
    assert quotes(" ".join(drawn)) == []
    # A kept trace says which prompt and of which class each token is.
    kept = read_sealed(sorted(tmp_path.rglob("*.nc"))[0])
    assert {"position 0", "function word"} <= set(token_classes(kept).values.flat)
    assert all(len(one) == 64 for one in kept["prompt_sha256"].values)


def test_a_trace_and_its_figures_without_text(home: Path, command: Any, drawn: list[str], tmp_path: Path):
    prompt, out = " ".join(WORDS[:3]), tmp_path / "t.nc"
    words = ("trace", home / MODEL, "--prompt", prompt, "--max-new-tokens", 3, "--out", out)
    assert command(*words, "--no-text")[0] == 0
    assert command("plot", out, "--dpi", 40)[0] == 0
    assert list(leaks(tmp_path)) == []
    assert quotes(" ".join(drawn)) == []
    assert command(*words, "--force")[0] == 0
    assert list(leaks(tmp_path))
    assert command("plot", out, "--dpi", 40, "--no-text")[0] == 0
    assert quotes(" ".join(drawn)) == []
    assert command("plot", out, "--dpi", 40)[0] == 0
    assert quotes(" ".join(drawn))


# --- the gate by itself ---------------------------------------------------------------------------------


def test_what_the_gate_takes_and_what_it_leaves():
    trace = synthetic_trace().assign(logits=(("sample", "vocab"), np.ones((3, 7))), note=("sample", ["a", "b", "c"]))
    assert holds_text(trace)
    hidden = without_text(trace.assign(token_class=token_classes(trace)))
    assert not holds_text(hidden)
    assert is_withheld(hidden)
    assert "logits" not in hidden
    assert set(hidden["note"].values) == {""}
    for name in ("resid_post_norm", "phase", "valid", "special"):
        np.testing.assert_array_equal(hidden[name].values, trace[name].values)
    np.testing.assert_array_equal(token_classes(hidden).values, token_classes(trace).values)
    assert holds_text(trace)


def test_a_trace_without_texts_has_no_classes_to_make_up(tmp_path: Path):
    write_sealed(without_text(synthetic_trace()), tmp_path / "t.nc")
    with pytest.raises(TraceError, match="the texts of this trace were withheld"):
        token_classes(read_sealed(tmp_path / "t.nc"))
