"""The record of a measure: a stranger's enters layer_scores, analyze, plots.plot and the table, by its record alone."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope import plots
from lacscope.analyze._catalogue import catalogue
from lacscope.analyze._prompts import Prompts
from lacscope.analyze._run import analyze
from lacscope.analyze._store import ResultStore
from lacscope.measures import MEASURES, Measure, Ranking, measures_table, register
from lacscope.testing import synthetic_trace
from lacscope.traces._measure import measure_of

PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [11, 4, 70, 2, 33]]


def largest_step(model: Any, inputs: Any, *, max_tokens: int | None = None, data: str = "") -> xr.Dataset:
    """The largest entry that each layer adds to the stream; a small one is important here."""
    found = []
    for read in lacscope.read_residuals(model, inputs, max_tokens=max_tokens):
        found.append((read.stream[1:] - read.stream[:-1]).abs().amax(dim=(-2, -1)).cpu().numpy())
    steps = np.stack(found)
    coords = {"sample": np.arange(len(steps)), "layer": np.arange(steps.shape[1])}
    attrs = {"measure": "largest_step", "data": data, "n_samples": len(steps)}
    return xr.Dataset({"step": (("sample", "layer"), steps)}, coords, attrs)


def draw(result: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    axes = plt.subplots()[1]
    axes.plot(result["step"].mean("sample"))
    return axes


RECORD = Measure(
    largest_step,
    "largest step",
    "largest entry that a layer adds",
    plot=draw,
    parts="all",
    rankings={"small steps": Ranking("step", important="smaller")},
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Measure:
    monkeypatch.setattr(MEASURES, "_added", {})
    return register(RECORD)


@pytest.mark.usefixtures("registered")
def test_a_measure_of_ones_own_ranks_the_layers_with_the_others(tiny: Any) -> None:
    others = list(lacscope.layer_scores(tiny, PROMPTS, leave_out=["identity distance", "SLEB order"]))
    leave_out = [name for name in others if name != "small steps"] + ["identity distance", "SLEB order"]
    (score,) = lacscope.layer_scores(tiny, PROMPTS, leave_out=leave_out).values()
    np.testing.assert_array_equal(score.values, -largest_step(tiny, PROMPTS)["step"].values)
    assert score.attrs["orientation"] == "larger = more important"


@pytest.mark.usefixtures("registered")
def test_it_is_an_analysis_of_the_command_line(tiny: Any, tmp_path: Path) -> None:
    analysis = catalogue()["largest-step"]
    assert (analysis.group, list(catalogue())[-1]) == ("own", "largest-step")
    prompts = Prompts("two", tuple(map(tuple, PROMPTS)))
    found = analyze(tiny, analysis, prompts, ResultStore(tmp_path), weights="w")
    np.testing.assert_array_equal(found["step"].values, largest_step(tiny, PROMPTS)["step"].values)
    assert found.attrs["data"] == "two"
    assert len(plots.plot(found).get_lines()) == 1
    assert (
        "| `largest_step` | largest entry that a layer adds | prompts | small steps | `draw` |  |" in measures_table()
    )


def test_what_is_taken_or_wrong_is_refused(registered: Measure, unchecked: None) -> None:
    with pytest.raises(ValueError, match="measure must be a Measure, such as Measure"):
        register(largest_step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lacscope has a measure 'lim' of its own"):
        register(Measure(lacscope.lim, "x", "y", plot=""))

    def another(model: Any) -> None: ...

    with pytest.raises(ValueError, match="lim ranks layers as 'LIM' already"):
        register(Measure(another, "x", "y", plot="", rankings={"LIM": Ranking("x")}))
    with pytest.raises(ValueError, match="z_density is 'zd' on the command line already"):
        register(Measure(another, "x", "y", plot="", command="zd"))
    with pytest.raises(ValueError, match="a measure's function is one with a name, got 3"):
        Measure(3, "x", "y", plot="")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"plot is a function, or the name of one of lacscope\.plots, got None"):
        Measure(another, "x", "y", plot=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rankings\['a'\] is a Ranking\(variable\), got 'x'"):
        Measure(another, "x", "y", plot="", rankings={"a": "x"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="unknown needs 'love'"):
        Measure(another, "x", "y", plot="", needs="love")  # type: ignore[arg-type]
    assert register(registered) is registered, "a notebook's cell may be run again"


def test_every_record_names_a_plot_that_there_is_and_stands_beside_a_public_function() -> None:
    public = set(dir(lacscope)) | set(vars(lacscope.measures)) | set(vars(lacscope.analyses))
    assert len(MEASURES) > 30
    for measure in MEASURES.values():
        assert measure.name in public
        if isinstance(measure.plot, str) and measure.plot:
            assert callable(getattr(plots, measure.plot))
            documentation = inspect.getdoc(measure.function) or ""
            assert measure.plot in documentation, f"{measure.name}'s docstring does not name its plot"


def test_any_result_is_drawn_by_its_record(tiny: Any) -> None:
    trace = synthetic_trace()
    assert plots.plot(trace).get_xlabel()
    assert plots.plot(lacscope.usage_by_alpha(trace, [0.0, 0.8])).get_xlabel() == "alpha (scale of the threshold)"
    assert len(plots.plot(lacscope.norm_profile(trace))) == 2
    for measure in (lacscope.block_influence, lacscope.causal_ablation, lacscope.residual_cosines):
        assert plots.plot(measure(tiny, PROMPTS)).get_xlabel() == "layer"


def test_what_cannot_be_drawn_says_why() -> None:
    with pytest.raises(ValueError, match="a Dataset without the attribute 'measure' does not say which measure made"):
        plots.plot(xr.Dataset())
    with pytest.raises(ValueError, match=r"the result is of the measure 'theirs', which is not registered here"):
        plots.plot(xr.Dataset(attrs={"measure": "theirs"}))
    with pytest.raises(ValueError, match="token_usage has no plot of its own"):
        plots.plot(lacscope.token_usage(synthetic_trace()))


def test_a_plots_name_is_looked_up_among_the_plots_alone() -> None:
    with pytest.raises(ValueError, match=r"lacscope\.plots has no plot 'STYLE_FILE'; it has plot_ablation, "):
        plots._plot.drawing(Measure(draw, "x", "y", plot="STYLE_FILE"))


def test_the_documentation_has_the_table_of_lacscopes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURES, "_added", {})
    page = Path(__file__).parents[2] / "docs" / "measures.md"
    assert measures_table() in page.read_text()


def test_a_measure_takes_what_it_has_a_keyword_for() -> None:
    assert RECORD.takes(max_tokens=3, seed=1) == {"max_tokens": 3}
    assert measure_of(xr.Dataset(attrs={"measure": "lim"})).label == "LIM"


def first_norms(model: Any, inputs: Any) -> xr.Dataset:
    """The first norm of each prompt."""
    norms = lacscope.trace(model, inputs)["resid_pre_norm"].isel(layer=0, token=0)
    return norms.drop_vars([*set(norms.coords) - {"sample"}]).to_dataset(name="norm")


def test_a_measure_of_ones_own_may_be_run_prompt_by_prompt(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURES, "_added", {})
    register(Measure(first_norms, "first norms", "the first norm", plot=draw, parts="each"))
    prompts = Prompts("three", ((1, 2), (3, 4, 5), (6,)))
    found = analyze(tiny, catalogue()["first-norms"], prompts, ResultStore(tmp_path), weights="w")
    np.testing.assert_allclose(found["norm"], first_norms(tiny, [[1, 2], [3, 4, 5], [6]])["norm"], rtol=1e-6)
    assert found["sample"].values.tolist() == [0, 1, 2]


def test_a_record_says_only_what_the_command_line_can_run(unchecked: None) -> None:
    with pytest.raises(ValueError, match="parts='each' with needs='weights': lacscope analyze runs by their record"):
        Measure(first_norms, "x", "y", plot="", needs="weights", parts="each")
    with pytest.raises(ValueError, match="parts='all' with needs='trace'"):
        Measure(first_norms, "x", "y", plot="", needs="trace", parts="all")
    with pytest.raises(ValueError, match="parts='all' without a plot: lacscope analyze draws what it runs"):
        Measure(first_norms, "x", "y", plot="", parts="all")
