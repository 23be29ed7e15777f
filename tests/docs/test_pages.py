"""The pages of docs/ and the README: every block of Python runs, every command and option exists."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import typer
from transformers import PreTrainedTokenizerFast

import lacscope
from lacscope.cli._app import app
from lacscope.testing import tiny_transformers_model

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_extensions"))
import committed_figures

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
GALLERY = {f"docs/gallery/{name}.md": text for name, text in committed_figures.pages().items()}
WRITTEN = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "gallery" not in path.parts
}
DEMO = 'load_model("smollm2-135m-instruct"'
CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def parameters() -> list[Any]:
    """Each page with code; those that load the demo model, or draw a gallery, are slow."""
    pages = {**WRITTEN, **GALLERY}
    return [
        pytest.param(name, text, id=name, marks=[pytest.mark.slow] if DEMO in text or name in GALLERY else [])
        for name, text in pages.items()
        if blocks(text)
    ]


def model_that_knows(words: set[str], folder: Path) -> Any:
    """A tiny random model, "a model that you loaded", with a token for each of a page's words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {word: index for index, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *sorted(words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = CHAT
    made.save_pretrained(folder)
    own = tiny_transformers_model("llama", vocab_size=len(vocabulary))
    own.generation_config.eos_token_id = None
    return lacscope.load_model(own, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder))


@pytest.mark.parametrize(("name", "text"), parameters())
def test_every_block_of_python_runs(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: Any
) -> None:
    """In the page's order and in one scope; the gallery's in the repository, each by itself."""
    for registry in (lacscope.tasks.TASKS, lacscope.measures.MEASURES):
        monkeypatch.setattr(registry, "_added", {})  # what a page registers is that page's
    code = blocks(text)
    if name in GALLERY:
        monkeypatch.chdir(ROOT)
        for block in code:
            exec(compile(block, name, "exec"), {})
            plt.close("all")
        return
    scope: dict[str, Any] = {}
    if DEMO not in text:
        scope["model"] = model_that_knows(set(re.findall(r"\w+|[^\w\s]", " ".join(code))), tmp_path / "tokenizer")
        scope["prompts"] = ["resid norm pass", "view state"]
        scope["tokens"] = scope["model"].to_tokens("Plan skip middle")
    monkeypatch.chdir(tmp_path)
    for block in code:
        above = "\n" * text[: text.index(block)].count("\n")  # so that a traceback names the page's line
        exec(compile(above + block, str(ROOT / name), "exec"), scope)
    plt.close("all")


def commands() -> list[Any]:
    """Every line of shell that calls lacscope or make, by page."""
    found = []
    for name, text in WRITTEN.items():
        indented = re.findall(r"^    (.+)$", text, re.MULTILINE)
        for block in [*blocks(text, "bash"), *indented]:
            joined = block.replace("\\\n", " ")
            found += [
                pytest.param(line, id=f"{name}: {line[:60]}")
                for line in joined.splitlines()
                if re.search(r"\blacscope (trace|plot|demo|reproduce|report|analyze|lm-eval)\b", line)
            ]
    return found


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_exists(line: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    called = line[line.index("lacscope ") :].split("#")[0].strip("'\" ")
    _, name, *words = shlex.split(called.replace("'", ""))
    options = {option for parameter in known[name].params for option in parameter.opts + parameter.secondary_opts}
    assert not {word.split("=")[0] for word in words if word.startswith("--")} - options - {"--help"}


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, text in WRITTEN.items():
        for target in re.findall(r"(?:`|^    |^)make ([a-z][a-z0-9-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (name, target)
