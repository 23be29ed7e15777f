"""Many rules under readout in one run: equal to one run per rule, at the cost of the tokens that differ."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, rows_of, shared_model, unchanged

from lacscope import FixedLayers, GivenVoids, L2AdaptiveComputation, NonFiniteStreamError, trace
from lacscope.rules import LayerView, describe_rule
from lacscope.testing import ARCHITECTURES, tiny_model
from lacscope.tracing._branching import RuleKeepsStateError
from lacscope.tracing._session import HaltingSession

RULES = [L2AdaptiveComputation(alpha) for alpha in (0.0, 0.3, 0.6, 2.0)] + [FixedLayers([3]), FixedLayers([])]
SAMPLED = {"temperature": 1.2, "top_p": 0.9, "seed": 4}
ANSWERS = [[8, 30], [55, 6, 70, 4], [9], [31, 32, 33]]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns of each pass, filled as they are made."""
    shapes: list[tuple[int, int]] = []
    step = HaltingSession.step

    def counted(self: Any, rows: Any, tokens: torch.Tensor, *args: Any) -> Any:
        shapes.append(tuple(tokens.shape))
        return step(self, rows, tokens, *args)

    monkeypatch.setattr(HaltingSession, "step", counted)
    return shapes


def assert_equal_to_one_at_a_time(model: Any, rules: list[Any], **options: Any) -> Any:
    """Returns the trace of all rules."""
    inputs = options.pop("inputs", PROMPTS)
    many = trace(model, inputs, rule=rules, effect="readout", **options)
    assert many.rule.values.tolist() == [describe_rule(rule) for rule in rules]
    for index, rule in enumerate(rules):
        one = trace(model, inputs, rule=rule, effect="readout", **options)
        for sample in range(len(inputs)):
            got, expected = rows_of(many.isel(rule=index), sample), rows_of(one, sample)
            assert_same_trace(got, expected)
            for name in {"surprisal", "rank", "entropy", "logits"} & set(expected.data_vars):
                np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)
    return many


def histories(made: Any, sample: int, rule: int) -> list[int]:
    """Generated tokens, the last of which is never read."""
    ids = rows_of(made.isel(rule=rule), sample).next_token_id.values
    return ids[ids >= 0].tolist()


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "gpt_neox"))]
)
def test_many_rules_equal_one_run_for_each(architecture: str, hooks: str, sampling: dict[str, Any]) -> None:
    model = shared_model(architecture, hooks)
    trace(model, PROMPTS)  # a bridge hooks modules of its own on its first pass
    with unchanged(model):
        made = assert_equal_to_one_at_a_time(model, RULES, max_new_tokens=6, batch_size=3, **sampling)
    answers = {tuple(histories(made, sample, rule)) for sample in range(4) for rule in range(6)}
    assert len(answers) > 4, "no sample's rules disagreed: the test shows nothing"


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_ends_on_more_rows_than_it_began_with(architecture: str) -> None:
    assert_equal_to_one_at_a_time(shared_model(architecture, "residual"), RULES[1:4], max_new_tokens=3, logits="last")


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_sequences_end_at_their_own_end_of_sequence(sampling: dict[str, Any]) -> None:
    free = trace(shared_model(), PROMPTS, rule=RULES, effect="readout", max_new_tokens=8, **sampling)
    model = tiny_model()
    # Tokens that come up at different steps for different rules.
    model.original_model.generation_config.eos_token_id = [histories(free, 0, 0)[2], histories(free, 1, 3)[4]]
    made = assert_equal_to_one_at_a_time(model, RULES, max_new_tokens=8, batch_size=4, **sampling)
    lengths = {len(histories(made, sample, rule)) for sample in range(4) for rule in range(6)}
    assert len(lengths) > 1, "all ended together: the test shows nothing"


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("logits", ["none", "last", "all"])
@pytest.mark.parametrize("answers", [{"responses": ANSWERS}, {"max_new_tokens": 4}, {}], ids=["given", "made", "none"])
def test_what_is_measured_on_logits_is_each_rules_own(answers: dict[str, Any], logits: str, scope: str) -> None:
    options = {"measures": ["surprisal", "rank", "entropy"], "logits": logits, "tokenwise": scope, **answers}
    made = assert_equal_to_one_at_a_time(shared_model(), RULES[:4], batch_size=3, **options)
    if answers or scope == "all":
        entropy = made.entropy.values
        assert not np.allclose(entropy[0], entropy[3], equal_nan=True), "the rules' logits are alike"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_last_logits_of_prompts_with_given_answers(architecture: str) -> None:
    model = shared_model(architecture)
    given = trace(model, PROMPTS, rule=RULES, effect="readout", responses=ANSWERS, logits="last")
    alone = trace(model, PROMPTS, rule=RULES, effect="readout", logits="last")
    np.testing.assert_allclose(given.logits, alone.logits, atol=1e-4)


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_one_prefill_and_a_row_for_each_history(sampling: dict[str, Any], steps: list[tuple[int, int]]) -> None:
    made = trace(shared_model(), PROMPTS, rule=RULES, effect="readout", max_new_tokens=6, batch_size=4, **sampling)
    expected = [(4, 7)]
    for read in range(1, 6):
        alive = {
            (sample, tuple(tokens[:read]))
            for sample in range(4)
            for rule in range(len(RULES))
            if len(tokens := histories(made, sample, rule)) > read
        }
        expected += [(len(alive), 1)] if alive else []
    assert steps == expected
    assert expected[-1][0] > 4, "nothing branched: the test shows nothing"


def test_rules_that_agree_cost_as_much_as_one(steps: list[tuple[int, int]]) -> None:
    rules = [FixedLayers([]), FixedLayers([1]), FixedLayers([1, 2])]  # their exits are all at the last layer
    trace(shared_model(), PROMPTS, rule=rules, effect="readout", max_new_tokens=5)
    assert steps == [(4, 7)] + [(4, 1)] * 4


def test_logits_of_many_rules_stay_within_their_memory(monkeypatch) -> None:
    """Smaller batches, the same numbers."""
    model, widths = tiny_model(), []
    options = {"rule": RULES, "effect": "readout", "measures": ["surprisal"], "responses": ANSWERS}
    before = trace(model, PROMPTS, tokenwise="response", **options)
    head = model.original_model.lm_head
    head = getattr(head, "original_component", head)
    head.register_forward_pre_hook(lambda module, given: widths.append(tuple(given[0].shape[:2])))
    longest = max(len(answer) for answer in ANSWERS) + 1
    monkeypatch.setattr("lacscope.tracing._branching.LOGIT_BYTES", 2 * 4 * 97 * longest * len(RULES))
    after = trace(model, PROMPTS, tokenwise="response", **options)
    assert {rows for rows, _ in widths} == {2 * len(RULES)}
    np.testing.assert_allclose(before["surprisal"], after["surprisal"], atol=2e-5)


def test_only_the_positions_that_are_wanted_are_unembedded() -> None:
    model, widths = tiny_model(), []
    trace(model, PROMPTS, rule=RULES, effect="readout")  # its check passes, made once, are not counted
    head = model.original_model.lm_head
    head = getattr(head, "original_component", head)
    head.register_forward_pre_hook(lambda module, given: widths.append(tuple(given[0].shape[:2])))
    options = {"rule": RULES, "effect": "readout", "measures": ["surprisal"], "responses": ANSWERS}
    trace(model, PROMPTS, tokenwise="response", **options)
    trace(model, PROMPTS, rule=RULES, effect="readout", max_new_tokens=1)
    assert widths == [(24, 5), (24, 1)]


def test_logits_at_every_position_take_no_more_rows_than_one_rules_run() -> None:
    model, widths = tiny_model(), []
    trace(model, PROMPTS, rule=RULES, effect="readout")
    head = model.original_model.lm_head
    head = getattr(head, "original_component", head)
    head.register_forward_pre_hook(lambda module, given: widths.append(tuple(given[0].shape[:2])))
    trace(model, PROMPTS, rule=RULES, effect="readout", measures=["entropy"], batch_size=12)
    trace(model, PROMPTS, rule=RULES, effect="readout", logits="all", batch_size=1)
    # Two samples at a time, then one: under six rules each.
    assert widths == [(12, 3), (12, 7), (6, 1), (6, 3), (6, 5), (6, 7)]


@dataclass(frozen=True)
class Latching:
    """A layer that was void for the prompt's last token stays void: state from pass to pass."""

    alpha: float = 0.6
    decides: ClassVar[str] = "after"
    needs: ClassVar[frozenset[str]] = frozenset()
    unit: str = "block"
    asked: list[int] = field(default_factory=list, compare=False)

    def voids(self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]) -> torch.Tensor:
        now = L2AdaptiveComputation(self.alpha).voids(view, pass_state, {})
        before = run_state.setdefault(f"layer {view.layer}", now[:, -1:])
        return now | before


def test_a_rule_that_keeps_state_runs_by_itself(steps: list[tuple[int, int]]) -> None:
    rules = [Latching(0.3), L2AdaptiveComputation(0.6), Latching(2.0)]
    assert_equal_to_one_at_a_time(shared_model(), rules, max_new_tokens=4, batch_size=4)
    prefills = [shape for shape in steps if shape[1] > 1]
    assert len(prefills) == 1 + 3 + 3, "one that found the state out, one for each rule, and the test's own three"
    assert issubclass(RuleKeepsStateError, RuntimeError)


def test_a_users_hook_sees_each_rules_run(steps: list[tuple[int, int]]) -> None:
    seen: list[int] = []
    hook = ("blocks.0.hook_resid_pre", lambda x, hook: seen.append(len(x)))
    trace(shared_model(), PROMPTS, rule=RULES[:2], effect="readout", max_new_tokens=3, fwd_hooks=[hook])
    assert seen == [4] * 6
    assert len(steps) == 6


def test_thresholds_are_each_rules_own() -> None:
    many = trace(shared_model(), PROMPTS, rule=RULES[1:3], effect="readout", measures=["threshold"])
    one = trace(shared_model(), PROMPTS, rule=RULES[2], effect="readout", measures=["threshold"])
    np.testing.assert_allclose(many.threshold.isel(rule=1), one.threshold, rtol=1e-5)


def test_given_voids_follow_their_sample_where_rows_are_divided() -> None:
    model, ids = shared_model(), [70, 3, 12, 5]
    options = {"effect": "readout", "max_new_tokens": 6, "sample_ids": ids}
    made = trace(model, PROMPTS, rule=RULES, **options)
    replayed = [GivenVoids.of(made.void.isel(rule=index)) for index in range(len(RULES))]
    again = trace(model, PROMPTS, rule=replayed, **options)
    for index in range(len(RULES)):
        for sample in range(4):
            assert_same_trace(rows_of(again.isel(rule=index), sample), rows_of(made.isel(rule=index), sample))


def test_not_a_number_names_the_sample() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.original_model.model.embed_tokens.weight[77] = float("nan")
    with pytest.raises(NonFiniteStreamError, match=r"entering layer 0 is not finite at sample 12, token 1 \(id 77\)"):
        trace(model, [[5, 6, 7], [8, 9], [4, 77]], rule=RULES, effect="readout", sample_ids=[10, 11, 12])


def test_progress_counts_samples_once() -> None:
    calls = []
    trace(
        shared_model(),
        PROMPTS,
        rule=RULES,
        effect="readout",
        batch_size=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(3, 4), (4, 4)]


@pytest.mark.slow
def test_the_demo_model() -> None:
    from lacscope import load_model

    model = load_model("smollm2-135m-instruct", hooks="residual")
    prompts = ["The capital of France is", "Rivers", "Water boils at a temperature of", "My favourite"]
    rules = [L2AdaptiveComputation(alpha) for alpha in (0.0, 0.2, 0.5, 0.8)]
    options = {"inputs": prompts, "max_new_tokens": 6, "measures": ["surprisal", "rank"], "tokenwise": "response"}
    assert_equal_to_one_at_a_time(model, rules, **options)
