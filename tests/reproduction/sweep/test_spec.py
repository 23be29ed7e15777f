"""A specification's id says what changes the answer, and nothing else; its shards cover its samples."""

import dataclasses
import json

import pytest
from toy import LAC, spec

from lacscope.reproduction.sweep._spec import FULL, Condition, SweepSpec

pytestmark = pytest.mark.once

CHANGES = {
    "weights": "ab",
    "dtype": "bfloat16",
    "device": "cuda",
    "task": "other",
    "inputs": "bc",
    "samples": (3, 1, 4, 15),
    "conditions": (FULL, LAC, Condition("bypass", "lac", 0.5)),
    "batch_size": 4,
    "shard_size": 3,
    "seed": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "versions": (("torch", "3"),),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_answer_changes_the_id(name):
    assert spec(**{name: CHANGES[name]}).id != spec().id


def test_every_field_is_either_tried_here_or_only_describes():
    tried = {*CHANGES, "scoring", "max_new_tokens", "phase_alphas"}
    described = {f.name for f in dataclasses.fields(SweepSpec) if not f.metadata.get("hashed", True)}
    assert tried | described == {f.name for f in dataclasses.fields(SweepSpec)}
    assert spec(scoring="generated", max_new_tokens=4).id != spec().id
    assert spec(scoring="generated", max_new_tokens=4).id != spec(scoring="generated", max_new_tokens=5).id
    phased = spec(scoring="generated", max_new_tokens=4, phase_alphas=(0.8,))
    assert phased.id != spec(scoring="generated", max_new_tokens=4).id
    assert SweepSpec.from_json(phased.to_json()) == phased


def test_a_label_changes_nothing():
    described = {"model": "another", "style": "word", "shots": 5, "data_seed": 1, "keep_text": False}
    assert all(spec(**{name: value}).id == spec().id for name, value in described.items())


@pytest.mark.parametrize("field", ["alpha", "seed", "protect", "layers"])
def test_each_part_of_a_condition_counts(field):
    one = Condition("bypass", "random_layers", 0.8, seed=0)
    changed = dataclasses.replace(one, **{field: {"alpha": 0.7, "seed": 1, "protect": True, "layers": (1,)}[field]})
    assert spec(conditions=(FULL, one)).id != spec(conditions=(FULL, changed)).id


def test_it_is_read_back_as_it_was_written():
    given = spec(conditions=(FULL, LAC, Condition("bypass", "last_layers", 0.8, layers=(2, 3))))
    assert SweepSpec.from_json(given.to_json()) == given


def test_an_edited_text_is_refused():
    text = spec().to_json().replace('"dtype": "float32"', '"dtype": "bfloat16"')
    with pytest.raises(ValueError, match="it was edited"):
        SweepSpec.from_json(text)
    assert json.loads(spec().to_json())["id"] == spec().id


def test_shards_cover_every_sample_once():
    given = spec()
    covered = [i for index in range(given.n_shards) for i in given.shard(index)]
    assert covered == list(range(5))
    assert [len(given.shard(i)) for i in range(given.n_shards)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"samples": ()}, "at least one sample"),
        ({"samples": (1, 1)}, "must differ from one another"),
        ({"conditions": (LAC,)}, "needs the full model"),
        ({"conditions": (FULL, LAC, LAC)}, "conditions must differ"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 3}, "goes with generation alone"),
        ({"scoring": "generated"}, "goes with generation alone"),
        ({"phase_alphas": (0.8,)}, "they go with scoring='generated'"),
        (
            {
                "scoring": "generated",
                "max_new_tokens": 3,
                "conditions": (FULL, Condition("bypass", "random_layers", 0.8, seed=0)),
            },
            "known beforehand",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        spec(**changes)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("skip", "lac", 0.8), "unknown effect 'skip'; choose one of none, observe, readout, bypass"),
        (("readout", "random_layers", 0.8, 0), "cannot go with effect 'readout'; it takes lac, permuted_exits"),
        (("none", "full", 0.8), "every rule but 'full' has an alpha"),
        (("bypass", "lac"), "every rule but 'full' has an alpha"),
        (("bypass", "lac", 0.8, 0), "a seed goes with a random control alone"),
        (("bypass", "random_tokens", 0.8), "a seed goes with a random control alone"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(given, text, unchecked):
    with pytest.raises(ValueError, match=text):
        Condition(*given)
