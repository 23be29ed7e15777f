"""The report in words: its numbers are the trace's."""

from pathlib import Path

import pytest

import lacscope
from lacscope.cli._report import EffectRow, write_report
from lacscope.plots._saving import FIGURES, save_figures
from lacscope.testing import synthetic_trace

pytestmark = pytest.mark.once


@pytest.fixture
def written(tmp_path: Path) -> str:
    trace = synthetic_trace()
    row = EffectRow("bypass", 0.8, median_kl=3.21, same_token=0.25, n_early=2, n=3, answer="a | b\n`c`")
    path = write_report(
        trace,
        lacscope.voids(trace, 0.8),
        tmp_path,
        {"norms": tmp_path / "norms.png"},
        title="A title",
        effects=[row],
        full_answer="yes",
    )
    return path.read_text()


def test_numbers_are_the_analyses(written: str):
    trace = synthetic_trace()
    void = lacscope.voids(trace, 0.8)
    usage = 100 * float(lacscope.layer_usage(trace, void).sel(phase="prefill").mean())
    depth = 100 * float(lacscope.mean_exit_depth(trace, void).sel(phase="prefill"))
    bound = 100 * float(lacscope.skippable_compute(trace, void).sel(phase="prefill", effect="bypass"))
    line = next(line for line in written.splitlines() if line.startswith("| prefill |"))
    assert [f"{usage:.1f} %", f"{depth:.1f} %", f"{bound:.1f} %"] == [
        cell.strip() for i, cell in enumerate(line.split("|")) if i in (3, 5, 6)
    ]
    assert line.endswith("| 0 % |")


def test_effects_table_survives_any_answer(written: str):
    assert "| `bypass` | 0.8 | 3 | 2 | 3.21 | 25.0 % | `` a \\| b `c` `` |" in written
    assert "| full model | | 3 | | 0 | 100.0 % | `yes` |" in written


def test_figures_are_linked_relatively(written: str):
    assert "![norms](norms.png)" in written
    assert "![usage]" not in written


def test_no_decode_tokens_are_said(tmp_path: Path):
    trace = synthetic_trace(decode_tokens=0)
    text = write_report(trace, lacscope.voids(trace, 0.5), tmp_path, {}, title="t").read_text()
    assert "No tokens were read in decode." in text
    assert "| decode | 0 | no tokens |" in text
    assert "nan" not in text.lower()


def test_figures_beside_what_made_them(tmp_path: Path):
    paths = save_figures(synthetic_trace(), tmp_path, dpi=40)
    assert sorted(paths) == sorted(FIGURES)
    for path in paths.values():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert '"model": "synthetic"' in path.with_suffix(".json").read_text()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 4 + [".png"] * 4


def test_a_bypass_trace_is_drawn_with_its_own_voids(tiny, tmp_path: Path):
    trace = lacscope.trace(tiny, [[5, 6, 7]], rule=lacscope.FixedLayers([1]), effect="bypass")
    paths = save_figures(trace, tmp_path, dpi=40)
    assert "usage_by_alpha" not in paths


def test_every_figure_says_what_its_weights_are_quantised_to(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    from lacscope.plots._saving import say_weights, write_figure

    def words(figure: object) -> str:
        return " ".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]

    packed = {"model": "m", "quantization": "GGUF Q4_1 x 210, F32 x 61, dequantised"}
    figure, ax = plt.subplots()
    write_figure(figure, tmp_path / "one.png", packed, 50)
    assert "m: weights GGUF Q4_1 x 210, F32 x 61, dequantised" in words(figure)
    say_weights(figure, packed)  # said once
    assert words(figure).count("Q4_1") == 1
    several, _ = plt.subplots()
    say_weights(several, {"runs": [packed, packed, {"model": "n", "quantization": ""}]})
    assert words(several).count("Q4_1") == 1
    plain, _ = plt.subplots()
    say_weights(plain, {"model": "n"})
    assert "weights" not in words(plain)
    plt.close("all")
    assert ax.figure is figure
