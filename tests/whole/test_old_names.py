"""Import paths from before the rooms: they give the very same things until 1.0."""

import importlib

import pytest

import lacscope

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
