"""What a result says of its settings."""

import importlib
import json

import pytest

from lacscope import model_measures as depth_efficiency
from lacscope import model_measures as importance
from lacscope.trace_analyses import _tell_tale as tell_tale
from lacscope.traces._provenance import Preset, result_attrs, with_samples

pytestmark = pytest.mark.once

# The package has functions of its modules' names.
depth_scores_module = importlib.import_module("lacscope.model_measures._depth_score")
effective_depth_module = importlib.import_module("lacscope.model_measures._effective_depth")

PAPER = Preset("doe_2025/effect", "arXiv 0000.00000", {"data": "GSM8K", "samples": 20, "skip_first": True})


def attrs_of(**changed: object) -> dict[str, str | int]:
    options = {"settings": {"skip_first": True}, "n_samples": 20, "data": "GSM8K", **changed}
    return result_attrs("effect", {"model": "m"}, preset=PAPER, positions="all", aggregation="mean", **options)  # type: ignore[arg-type]


def test_the_papers_own_settings_depart_in_nothing() -> None:
    attrs = attrs_of()
    assert (attrs["preset"], attrs["departures"]) == ("doe_2025/effect", "")
    assert json.loads(str(attrs["settings"])) == {"skip_first": True}


def test_every_departure_is_named_with_the_papers_value() -> None:
    attrs = attrs_of(settings={"skip_first": False}, n_samples=3, data="LAMBADA")
    said = ("data = LAMBADA (paper: GSM8K)", "samples = 3 (paper: 20)", "skip_first = false (paper: true)")
    assert attrs["departures"] == ", ".join(said)


def test_unnamed_data_are_a_departure_where_the_paper_names_its_own() -> None:
    assert attrs_of(data="")["departures"] == "data not named (paper: GSM8K)"
    nowhere = Preset("doe_2025/weights", "arXiv 0000.00000", {"samples": 20})
    attrs = result_attrs("effect", {}, preset=nowhere, settings={}, positions="all", aggregation="mean", n_samples=20)
    assert attrs["departures"] == ""


def test_where_the_settings_were_read_is_kept() -> None:
    assert (PAPER.read_in, attrs_of()["read_in"]) == ("paper", "paper")
    code = Preset("doe_2025/effect", "arXiv 0000.00000", {"samples": 20}, read_in="code")
    told = {"settings": {}, "positions": "all", "aggregation": "mean"}
    attrs = result_attrs("effect", {}, preset=code, n_samples=2, **told)  # type: ignore[arg-type]
    assert attrs["read_in"] == "code"
    assert with_samples(attrs, 20)["read_in"] == "code"
    assert with_samples(attrs, 20)["departures"] == "" != attrs["departures"]
    assert result_attrs("effect", {}, preset=None, n_samples=2, **told)["read_in"] == ""  # type: ignore[arg-type]


def test_only_what_was_read_in_code_says_so() -> None:
    modules = (depth_efficiency, importance, tell_tale, depth_scores_module, effective_depth_module)
    presets = {value.name: value.read_in for m in modules for value in vars(m).values() if isinstance(value, Preset)}
    assert {name for name, read_in in presets.items() if read_in == "code"} == {
        "csordas_2025/relative_contributions",
        "csordas_2025/residual_cosines",
        "csordas_2025/future_skip_influence",
        "csordas_2025/current_skip_influence",
        "csordas_2025/local_skip_influence",
        "csordas_2025/logit_lens",
        "csordas_2025/residual_erasure",
        "csordas_2025/integrated_gradients",
        "csordas_2025/depth_score",
        "csordas_2025/depth_score_math",
        "hu_2025/effective_depth",
        "men_2024/block_influence",
        "dumitru_2024/lim",
        "dumitru_2024/z_density",
        "sun_2025/angular_distance",
        "song_2024/sleb",
        "shrestha_2026/greedy_by_task",
        "zhang_2026/tell_tale_norm",
    }
    assert presets["sun_2025/variance"] == presets["sun_2025/identity_distance"] == "paper"


def test_attributes_are_str_and_int_alone() -> None:
    assert {type(value) for value in attrs_of().values()} == {str, int}


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = {"samples": 20}
    preset = Preset("a/b", "c", settings)
    settings["samples"] = 1
    assert preset.settings["samples"] == 20
