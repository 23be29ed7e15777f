"""Scores against direct computations on the plain transformers model, and against the trace's own analyses."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import without_layers
from toy import SWEPT, ToyTask, toy_questions

from lacscope import L2AdaptiveComputation, layer_usage, mean_exit_depth, skippable_compute, trace, voids
from lacscope.models.adapters import adapt
from lacscope.reproduction.controls import random_layers
from lacscope.reproduction.sweep._runner import make_spec
from lacscope.reproduction.sweep._scoring import score_shard
from lacscope.reproduction.sweep._spec import FULL, Condition
from lacscope.rules import GivenVoids
from lacscope.testing import tiny_transformers_model
from lacscope.tracing._questions import digest, read_questions, single_token


def scored(model, kind="single", conditions=SWEPT, n=6, scoring="choice", **settings):
    task = ToyTask(kind)
    read = read_questions(adapt(model), toy_questions(n, kind))
    spec = make_spec(model, "w", task.name, "plain", read, scoring, conditions, batch_size=4, **settings)
    return read, score_shard(model, task, read, spec)


def of(scores, effect, rule="lac", alpha=None):
    rows = scores[(scores["effect"] == effect) & (scores["rule"] == rule)]
    return rows if alpha is None else rows[np.isclose(rows["alpha"], alpha)]


@torch.no_grad()
def direct_logp(hf_model, prompt, choice):
    """Log-probability of a choice after a prompt, token by token; and whether each token was the likeliest."""
    logp, greedy = 0.0, True
    for k in range(len(choice)):
        logits = hf_model(torch.tensor([[*prompt, *choice[:k]]])).logits[0, -1].double()
        logp += float(torch.log_softmax(logits, -1)[choice[k]])
        greedy = greedy and int(logits.argmax()) == choice[k]
    return logp, greedy


# --- questions --------------------------------------------------------------------------------------------


def test_questions_are_read_as_the_model_reads_text_and_chat(tiny_with_tokenizer):
    model = tiny_with_tokenizer
    (text,) = read_questions(adapt(model), toy_questions(1))
    assert list(text.prompt) == model.to_tokens(text.question.prompt)[0].tolist()
    assert [len(ids) for ids in text.choices] == [1, 1, 1]
    (chat,) = read_questions(adapt(model), toy_questions(1, chat=True))
    wrapped = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": chat.question.prompt}], add_generation_prompt=True, return_dict=False
    )
    assert list(chat.prompt) == wrapped


def test_questions_stand_shortest_first_and_their_digest_sees_every_part(tiny_with_tokenizer):
    questions = toy_questions(8)
    read = read_questions(adapt(tiny_with_tokenizer), questions)
    lengths = [(len(one.prompt), one.question.sample) for one in read]
    assert lengths == sorted(lengths)
    seen = {digest(read), digest(read[1:])}
    for change in ({"prompt": "deep"}, {"target": (questions[0].target + 1) % 3}, {"answer": "x"}, {"sample": 99}):
        changed = [dataclasses.replace(questions[0], **change), *questions[1:]]
        seen.add(digest(read_questions(adapt(tiny_with_tokenizer), changed)))
    assert len(seen) == 6


def test_only_several_choices_of_one_token_are_scored_after_the_prompt_alone(tiny_with_tokenizer):
    kinds = {k: single_token(read_questions(adapt(tiny_with_tokenizer), toy_questions(4, k))) for k in ToyKinds}
    assert kinds == {"single": True, "several": False, "one": False}


ToyKinds = ("single", "several", "one")


# --- log-probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ToyKinds)
def test_the_full_models_scores_are_the_plain_models(tiny_with_tokenizer, kind):
    read, tables = scored(tiny_with_tokenizer, kind)
    rows = of(tables["scores"], "none", "full")
    plain = tiny_transformers_model("llama")
    for one, (_, row) in zip(read, rows.iterrows(), strict=True):
        direct = [direct_logp(plain, one.prompt, choice) for choice in one.choices]
        logps = np.array([logp for logp, _ in direct])
        np.testing.assert_allclose(row["choice_logp"], logps, atol=2e-5)
        target = one.question.target
        assert row["target_logp"] == row["choice_logp"][target]
        if kind == "one":
            assert bool(row["correct"]) == direct[0][1]
            assert row["picked"] == -1
            assert np.isnan(row["margin"])
        else:
            assert row["picked"] == logps.argmax()
            assert row["correct"] == (logps.argmax() == target)
            assert row["margin"] == pytest.approx(logps[target] - np.delete(logps, target).max(), abs=4e-5)
        assert row["target_tokens"] == len(one.choices[target])
    assert rows["kl_to_full"].abs().max() < 1e-12
    assert rows["agrees"].all()


def test_a_greedy_match_of_the_only_choice_is_right(tiny_with_tokenizer):
    """Each question's answer is made the model's own greedy continuation."""
    model, plain = tiny_with_tokenizer, tiny_transformers_model("llama")
    read = read_questions(adapt(model), toy_questions(4, "one"))
    greedy = []
    for one in read:
        ids = list(one.prompt)
        for _ in range(3):
            ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
        greedy.append(dataclasses.replace(one, choices=(tuple(ids[len(one.prompt) :]),)))
    greedy[0] = read[0]
    spec = make_spec(model, "w", "toy", "plain", greedy, "choice", (FULL,))
    rows = score_shard(model, ToyTask("one"), greedy, spec)["scores"]
    assert rows["correct"].tolist() == [False, True, True, True]


@pytest.mark.parametrize("kind", ["single", "several"])
def test_a_bypassed_layer_is_a_deleted_one(tiny_with_tokenizer, kind):
    fixed = Condition("bypass", "last_layers", 0.8, layers=(1, 3))
    read, tables = scored(tiny_with_tokenizer, kind, (FULL, fixed), n=4)
    rows = of(tables["scores"], "bypass", "last_layers")
    deleted = without_layers("llama", {1, 3})
    for one, (_, row) in zip(read, rows.iterrows(), strict=True):
        np.testing.assert_allclose(
            row["choice_logp"], [direct_logp(deleted, one.prompt, c)[0] for c in one.choices], atol=3e-5
        )


@pytest.mark.parametrize("effect", ["readout", "bypass"])
@pytest.mark.parametrize("kind", ["single", "several"])
def test_swept_together_or_traced_alone(tiny_with_tokenizer, effect, kind):
    read, tables = scored(tiny_with_tokenizer, kind)
    for alpha in (0.0, 0.8):
        rows = of(tables["scores"], effect, alpha=alpha)
        for one, (_, row) in zip(read, rows.iterrows(), strict=True):
            target = one.question.target
            alone = trace(
                tiny_with_tokenizer,
                [list(one.prompt)],
                responses=[list(one.choices[target])],
                rule=L2AdaptiveComputation(alpha),
                effect=effect,
                measures=("surprisal",),
                logits="last",
            )
            answer = (alone["phase"] == "decode").values[0]
            logp = -float(alone["surprisal"].values[0][answer].sum())
            assert row["target_logp"] == pytest.approx(logp, abs=3e-5)


def test_kl_is_that_of_the_next_token_at_the_prompts_end(tiny_with_tokenizer):
    read, tables = scored(tiny_with_tokenizer)
    full = of(tables["scores"], "none", "full")
    for alpha in (0.0, 0.8):
        for one, kl in zip(read, of(tables["scores"], "bypass", alpha=alpha)["kl_to_full"], strict=True):
            pair = []
            for effect in ("observe", "bypass"):
                rule = L2AdaptiveComputation(alpha)
                made = trace(tiny_with_tokenizer, [list(one.prompt)], rule=rule, effect=effect, logits="last")
                pair.append(torch.log_softmax(torch.tensor(made["logits"].values[0]).double(), -1))
            p, q = pair
            assert kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)
    assert len(full) == len(read)


# --- usage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "several"])
def test_usage_exit_depth_and_skippable_compute_are_the_traces(tiny_with_tokenizer, kind):
    read, tables = scored(tiny_with_tokenizer, kind)
    answers = None if kind == "single" else [list(one.choices[one.question.target]) for one in read]
    full = trace(tiny_with_tokenizer, [list(one.prompt) for one in read], responses=answers)
    for alpha in (0.0, 0.8):
        rows, mask = of(tables["scores"], "observe", alpha=alpha), voids(full, alpha)
        for phase in ("prefill",) if kind == "single" else ("prefill", "decode"):
            share = np.stack(rows[f"active_{phase}"]).sum(0) / rows[f"n_{phase}"].sum()
            np.testing.assert_allclose(share, layer_usage(full, mask).sel(phase=phase))
            pooled = np.average(rows[f"exit_{phase}"], weights=rows[f"n_{phase}"])
            assert pooled == pytest.approx(float(mean_exit_depth(full, mask).sel(phase=phase)))
            by_sample = skippable_compute(full, mask, by="sample").sel(phase=phase, effect="bypass")
            np.testing.assert_allclose(rows[f"skippable_{phase}"], by_sample)
    sinks = (full["sink"] & (full["phase"] == "prefill")).sum("token")
    assert rows["n_sink"].tolist() == sinks.values.tolist()


@pytest.mark.parametrize("kind", ToyKinds)
def test_early_counts_the_scored_positions_that_exit_before_the_last_block(tiny_with_tokenizer, kind):
    """A token of a choice is scored where the token before it is read: its last one asks nothing of its own logits."""
    read, tables = scored(tiny_with_tokenizer, kind)
    for alpha in (0.0, 0.8):
        rows = of(tables["scores"], "readout", alpha=alpha)
        for one, (_, row) in zip(read, rows.iterrows(), strict=True):
            positions = {}
            for index, choice in enumerate(one.choices):
                full = trace(tiny_with_tokenizer, [list(one.prompt)], responses=[list(choice)])
                last = voids(full, alpha).values[0, -1]
                for place in range(len(one.prompt) - 1, len(one.prompt) + len(choice) - 1):
                    key = (0 if place < len(one.prompt) else index, place)
                    positions[key] = bool(last[place])
            assert row["scored"] == len(positions)
            assert row["early"] == sum(positions.values())


def test_generated_answers_are_scored_where_each_token_comes_from(tiny_with_tokenizer):
    _, tables = scored(tiny_with_tokenizer, scoring="generated", max_new_tokens=5)
    for _, row in tables["scores"].iterrows():
        assert row["scored"] == row["n_tokens"]


@pytest.mark.parametrize("kind", ToyKinds)
def test_a_readout_that_exits_nowhere_early_changes_nothing(tiny_with_tokenizer, kind):
    _, tables = scored(tiny_with_tokenizer, kind, n=20)
    full, readout = of(tables["scores"], "none", "full"), of(tables["scores"], "readout", alpha=0.8)
    late = (readout["early"] == 0).to_numpy()
    assert 0 < late.sum() < len(late)
    pairs = zip(full["choice_logp"], readout["choice_logp"], strict=True)
    moved = np.array([np.abs(a - b).max() > 1e-5 for a, b in pairs])
    assert (moved == ~late).all()


def test_norms_are_the_full_models_without_sinks(tiny_with_tokenizer):
    read, tables = scored(tiny_with_tokenizer, "several")
    answers = [list(one.choices[one.question.target]) for one in read]
    full = trace(tiny_with_tokenizer, [list(one.prompt) for one in read], responses=answers)
    norms = tables["norms"]
    assert set(norms["sample"]) == {one.question.sample for one in read}
    for i, one in enumerate(read):
        for phase in ("prefill", "decode"):
            here = (full["valid"] & ~full["sink"] & (full["phase"] == phase)).values[i]
            rows = norms[(norms["sample"] == one.question.sample) & (norms["phase"] == phase)].sort_values("layer")
            values = full["resid_post_norm"].values[i][:, here]
            np.testing.assert_allclose(rows["resid_post_norm_median"], np.median(values, -1), rtol=1e-5)
            np.testing.assert_allclose(
                rows["delta_norm_mean"], full["delta_norm"].values[i][:, here].mean(-1), atol=1e-5
            )
            assert (rows["n"] == here.sum()).all()


# --- controls ---------------------------------------------------------------------------------------------


def test_a_bypass_control_is_matched_to_the_bypass_runs_own_voids(tiny_with_tokenizer):
    drawn = Condition("bypass", "random_layers", 0.8, seed=3)
    lac = Condition("bypass", "lac", 0.8)
    read, tables = scored(tiny_with_tokenizer, "single", (FULL, lac, drawn))
    own, control = of(tables["scores"], "bypass"), of(tables["scores"], "bypass", "random_layers")
    spent = [np.stack(rows["active_prefill"]).sum(1).tolist() for rows in (own, control)]
    assert spent[0] == spent[1]
    one = read[0]
    made = trace(
        tiny_with_tokenizer,
        [list(one.prompt)],
        rule=L2AdaptiveComputation(0.8),
        effect="bypass",
        sample_ids=[one.question.sample],
    )
    mask = random_layers(made, voids(made, 0.8), seed=3)
    again = trace(
        tiny_with_tokenizer,
        [list(one.prompt)],
        rule=GivenVoids.of(mask),
        effect="bypass",
        sample_ids=[one.question.sample],
        logits="last",
    )
    logp = torch.log_softmax(torch.tensor(again["logits"].values[0]).double(), -1)
    expected = [float(logp[ids[0]]) for ids in one.choices]
    np.testing.assert_allclose(control["choice_logp"].iloc[0], expected, atol=2e-5)


def test_choices_of_one_question_stand_after_the_same_masked_prompt(tiny_with_tokenizer):
    """Else a random mask would differ between the choices that it compares: the KL at the prompt's end would too."""
    traces = {}
    drawn = Condition("bypass", "random_layers", 0.8, seed=0)
    task, read = ToyTask("several"), read_questions(adapt(tiny_with_tokenizer), toy_questions(2, "several"))
    spec = make_spec(
        tiny_with_tokenizer, "w", "toy", "plain", read, "choice", (FULL, Condition("bypass", "lac", 0.8), drawn)
    )
    score_shard(tiny_with_tokenizer, task, read, spec, keep_trace=lambda name, made: traces.update({name: made}))
    made = traces["bypass-random_layers-0.8-seed0"]
    length = len(read[0].prompt)
    prompts = made["void"].values[:3, :, :length]
    assert (prompts == prompts[:1]).all()
    assert prompts.any()


@torch.no_grad()
def test_a_readout_control_permutes_the_exits_of_the_full_models_pass(tiny_with_tokenizer):
    conditions = (
        FULL,
        Condition("readout", "lac", 0.8),
        Condition("readout", "permuted_exits", 0.8, seed=0),
        Condition("readout", "constant_exit", 0.8, layers=(2, 3)),
    )
    read, tables = scored(tiny_with_tokenizer, "single", conditions)
    scores = tables["scores"]
    assert of(scores, "readout", "lac")["exit_prefill"].to_numpy() == pytest.approx(
        of(scores, "readout", "permuted_exits")["exit_prefill"].to_numpy()
    )
    constant = of(scores, "readout", "constant_exit")
    assert (constant["exit_prefill"] == 0.5).all()
    plain = tiny_transformers_model("llama")
    for one, (_, row) in zip(read, constant.iterrows(), strict=True):
        hidden = plain(torch.tensor([list(one.prompt)]), output_hidden_states=True).hidden_states[2][:, -1]
        logp = torch.log_softmax(plain.lm_head(plain.model.norm(hidden))[0].double(), -1)
        np.testing.assert_allclose(row["choice_logp"], [float(logp[c[0]]) for c in one.choices], atol=2e-5)


# --- generated answers ------------------------------------------------------------------------------------


def test_generated_answers_are_parsed_and_an_unparseable_one_is_wrong(tiny_with_tokenizer):
    model = tiny_with_tokenizer
    read, tables = scored(model, "single", n=10, scoring="generated", max_new_tokens=6, phase_alphas=(0.8,))
    scores = tables["scores"]
    for effect, alpha in (("none", None), ("readout", 0.8), ("bypass", 0.8)):
        rows = of(scores, effect, "full" if effect == "none" else "lac", alpha)
        rule = {} if alpha is None else {"rule": L2AdaptiveComputation(alpha), "effect": effect}
        for one, (_, row) in zip(read, rows.iterrows(), strict=True):
            alone = trace(model, [list(one.prompt)], max_new_tokens=6, **rule)
            produced = [int(t) for t in alone["next_token_id"].values[0] if t >= 0]
            assert row["text"] == model.tokenizer.decode(produced, skip_special_tokens=True)
            assert row["n_tokens"] == len(produced)
            said = [i for i, choice in enumerate(one.question.choices) if choice in row["text"]]
            assert row["unparseable"] == (not said)
            assert row["picked"] == (said[0] if said else -1)
            assert row["correct"] == (bool(said) and said[0] == one.question.target)
            assert row["n_decode"] == int((alone["phase"] == "decode").sum())
    assert scores["unparseable"].any()
    assert set(tables["cells"]["alpha"]) == {0.8}
    assert tables["cells"]["tokens"].sum() > 0


@pytest.mark.parametrize(("private", "keep_text"), [(True, True), (False, False)])
def test_a_private_task_leaves_no_text_nor_does_one_that_is_told_to(tiny_with_tokenizer, private, keep_text):
    task = ToyTask(private=private)
    read = read_questions(adapt(tiny_with_tokenizer), toy_questions(3))
    settings = {"max_new_tokens": 4, "keep_text": keep_text}
    spec = make_spec(tiny_with_tokenizer, "w", "toy", "plain", read, "generated", (FULL,), **settings)
    rows = score_shard(tiny_with_tokenizer, task, read, spec)["scores"]
    assert (rows["text"] == "").all()
    assert (rows["n_tokens"] > 0).all()


def test_every_condition_has_the_same_samples_and_columns_with_values(tiny_with_tokenizer):
    _, tables = scored(tiny_with_tokenizer)
    scores = tables["scores"]
    groups = scores.groupby(["effect", "rule", "alpha"], dropna=False)["sample"].apply(tuple)
    assert groups.nunique() == 1
    assert len(groups) == len(SWEPT)
    assert not scores.drop(columns=["alpha", "exit_decode", "skippable_decode"]).isna().any().any()
    assert isinstance(pd.concat([scores]), pd.DataFrame)
