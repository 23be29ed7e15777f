"""Import paths from before the rooms: they give the very same things until 1.0."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

import lacscope
from lacscope.guards._old_paths import _MOVED, _RENAMED, new_path

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("adapters", "adapt", "models.adapters"),
        ("adapters.bridge", "build_bridge", "models.adapters"),
        ("analyses", "layer_usage", "trace_analyses"),
        ("analyses.agreement", "agreement", "trace_analyses"),
        ("analyses.controls", "norm_null", "reproduction.controls"),
        ("analyses.scores", "usage_by_layer", "reproduction.scores"),
        ("analyses.voids", "voids", "traces"),
        ("checks", "UnsupportedModelError", "models"),
        ("choices", "score_choices", "model_measures"),
        ("cli", "main", "cli"),
        ("dataset", "TraceError", "traces"),
        ("depth_efficiency", "linear_maps", "model_measures"),
        ("depth_efficiency.future", "future_skip_influence", "model_measures"),
        ("facts", "weights_digest", "models"),
        ("hooks", "halting", "tracing"),
        ("importance", "sleb", "model_measures"),
        ("importance.agreement", "layer_scores", "model_measures"),
        ("measures", "block_influence", "model_measures"),
        ("models", "load_model", "models"),
        ("painters", "variants", "model_measures"),
        ("presets", "Preset", "traces"),
        ("questions", "read_questions", "tracing"),
        ("recorder", "Recorder", "tracing"),
        ("reproduction.studies", "open_studies", "reproduction"),
        ("residuals", "rerun", "model_measures"),
        ("sweep.spec", "SweepSpec", "reproduction.sweep._spec"),
        ("tasks.base", "Question", "tasks"),
        ("tasks.registry", "task", "tasks"),
        ("tradeoff", "plan_tradeoff", "model_measures"),
    ],
)
def test_an_old_import_path_gives_the_same(old: str, name: str, new: str) -> None:
    given = getattr(importlib.import_module(f"lacscope.{old}"), name)
    assert given is getattr(importlib.import_module(f"lacscope.{new}"), name)
    assert name not in dir(lacscope) or given is getattr(lacscope, name)


ROOMS = ("analyze", "harness", "plans", "plots", "reproduction", "rules", "tasks")


def test_every_file_of_a_room_that_stayed_is_found_without_its_underscore() -> None:
    package = Path(lacscope.__file__).parent
    for room in ROOMS:
        for path in sorted((package / room).glob("_[a-z]*.py")):
            old = importlib.import_module(f"lacscope.{room}.{path.stem.removeprefix('_')}")
            new = importlib.import_module(f"lacscope.{room}.{path.stem}")
            public = [name for name in vars(new) if not name.startswith("_")]
            assert public
            for name in public:
                assert getattr(old, name) is getattr(new, name)
            assert new.__spec__ is not None
            assert new.__spec__.name == new.__name__


@pytest.mark.parametrize("below", [*_MOVED, *_RENAMED])
def test_loose_files_are_found_where_they_went(below: str) -> None:
    if below.startswith("cli_harness"):
        pytest.importorskip("lm_eval")
    assert importlib.import_module(f"lacscope.{below}").__name__ == new_path(f"lacscope.{below}")


def test_a_function_is_not_put_aside_by_the_old_path_of_its_file(run_python: Callable[[str], str]) -> None:
    found = run_python(
        "import lacscope.plans.plan, lacscope.plots.style, lacscope.plans, lacscope.plots\n"
        "from lacscope.plans.plan import Plan\n"
        "print(callable(lacscope.plans.plan), callable(lacscope.plots.style), Plan is lacscope.Plan)"
    )
    assert found.split() == ["True"] * 3


def test_the_command_lines_names_stay_where_they_were() -> None:
    from lacscope import cli
    from lacscope.cli import _app

    assert (cli.console, cli.step) == (_app.console, _app.step)
    with pytest.raises(AttributeError, match=r"module 'lacscope\.cli' has no attribute 'nothing'"):
        cli.nothing  # noqa: B018


def test_what_never_was_is_not_found() -> None:
    for name in ("nothing", "plots.nothing", "guards.arguments"):
        with pytest.raises(ModuleNotFoundError, match=f"No module named 'lacscope.{name}'"):
            importlib.import_module(f"lacscope.{name}")
