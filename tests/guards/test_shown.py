"""Text of models, files and prompts is shown as it is, wherever it is shown: nothing obeys it."""

import csv as csv_module
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.text import Text
from rich.console import Console

import lacscope
from lacscope import plots
from lacscope.cli._harness import score_table
from lacscope.cli._report import EffectRow, write_report
from lacscope.cli._reproduce import _step
from lacscope.cli._terminal import bar_of, say
from lacscope.guards._shown import code, csv, link, markdown, plain, ranges
from lacscope.plots._table import to_markdown
from lacscope.reproduction.sweep._processes import Processes
from lacscope.testing import synthetic_trace

pytestmark = pytest.mark.once

HOSTILE = "m[/b] [red]x $\\frac{ |<script>`*_a_* \x1b[31m\x07\u202egnp"


def cells(row: str) -> list[str]:
    """A table's cells, as Markdown cuts them: at pipes without a backslash before them."""
    return row.replace("\\\\", "").replace("\\|", "").strip("|").split("|")


# --- each way of showing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("bell\x07\r\n\t", "bell\\x07\\r\\n\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("half \ud83d", "half \\ud83d"),
        ("Zürich 東京 🙂 [/b]", "Zürich 東京 🙂 [/b]"),
    ],
)
def test_a_terminal_is_given_nothing_to_obey(text: str, shown: str):
    assert plain(text) == shown


def test_markdown_shows_the_text_itself():
    # Checked against CommonMark by hand: each character below begins something where it has no backslash.
    assert markdown("*a* _b_ `c` [d](e) <f> |g| ~~h~~ $i$ \\j &amp; a_b\nk") == (
        "\\*a\\* \\_b\\_ \\`c\\` \\[d\\](e) &lt;f&gt; \\|g\\| \\~\\~h\\~\\~ \\$i\\$ \\\\j &amp;amp; a_b k"
    )
    assert code("a `` b") == "```a `` b```"
    assert code("`x`") == "`` `x` ``"
    assert link("a b/(c).png") == "a%20b/%28c%29.png"


def test_a_spreadsheet_is_given_no_formula():
    texts = [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        "a=1",
        "-",
        "-0.5",
        "+1e-3",
        "-inf",
    ]
    table = pd.DataFrame({"=head": texts, "n": range(-6, 6)})
    head, *rows = csv_module.reader(io.StringIO(csv(table).decode()))
    assert head == ["'=head", "n"]
    guarded = ["'=1+1", "'+cmd|' /C calc'!A0", "'-2+3", "'@SUM(A1)", "\\t=1", "\\r=1", "' =1"]
    assert [row[0] for row in rows] == [*guarded, *texts[7:8], "'-", *texts[9:]]
    assert [int(row[1]) for row in rows] == list(range(-6, 6))
    plain_table = pd.DataFrame({"model": ["a", "b"], "x": [-0.5, float("nan")], "k": [True, False]})
    assert csv(plain_table).decode() == plain_table.to_csv(index=False)
    assert table.columns.tolist() == ["=head", "n"]


# --- where it is shown ----------------------------------------------------------------------------------


def printed(show: Callable[[Console], None]) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    show(console)
    return console.file.getvalue()


def test_bars_and_lines_on_the_terminal(monkeypatch: pytest.MonkeyPatch):
    def bar(console: Console) -> None:
        with bar_of(f"Loading {HOSTILE}", console):
            pass

    def part(console: Console) -> None:
        monkeypatch.setattr("lacscope.cli._reproduce.console", console)
        with _step(Processes())(f"{HOSTILE}: choice"):
            pass

    about = {"model": HOSTILE, "effect": "observe", "rule": "null", "usage": {}}
    results = {"results": {HOSTILE: {"acc,none": 0.5}}, "lacscope": about}
    shows = (bar, part, lambda to: say(to, "Wrote ", HOSTILE, HOSTILE), lambda to: to.print(score_table(results)))
    for show in shows:
        text = printed(show)
        assert "m[/b] [red]x" in text
        assert "\\x1b[31m" in text
        assert not set(text) & set("\x1b\x07\u202e")


def test_paths_in_every_command(command: Callable[..., Any], tmp_path: Path):
    folder = tmp_path / "[" / "b] \x1b[31m"
    folder.mkdir(parents=True)
    lacscope.save_trace(synthetic_trace(), folder / "t.nc")
    code, said = command("plot", folder / "t.nc", "--dpi", 40)
    assert code == 0, said
    assert "[/b] \\x1b[31m/t_figures/norms.png" in said.replace("\n", "")
    assert "\x1b" not in said
    for words in (
        ("plot", folder / "no.nc"),
        ("report", folder),
        ("trace", folder / "model", "--prompt", "a", "--out", folder / "o.nc"),
        ("analyze", "m", "--text", folder / "no.txt"),
        ("analyze", "m", "--what", "[/b]\x1b[31m", "--task", "boolq"),
        ("reproduce", "--preset", "[/b]\x1b[31m"),
        ("plot", folder / "t.nc", "--style", "[/b]\x1b[31m"),
    ):
        code, said = command(*words)
        assert code == 2, said
        assert "[/b]" in said.replace("\n", ""), words
        assert "\x1b" not in said
        assert "Traceback" not in said
    # The parser of the command line has errors of its own.
    assert command("plot", "--[/b]")[0] == 2


def test_a_traces_report_and_its_figures(tmp_path: Path):
    trace = synthetic_trace().assign_attrs(model=HOSTILE, dtype="a|b<i>")
    row = EffectRow("bypass", 0.8, median_kl=1.0, same_token=0.5, n_early=1, n=3, answer=HOSTILE)
    void = lacscope.voids(trace, 0.8)
    text = write_report(trace, void, tmp_path, {}, title=HOSTILE, effects=[row], full_answer="|").read_text()
    assert "<script>`" not in text.replace(code(HOSTILE), "")
    assert not set(text) & set("\x1b\x07\u202e")
    for table in (block.splitlines() for block in text.split("\n\n") if block.startswith("|")):
        assert len({len(cells(line)) for line in table}) == 1, table
    drawn = [plots.plot_void_map(trace, void, sample=0).figure]
    drawn.append(plots.plot_norms(lacscope.norm_profile(trace))[0].figure)
    check_figures(drawn)


def check_figures(figures: list[Any]) -> None:
    """Each is drawn with the name on it, letter for letter."""
    for figure in figures:
        named = [one for one in figure.findobj(Text) if "frac{" in one.get_text()]
        assert named
        assert not [one for one in named if one.get_parse_math()]
        assert not [one for one in named if set(one.get_text()) & set("\x1b\x07\u202e")]
        figure.savefig(io.BytesIO(), dpi=30)
        plt.close(figure)


def test_a_table_in_markdown():
    table = pd.DataFrame(
        [[HOSTILE, 0.5, 3, "a\nb"]], columns=["condition", "accuracy x", HOSTILE, "back`tick\nnewline"]
    )
    lines = to_markdown(table).splitlines()
    assert len(lines) == 3
    assert {len(cells(line)) for line in lines} == {4}
    assert "<script>" not in "".join(lines)


@pytest.mark.parametrize(("numbers", "words"), [([], []), ([3], ["3"]), ([0, 2, 3, 4, 9, 10], ["0", "2-4", "9-10"])])
def test_neighbours_are_one_range(numbers: list[int], words: list[str]) -> None:
    assert ranges(numbers) == words
