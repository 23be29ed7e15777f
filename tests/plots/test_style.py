import doctest
import importlib
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import xarray as xr

from lacscope import plots
from lacscope.trace_analyses._norms import norm_profile
from lacscope.trace_analyses._usage import layer_usage, token_usage, usage_by_alpha

pytestmark = pytest.mark.once


def test_style_applies_inside_the_with_only() -> None:
    before = dict(plt.rcParams)
    with plots.style():
        assert plt.rcParams["axes.spines.right"] is False
        assert dict(plt.rcParams) != before
    assert dict(plt.rcParams) == before


def test_the_style_file_is_a_style_of_matplotlibs() -> None:
    with plt.style.context(plots.STYLE_FILE):
        assert plt.rcParams["legend.frameon"] is False


def test_every_plot_draws_in_the_style(trace: xr.Dataset) -> None:
    with plots.style():
        plots.plot_norms(norm_profile(trace))
        plots.plot_norms(norm_profile(trace), style="paper")
        plots.plot_usage(layer_usage(trace), token_usage(trace))
        plots.plot_usage_by_alpha(usage_by_alpha(trace, [0.0, 0.8]))
        plots.plot_void_map(trace)
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    assert len(plt.get_fignums()) == 5


EXAMPLES = [("style", 2), ("norms", 3), ("usage", 4), ("alpha", 3), ("voidmap", 3), ("painters", 5)]


@pytest.mark.parametrize(("module", "least"), EXAMPLES)
def test_docstring_examples_run(module: str, least: int) -> None:
    outcome = doctest.testmod(importlib.import_module(f"lacscope.plots._{module}"))
    assert outcome.attempted >= least
    assert outcome.failed == 0


FRESH_PROCESS = """
import sys
import lacscope
from lacscope import plots
from lacscope.testing import synthetic_trace

trace = synthetic_trace()
profile = lacscope.norm_profile(trace)
plots.plot_norms(profile)
plots.plot_usage(lacscope.layer_usage(trace), lacscope.token_usage(trace))
plots.plot_usage_by_alpha(lacscope.usage_by_alpha(trace, [0.0, 0.8]))
plots.plot_void_map(trace).figure.canvas.draw()
assert "torch" not in sys.modules, "torch was imported"
try:
    plots.plot_norms(profile, style="thesis")
except ValueError as error:
    assert str(error) == "unknown style 'thesis'; choose one of 'quartiles', 'paper'.", error
else:
    raise AssertionError("an unknown style was accepted")
"""


@pytest.mark.slow
def test_plots_need_no_torch_and_refuse_unknown_styles_without_a_type_checker() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS], env={"MPLBACKEND": "Agg"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_style_leaves_what_others_set_meanwhile():
    """A notebook's backend turns interactive mode on inside the first ``with``; it must stay on."""
    before = plt.rcParams["interactive"]
    try:
        with plots.style():
            plt.rcParams["interactive"] = not before
        assert plt.rcParams["interactive"] is not before
    finally:
        plt.rcParams["interactive"] = before
