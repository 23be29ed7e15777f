"""Plans as values: what runs when, where K/V is kept, and what is refused."""

import json

import pytest

from lacscope.plans import Plan, Slot
from lacscope.plans._plan import painters_middle

RANGES = pytest.mark.parametrize(
    ("n_layers", "start", "middle"),
    [(8, 0, [1, 2, 3, 4, 5, 6, 7]), (8, 2, [3, 4, 5]), (8, 3, [4]), (5, 1, [2, 3]), (4, 0, [1, 2, 3]), (2, 0, [1])],
)


@RANGES
def test_the_middle_of_the_paper(n_layers, start, middle):
    """Layers 0..s and L-s..L-1 stay; at s = 0 the last block is in the middle."""
    assert painters_middle(n_layers, start) == middle


@RANGES
def test_painters_by_hand(n_layers, start, middle):
    first, last = list(range(start + 1)), list(range(n_layers - start, n_layers))

    def order(kind, **options):
        return list(Plan.painters(n_layers, kind, start, **options).order)

    assert order("skip") == first + last
    assert order("middle_repeat") == first + [n_layers // 2] * len(middle) + last
    assert order("reverse") == first + middle[::-1] + last
    assert order("parallel") == first + middle + last
    assert order("looped_parallel", times=2) == first + middle + middle + last
    drawn = order("random", seed=3)
    assert drawn == order("random", seed=3)
    assert sorted(drawn) == list(range(n_layers))
    assert drawn[: start + 1] == first
    looped = Plan.painters(n_layers, "looped_parallel", start, times=2)
    assert [slot.blocks for slot in looped.slots[start + 1 : start + 3]] == [tuple(middle)] * 2


def test_seeds_draw_different_orders():
    orders = {Plan.painters(12, "random", 0, seed=seed).order for seed in range(6)}
    assert len(orders) == 6


@pytest.mark.parametrize("start", [-1, 4, 9])
def test_a_start_that_leaves_no_middle_is_refused(start):
    with pytest.raises(ValueError, match=f"start must be 0 to 3 in a model of 8 layers, got {start}"):
        Plan.painters(8, "skip", start)


def test_the_other_builders_by_hand():
    assert Plan.full(3).order == (0, 1, 2)
    assert Plan.skip(5, [0, -1]).order == (1, 2, 3)
    assert Plan.swap(4, 1).order == (0, 2, 1, 3)
    assert Plan.swap(4, -2).order == (0, 1, 3, 2)
    assert Plan.repeat(4, [1, 2], times=3).order == (0, 1, 2, 1, 2, 1, 2, 3)
    assert Plan.reverse(4, range(4)).order == (3, 2, 1, 0)
    assert sorted(Plan.shuffle(6, range(1, 5), seed=0).order) == list(range(6))


def test_every_run_has_a_place_of_its_own_in_the_cache():
    assert Plan.skip(5, [0, 2]).kv_slots == ((0,), (1,), (2,))
    assert Plan.repeat(3, [1]).kv_slots == ((0,), (1,), (2,), (3,))
    assert Plan.parallel(4, [1, 2]).kv_slots == ((0,), (1, 2), (3,))
    assert Plan.parallel(4, [1, 2]).kv_blocks == (0, 1, 2, 3)
    assert Plan.looped_parallel(4, [1, 2], times=2, kv="authors_kv").kv_blocks == (0, 1, 1, 3)
    assert Plan.skip(5, [0, 2]).kv_blocks == (1, 3, 4)


def test_what_skips_more_and_what_does_not():
    full = Plan.full(5)
    assert Plan.skip(5, [0]).kept_kv(full) == (1, 2, 3, 4)
    assert Plan.skip(5, [0, 3]).kept_kv(Plan.skip(5, [3])) == (1, 2, 3)
    assert full.kept_kv(Plan.skip(5, [0])) is None
    assert Plan.swap(5, 1).kept_kv(full) is None
    assert Plan.full(4).kept_kv(full) is None
    looped = Plan.looped_parallel(4, [1, 2], times=3)
    assert Plan.parallel(4, [1, 2]).kept_kv(looped) == (0, 1, 2, 7)


def test_words():
    assert Plan.full(4).describe() == "0-3"
    assert Plan.skip(6, [1, 3]).describe() == "0, 2, 4-5"
    assert Plan.painters(6, "middle_repeat", 0).describe() == "0, 5x 3"
    assert Plan.looped_parallel(6, range(2, 5), times=3, kv="authors_kv").describe() == (
        "0-1, 3x mean(2-4) kept as one K/V, 5"
    )
    assert repr(Plan.swap(3, 0)) == "Plan(3 layers: 1, 0, 2)"
    assert json.loads(Plan.full(3).as_json(Plan.skip(3, [1]))) == {
        "plan": "0-2",
        "blocks": [0, 1, 2],
        "decode": "0, 2",
        "idle": [1],
    }
    assert json.loads(Plan.of(3, [2, 1]).as_json()) == {"plan": "2, 1", "blocks": [2, 1], "idle": []}


def test_properties():
    assert Plan.skip(4, [2]).only_skips
    assert not Plan.swap(4, 1).only_skips
    assert not Plan.repeat(4, [1]).only_skips
    assert not Plan.parallel(4, [1, 2]).only_skips
    assert Plan.parallel(4, [1, 2]).has_parallel
    assert Plan.painters(6, "middle_repeat", 1).skipped == {2, 4}
    assert Plan.full(4) == Plan.skip(4, [])
    assert len({Plan.full(4), Plan.skip(4, []), Plan.swap(4, 0)}) == 2


REFUSED = {
    "no block at all": (lambda: Plan.skip(3, [0, 1, 2]), "at least one block"),
    "a block too many": (lambda: Plan.of(3, [0, 3]), r"blocks \[3\]: the model has blocks 0 to 2"),
    "a layer too many": (lambda: Plan.skip(3, [5]), r"layer 5: the model has layers 0 to 2"),
    "not a layer": (lambda: Plan.skip(3, [True]), "layer True"),
    "no neighbours": (lambda: Plan.reverse(6, [1, 3]), r"neighbours in rising order.*got \[1, 3\]"),
    "no stretch": (lambda: Plan.parallel(6, []), "neighbours in rising order"),
    "the last swapped": (lambda: Plan.swap(4, 3), "layer 3 is the last of 4"),
    "no times": (lambda: Plan.repeat(4, [1], times=0), "times must be at least 1, got 0"),
    "no seed": (lambda: Plan.painters(4, "random", 0), "needs seed="),
    "twice in a slot": (lambda: Slot((1, 1)), r"different blocks, got \(1, 1\)"),
    "an empty slot": (lambda: Slot(()), "different blocks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_in_words(case):
    build, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        build()


def test_unknown_options_are_refused_in_words(unchecked):
    with pytest.raises(ValueError, match=r"a plan is made of block indices \(int\), got 1.9"):
        Plan.of(3, [0, 1.9])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"unknown kind 'upside down'; choose one of 'skip', 'middle_repeat'"):
        Plan.painters(4, "upside down", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kv must be one of 'each', 'authors_kv', got 'none'"):
        Slot((1, 2), "none")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Plan.full(True), "n_layers must be a whole number, at least 1, got True"),
        (lambda: Plan.skip(4.5, [1]), "n_layers must be a whole number, at least 1, got 4.5"),
        (lambda: Plan.skip("4", [1]), "n_layers must be a whole number, at least 1, got '4'"),
        (lambda: Plan(True, (Slot((0,)),)), "n_layers must be a whole number, at least 1, got True"),
        (lambda: Plan(2, (0, 1)), r"slots must be a tuple of Slot, .*got \(0, 1\)\. Blocks .* are Plan.of"),
        (lambda: Plan.skip(4, 1), "layers must be a list of block indices, got 1"),
        (lambda: Plan.reverse(4, None), "layers must be a list of block indices, got None"),
        (lambda: Plan.of(4, 1), "order must be a list of block indices, got 1"),
        (lambda: Plan.repeat(4, [1], times=True), "times must be a whole number, at least 1, got True"),
        (lambda: Plan.repeat(4, [1], times=1.5), "times must be a whole number, at least 1, got 1.5"),
        (lambda: Plan.shuffle(4, [1, 2], seed=None), "seed must be a whole number, 0 or more, got None"),
        (lambda: Plan.shuffle(4, [1, 2], seed=True), "seed must be a whole number, 0 or more, got True"),
        (lambda: Plan.painters(8, "skip", True), "start must be a whole number, got True"),
        (lambda: Plan.painters(8, "skip", 0.5), "start must be a whole number, got 0.5"),
        (lambda: Slot((True,)), "a block of a slot must be a whole number, 0 or more, got True"),
        (lambda: Slot((0.5,)), "a block of a slot must be a whole number, 0 or more, got 0.5"),
        (lambda: Slot(3), "blocks must be a list of block indices, got 3"),
    ],
)
def test_counts_that_are_none_are_refused_in_words(build, words, unchecked):
    with pytest.raises(ValueError, match=words):
        build()
