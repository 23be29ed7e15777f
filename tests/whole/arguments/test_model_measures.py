"""A wrong option of a measure is refused in words; before, ``exclude_sinks="no"`` left the sinks out."""

from typing import Any

import pytest

import lacscope
from lacscope import measures
from lacscope.testing import tiny_model

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unchecked")]

PROMPTS = [list(range(3, 23)), list(range(30, 45))]
WITH_SINKS = (
    "relative_contributions",
    "residual_cosines",
    "logit_lens",
    "block_influence",
    "lim",
    "identity_distance",
    "depth_variance",
    "state_similarity",
)
OF_THE_AUTHORS = (*WITH_SINKS[:3], "current_skip_influence", "future_skip_influence", "local_skip_influence")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", n_layers=3)


def refuses(name: str, model: Any, text: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(measures, name)(model, PROMPTS, **options)


@pytest.mark.parametrize("name", WITH_SINKS)
@pytest.mark.parametrize("wrong", ["no", 1, None, []])
def test_exclude_sinks(name: str, wrong: Any, model: Any) -> None:
    refuses(name, model, "exclude_sinks must be True or False, got", exclude_sinks=wrong)


@pytest.mark.parametrize("name", ["relative_contributions", "residual_cosines"])
def test_sublayers(name: str, model: Any) -> None:
    refuses(name, model, "sublayers must be True or False, got 'no'", sublayers="no")


@pytest.mark.parametrize("name", OF_THE_AUTHORS)
def test_prompt_format(name: str, model: Any) -> None:
    refuses(name, model, r"prompt_format must be text, got \['chat'\]", prompt_format=["chat"])


@pytest.mark.parametrize("wrong", [True, 1.5, "x"])
def test_cuts(wrong: Any, model: Any) -> None:
    refuses("future_skip_influence", model, "cuts must be a list of lists, one for each prompt, got", cuts=wrong)
    for name in ("n_cuts", "seed", "first"):
        # Also where the reach has no use for them.
        refuses("local_skip_influence", model, f"{name} must be a whole number", **{name: wrong})


def test_options_of_one_measure(model: Any) -> None:
    refuses("sleb", model, r"go_on_from must be a Dataset, such as sleb\(model, inputs\); got 'x'", go_on_from="x")
    refuses("angular_distance", model, r"preset must be a Preset, such as GROMOV_ANGULAR; got 'x'", preset="x")
    with pytest.raises(ValueError, match=r"unknown variant \[\]; choose one of 'code', 'paper'"):
        lacscope.z_density(model, variant=[])
