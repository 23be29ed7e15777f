"""Every analysis of the command line: run, cut and gone on with, found again, drawn."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope.analyze import _analysis as parts_module
from lacscope.analyze import _importance as importance
from lacscope.analyze import _skipping as skipping
from lacscope.analyze._analysis import SoFar
from lacscope.analyze._catalogue import GROUPS, catalogue, named
from lacscope.analyze._joining import join_samples
from lacscope.analyze._prompts import Prompts, PromptsError
from lacscope.analyze._run import analyze
from lacscope.analyze._store import ResultStore
from lacscope.analyze._write import write_figure_of
from lacscope.model_measures import (
    depth_score,
    effective_depths,
    future_skip_influence,
    linear_maps,
    logit_lens,
    residual_cosines,
    residual_erasure,
)
from lacscope.model_measures._agreement import Read, scorers
from lacscope.model_measures._choices import score_choices
from lacscope.model_measures._sleb import sleb
from lacscope.model_measures._tradeoff import plan_tradeoff, skipping_plans
from lacscope.models._checks import UnsupportedModelError
from lacscope.trace_analyses._agreement import agreement
from lacscope.trace_analyses._effects import token_shift
from lacscope.trace_analyses._phase_matching import MATCHINGS
from lacscope.traces._provenance import result_attrs
from lacscope.traces._sealed import read_sealed, write_sealed

pytestmark = pytest.mark.once

CATALOGUE = catalogue()
TIMED = "decode_ratio"  # seconds of this machine at that moment
TEXT = Prompts("text", ((1, 4, 5), (1, 6, 7)))


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch):
    """What is timed is of no matter here."""
    monkeypatch.setattr(skipping, "plan_tradeoff", partial(plan_tradeoff, decode_steps=2, rounds=2))


def cut_at(analysis, index):
    """The same analysis, whose part ``index`` is interrupted."""

    def parts(model, prompts):
        work = analysis.parts(model, prompts)

        def interrupt(so_far):
            raise KeyboardInterrupt

        return [*work[:index], interrupt, *work[index + 1 :]]

    return replace(analysis, parts=parts)


def none_again(analysis, allowed=()):
    """The same analysis, whose parts other than those allowed must not be run."""

    def parts(model, prompts):
        work = analysis.parts(model, prompts)
        again = lambda so_far: pytest.fail("a part was run again")  # noqa: E731
        return [run if i in allowed else again for i, run in enumerate(work)]

    return replace(analysis, parts=parts)


def many_tokens(prompts):
    """Ten times as many prompts: more tokens than a map of 32 dimensions is fitted on."""
    names = ("inputs", "responses", "questions", "tasks")
    return replace(prompts, **{name: getattr(prompts, name) * 10 for name in names})


LONG = ("agreement", "gradients", "maps", "maps-bypassed")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CATALOGUE]
)
def test_cut_gone_on_with_found_again_and_drawn(name, tiny_with_tokenizer, toy, tmp_path, monkeypatch):
    # As many draws as are needed to tell two results apart, not to believe one.
    monkeypatch.setattr(importance, "agreement", partial(agreement, n_boot=20, n_permutations=100))
    model, analysis = tiny_with_tokenizer, CATALOGUE[name]
    toy = many_tokens(toy) if name.startswith("maps") else toy
    n_parts = len(analysis.parts(model, toy))
    last = n_parts - 1
    store = ResultStore(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        analyze(model, cut_at(analysis, last), toy, store, weights="w")
    assert len(list(store.folder.rglob("part-*.nc"))) == last
    assert not store.path(name).exists()
    done = []
    found = analyze(
        model, none_again(analysis, {last}), toy, store, weights="w", progress=lambda *step: done.append(step)
    )
    assert done[-1] == (n_parts, n_parts)
    assert n_parts == 1 or done == [(i + 1, n_parts) for i in range(n_parts)]
    assert not list(store.folder.rglob("part-*.nc"))

    undisturbed = analyze(model, analysis, toy, ResultStore(tmp_path / "whole"), weights="w")
    xr.testing.assert_identical(*(ds.drop_vars(TIMED, errors="ignore") for ds in (found, undisturbed)))
    xr.testing.assert_identical(analyze(model, none_again(analysis), toy, store, weights="w"), found)
    assert found.attrs["weights"] == "w"
    assert "torch" in json.loads(found.attrs["versions"])

    picture = write_figure_of(analysis, found, store, dpi=60)
    assert picture.stat().st_size > 2000
    said = json.loads(picture.with_suffix(".json").read_text())
    assert said["model"] == "tiny-llama"
    if name != "zd":  # reads no data
        assert "toy" in said["data"]


@pytest.mark.parametrize("name", ["erasure", "gradients", "angular", "similarity", "updates"])
def test_what_is_one_part_says_how_far_it_is(name, tiny_with_tokenizer, toy, tmp_path):
    steps = []
    (run,) = CATALOGUE[name].parts(tiny_with_tokenizer, toy)
    run(SoFar(progress=lambda *step: steps.append(step)))
    assert len(steps) > 1
    assert steps[-1][0] == steps[-1][1]
    told = []
    slow = replace(CATALOGUE["lim"], parts=lambda model, prompts: [run], join=lambda parts: parts[0])
    analyze(
        tiny_with_tokenizer, slow, toy, ResultStore(tmp_path), weights="w", progress=lambda *step: told.append(step)
    )
    assert told == [*steps, (1, 1)]


def test_removals_go_on_from_one_another(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["sleb"]
    first, second = analysis.parts(tiny_with_tokenizer, toy)
    found = [first()]
    found.append(second(SoFar(tuple(found))))
    xr.testing.assert_identical(analysis.join(found), sleb(tiny_with_tokenizer, toy.whole, data="toy"))


def test_maps_onto_the_model_itself_and_onto_itself_without_its_middle(tiny_with_tokenizer, toy):
    prompts = many_tokens(toy)
    own, bypassed = (
        CATALOGUE[name].join([run() for run in CATALOGUE[name].parts(tiny_with_tokenizer, prompts)])
        for name in ("maps", "maps-bypassed")
    )
    xr.testing.assert_allclose(own, linear_maps(tiny_with_tokenizer, tiny_with_tokenizer, prompts.whole, data="toy"))
    assert own.attrs["departures"] == ""
    assert own["state_a"].values.tolist() == own["state_b"].values.tolist() == [0, 1, 2, 3, 4]
    # Layer 1 of the four is bypassed: what enters it leaves it.
    error = bypassed["error"].mean("sample")
    np.testing.assert_allclose(error[:, 2], error[:, 1], rtol=1e-6)
    np.testing.assert_allclose(error[:, :2], own["error"].mean("sample")[:, :2], rtol=1e-6)
    assert abs(error[:, 3] - own["error"].mean("sample")[:, 3]).max() > 0.01
    assert bypassed["state_b"].attrs["long_name"] == "state of tiny-llama without layer 1"


def test_maps_need_tokens_enough_for_the_models_width(tiny_with_tokenizer, toy):
    given = sum(len(ids) - 1 for ids in toy.whole[:2])
    with pytest.raises(PromptsError) as caught:
        CATALOGUE["maps"].check(tiny_with_tokenizer, toy)
    assert str(caught.value) == (
        "maps: it fits maps on 10 tokens for each of the 32 dimensions of the stream, 320 in all, "
        f"got {given}: raise --limit."
    )
    CATALOGUE["maps"].check(tiny_with_tokenizer, many_tokens(toy))


@pytest.mark.parametrize("name", ["tell-tale", "tradeoff"])
def test_what_calibrates_needs_other_questions_to_answer(name, tiny_with_tokenizer, toy):
    alike = toy.part(0, 1)
    alike = replace(alike, inputs=alike.inputs * 2, questions=alike.questions * 2, tasks=alike.tasks * 2)
    with pytest.raises(PromptsError, match=f"{name}: it calibrates on one question in 4 and answers the others; none"):
        CATALOGUE[name].check(tiny_with_tokenizer, replace(alike, responses=alike.responses * 2))


def test_no_question_is_calibrated_on_and_asked(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["tell-tale"]
    order = (0, 1, 2, 0)  # the last repeats the one that is calibrated on
    names = ("inputs", "responses", "questions", "tasks")
    repeated = replace(toy, **{name: tuple(getattr(toy, name)[i] for i in order) for name in names})
    found, without = (
        analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, prompts)]) for prompts in (repeated, toy)
    )
    xr.testing.assert_identical(found, without)


@pytest.mark.parametrize(
    "name", ["contributions", "future", "current-attn", "block-influence", "ablation", "variance", "ablation-accuracy"]
)
def test_joined_parts_are_what_one_call_on_all_prompts_gives(name, tiny_with_tokenizer, toy, monkeypatch):
    analysis = CATALOGUE[name]
    by_part = analysis.parts(tiny_with_tokenizer, toy)
    monkeypatch.setattr(parts_module, "AT_ONCE", len(toy))
    (at_once,) = analysis.parts(tiny_with_tokenizer, toy)
    assert len(by_part) == 2
    joined, whole = analysis.join([run() for run in by_part]), at_once()
    xr.testing.assert_allclose(joined, whole, rtol=1e-6)
    assert joined.attrs == whole.attrs


def test_measures_that_agree_with_themselves(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["agreement"]
    (first, second, *_) = (run() for run in analysis.parts(tiny_with_tokenizer, toy)[:2])
    second["score"] = first["score"] * 2
    found = analysis.join([first, second])
    assert found["rho"].sel(subset="all").values[0, 1] == pytest.approx(1)
    # Four layers: without 0, 1 and the last too few are left to rank.
    assert found["subset"].values.tolist() == ["all"]
    assert found.attrs["n_samples"] == 3


def test_a_measure_keeps_what_it_rests_on_through_its_file(tiny_with_tokenizer, toy, tmp_path):
    analysis = CATALOGUE["agreement"]
    parts = analysis.parts(tiny_with_tokenizer, toy)
    made = [parts[list(scorers()).index(name)]() for name in ("Block Influence", "ZD")]
    read = [read_sealed(write_sealed(part, tmp_path / f"{i}.nc")) for i, part in enumerate(made)]
    metrics = json.loads(analysis.join(read).attrs["metrics"])
    assert metrics["Block Influence"]["departures"] == f"data = {toy.name} (paper: PG19)"
    assert metrics["ZD"]["positions"] == "weights, no tokens"


def test_a_model_that_is_deep_enough_is_ranked_without_its_edges_too():
    values = xr.DataArray(np.arange(6.0), {"layer": np.arange(6)}, "layer")
    attrs = {"model": "m", "data": "d", "n_samples": 1}
    made = [values.rename("score").to_dataset().assign_attrs(metric=name, **attrs) for name in "ab"]
    found = CATALOGUE["agreement"].join(made)
    assert found["subset"].values.tolist() == ["all", "without layers 0, 1, 5"]


def test_painters_take_the_chance_of_each_task(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["painters"]
    work = analysis.parts(tiny_with_tokenizer, toy)
    full, skipped = work[0]().assign(score=("row", [1.0] * 3)), work[1]().assign(score=("row", [0.75] * 3))
    assert analysis.join([full, skipped])["normalised"].values.ravel().tolist() == [0.5]  # of 0.5 above chance


def test_painters_take_no_chance_of_nought_for_granted(tiny_with_tokenizer, toy):
    work = CATALOGUE["painters"].parts(tiny_with_tokenizer, toy)
    several = [
        run().assign(score=("row", [score] * 3), task=("row", ["twohop"] * 3))
        for run, score in zip(work[:2], (1.0, 0.75), strict=True)
    ]
    with pytest.raises(ValueError, match=r"^twohop: questions with several choices whose chance the task"):
        CATALOGUE["painters"].join(several)
    single = replace(toy, questions=tuple(replace(one, choices=("deep",), target=0) for one in toy.questions))
    attrs = CATALOGUE["painters"].parts(tiny_with_tokenizer, replace(single, tasks=("twohop",) * 3))[0]().attrs
    found = CATALOGUE["painters"].join([part.assign_attrs(attrs) for part in several])
    assert found["normalised"].values.ravel().tolist() == [0.75]


def test_a_map_is_of_the_shortest_question(tiny_with_tokenizer, toy):
    (run,) = CATALOGUE["erasure"].parts(tiny_with_tokenizer, toy)
    found = run()
    assert found["token_id"].values[0].tolist() == toy.whole[0] == min(toy.whole, key=len)
    own = residual_erasure(tiny_with_tokenizer, [toy.inputs[0]], [toy.responses[0]], mean_over=toy.whole[1:])
    np.testing.assert_allclose(found["effect"].values, own["effect"].values, rtol=1e-5, atol=1e-7)
    assert "of 2 other prompts" in found.attrs["positions"]


def test_a_depth_score_is_of_each_group_with_the_cut_at_the_answer(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["depth-score"]
    questions = tuple(replace(one, group=group) for one, group in zip(toy.questions, ("b", "a", "b"), strict=True))
    parts = [run() for run in analysis.parts(tiny_with_tokenizer, replace(toy, questions=questions))]
    assert [cut.item() for part in parts for cut in part["cut"]] == [len(ids) for ids in toy.inputs]
    found = analysis.join(parts)
    assert (found["group"].values.tolist(), found["n_samples"].values.tolist()) == (["a", "b"], [1, 2])
    own = future_skip_influence(tiny_with_tokenizer, toy.whole[1:2], cuts=[[len(toy.inputs[1])]])
    of_a = found["score"].sel(group="a", measure="output").item()
    assert of_a == pytest.approx(depth_score(own["output_influence"]).item())
    twice = replace(
        toy, inputs=toy.inputs[:1] * 2 + toy.inputs[2:], responses=toy.responses[:1] * 2 + toy.responses[2:]
    )
    assert sum(run().sizes["sample"] for run in analysis.parts(tiny_with_tokenizer, twice)) == 2
    ungrouped = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, toy)])
    assert ungrouped["group"].values.tolist() == ["pocket_boolean"]


def test_effective_depths_are_those_of_the_curves_pooled_over_tokens(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["effective-depth"]
    found = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, toy)])
    cosines = residual_cosines(tiny_with_tokenizer, toy.whole)
    lens = logit_lens(tiny_with_tokenizer, toy.whole).isel(state=slice(cosines.sizes["layer"]))
    cosine = (cosines["cos_attn_resid"] + cosines["cos_mlp_resid"] + cosines["cos_update_resid"]) / 3
    n_tokens = [len(ids) for ids in toy.whole]
    pooled = [
        one.dot(xr.DataArray(n_tokens, dims="sample")) / sum(n_tokens) for one in (cosine, lens["kl"], lens["overlap"])
    ]
    xr.testing.assert_allclose(found, effective_depths(*pooled))
    assert found.attrs["n_samples"] == 3
    assert "aggregation" not in found.attrs["departures"]


def test_longer_prompts_weigh_more_in_an_effective_depth():
    """One token whose overlap is high at layer 1, three of another prompt where it is high at layer 2."""
    curve = {"cosine": [[-1.0, 1, 1]] * 2, "kl": [[9.0, 1, 1]] * 2, "overlap": [[0.0, 0.8, 0.9], [0.0, 0.1, 0.9]]}
    attrs = result_attrs("effect", {}, preset=None, settings={}, positions="all", aggregation="a", n_samples=1)
    parts = [
        xr.Dataset(
            {name: (("sample", "layer"), np.array([values[i]])) for name, values in curve.items()},
            {"n_tokens": ("sample", [n])},
            attrs,
        )
        for i, n in enumerate((1, 3))
    ]
    assert CATALOGUE["effective-depth"].join(parts)["layer"].sel(criterion="overlap") == 2
    assert (0.8 + 0.1) / 2 > 0.3 > (0.8 + 3 * 0.1) / 4


def test_plans_are_chosen_on_other_questions_than_they_answer(tiny_with_tokenizer, toy, monkeypatch):
    monkeypatch.setattr(skipping, "SHARES", (0.25, 0.5))
    analysis = CATALOGUE["tradeoff"]
    work = analysis.parts(tiny_with_tokenizer, toy)
    assert len(work) == 2
    found = analysis.join([run() for run in work])
    chosen = skipping_plans(tiny_with_tokenizer, [list(toy.inputs[0])], [1, 2])
    whole = plan_tradeoff(
        tiny_with_tokenizer, toy.questions[1:], chosen, decode_steps=2, rounds=2,
        data="toy, plans chosen on 1 other prompts",
    )  # fmt: skip
    xr.testing.assert_allclose(*(ds.drop_vars(TIMED) for ds in (found, whole)))
    assert found["plan"].values.tolist() == list(chosen)
    own = {**found.attrs, "settings": json.loads(found.attrs["settings"])}
    theirs = {**whole.attrs, "settings": own["settings"] | json.loads(whole.attrs["settings"])}
    assert own == theirs
    assert own["settings"]["calibrated_on"] == "1 of 4"


def test_a_result_of_other_settings_is_made_anew(tiny_with_tokenizer, toy, tmp_path):
    store, analysis = ResultStore(tmp_path), CATALOGUE["lim"]
    analyze(tiny_with_tokenizer, analysis, toy, store, weights="w")
    analyze(tiny_with_tokenizer, none_again(analysis), toy, store, weights="w")
    grouped = replace(toy, questions=tuple(replace(one, group="g") for one in toy.questions))
    for other, prompts in ((replace(analysis, settings={"alpha": 0.5}), toy), (analysis, grouped)):
        with pytest.raises(pytest.fail.Exception, match="a part was run again"):
            analyze(tiny_with_tokenizer, none_again(other), prompts, store, weights="w")


def test_usage_and_effects_of_token_groups_are_those_of_whole_traces(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["token-usage"]
    parts = [run() for run in analysis.parts(tiny_with_tokenizer, toy)]
    assert len(parts) == 2
    right = score_choices(tiny_with_tokenizer, toy.questions)["correct"].to_numpy(dtype=bool)
    np.testing.assert_array_equal(np.concatenate([part["right"].values for part in parts]), right)
    # Both answers, so that there are both groups.
    parts[0]["right"] = ("sample", [True, False])
    found = analysis.join(parts)
    inputs, responses = [list(ids) for ids in toy.inputs], [list(ids) for ids in toy.responses]
    full = lacscope.trace(tiny_with_tokenizer, inputs, responses=responses, logits="all", measures=("surprisal",))
    rule = lacscope.L2AdaptiveComputation(0.8)
    kl = xr.Dataset()
    for effect in ("readout", "bypass"):
        changed = lacscope.trace(
            tiny_with_tokenizer, inputs, rule=rule, effect=effect, responses=responses, logits="all"
        )
        kl[f"kl_{effect}"] = token_shift(full, changed)["kl"]
    own_right = [True, False, bool(parts[1]["right"].item())]
    groupings = [
        lacscope.groups_by_class(full), lacscope.groups_by_position(full), lacscope.groups_by_surprisal(full),
        lacscope.groups_by_correct(full, own_right),
    ]  # fmt: skip
    for grouping in groupings:
        expected = lacscope.usage_by_group(full, grouping, lacscope.voids(full, 0.8), seed=0, values=kl)
        mine = found.isel(group=found["kind"].values == grouping.attrs["long_name"]).drop_vars("kind")
        assert mine["group"].values.tolist() == expected["group"].values.tolist()
        xr.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-6)
    assert float(found["kl_bypass"].max()) > 0
    assert found.attrs["data"] == "toy, given answers, read teacher-forced"


def test_without_right_answers_there_are_no_groups_of_them(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["token-usage"]
    parts = [run() for run in analysis.parts(tiny_with_tokenizer, toy)]
    for part in parts:
        part["right"] = ("sample", np.zeros(part.sizes["sample"], dtype=bool))
    found = analysis.join(parts)
    assert len(set(found["kind"].values)) == 3
    assert found.attrs["not_grouped"] == "not by answer: 0 of 3 right"
    assert "not by answer: 0 of 3 right" in analysis.draw(found).ravel()[0].get_figure().get_suptitle()


def test_a_text_has_tokens_of_prompts_alone(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["token-usage"]
    text = Prompts("text", toy.inputs)
    found = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, text)])
    assert found.attrs["data"] == "text, prompts alone"
    with pytest.raises(PromptsError, match="token-phases: it needs answers after the prompts"):
        CATALOGUE["token-phases"].check(tiny_with_tokenizer, text)


def test_the_phase_control_is_of_usage_and_of_each_effect(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["token-phases"]
    found = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, toy)])
    table = found.to_dataframe()
    assert table.groupby("of", sort=False)["matched_on"].apply(list).to_dict() == {
        of: list(MATCHINGS) for of in ("usage", "kl_readout", "kl_bypass")
    }
    assert set(table["n_decode"]) == {sum(map(len, toy.responses))}
    assert "given and not generated" in found.attrs["positions"]


def test_the_right_choice_by_norms_is_that_of_every_candidate_traced(tiny_with_tokenizer, toy):
    analysis = CATALOGUE["tell-tale"]
    found = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, toy)])
    inputs = [list(ids) for ids in toy.inputs for _ in range(2)]
    responses = [choice for one in toy.questions for choice in one.choices]
    read = lacscope.trace(tiny_with_tokenizer, inputs, responses=responses)
    thresholds = lacscope.norm_thresholds(read.isel(sample=slice(2)))
    signals = lacscope.norm_signals(read.isel(sample=slice(2, None)), thresholds)
    # The targets of the second and third question are their second and first choice.
    expected = lacscope.share_right(signals, [False, True, True, False], [1, 1, 2, 2], seed=0)
    xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs())
    assert found.attrs["n_questions"] == found.attrs["n_samples"] == 2
    assert found.attrs["positions"].endswith("; thresholds from 1 other questions")
    assert "4 candidates in all; 95 % intervals over questions" in found.attrs["aggregation"]


def test_questions_of_one_choice_are_no_candidates(tiny_with_tokenizer, toy):
    single = replace(toy, questions=tuple(replace(one, choices=("deep",), target=0) for one in toy.questions))
    with pytest.raises(PromptsError, match="tell-tale: it needs questions with several choices: give --task arc_easy"):
        CATALOGUE["tell-tale"].check(tiny_with_tokenizer, single)


@pytest.mark.parametrize("name", ["contributions", "future", "lim", "angular", "logit-lens", "sleb", "updates"])
def test_what_was_cut_stands_in_the_result(name, tiny_with_tokenizer, toy):
    cut = Prompts("a.txt", tuple(ids[:13] for ids in toy.inputs), max_tokens=13)
    analysis, parts = CATALOGUE[name], []
    for run in analysis.parts(tiny_with_tokenizer, cut):
        parts.append(run(SoFar(tuple(parts))))
    assert json.loads(analysis.join(parts).attrs["settings"])["max_tokens"] == 13


def test_removals_without_a_cut_read_as_much_as_the_paper(tiny_with_tokenizer, toy):
    (run, *_) = CATALOGUE["sleb"].parts(tiny_with_tokenizer, toy)
    assert json.loads(run().attrs["settings"])["max_tokens"] == 2048


def test_a_measure_that_the_model_does_not_allow_is_left_out_in_words(tiny_with_tokenizer, toy, monkeypatch):
    analysis, result = CATALOGUE["agreement"], Read.result

    def refusing(read, measure, options):
        if measure.name == "identity_distance":
            raise UnsupportedModelError("no tokenwise Jacobian.")
        return result(read, measure, options)

    monkeypatch.setattr(Read, "result", refusing)
    monkeypatch.setattr(importance, "agreement", partial(agreement, n_boot=20, n_permutations=100))
    found = analysis.join([run() for run in analysis.parts(tiny_with_tokenizer, toy)])
    assert set(found["metric"].values) == set(scorers()) - {"identity distance"}
    assert json.loads(found.attrs["left_out"]) == {"identity distance": "no tokenwise Jacobian."}
    (panel,) = analysis.draw(found)
    caption = " ".join(text.get_text() for text in panel.texts).replace("\n", " ")
    assert "does not allow it: identity distance." in caption


def test_prompts_too_short_to_be_cut_are_said_before_any_work(tiny_with_tokenizer, toy):
    with pytest.raises(PromptsError, match=r"future: prompt 1 has 5 tokens; cuts are drawn in 13 or more\."):
        CATALOGUE["future"].check(tiny_with_tokenizer, Prompts("short", (toy.inputs[2], toy.inputs[0][:5])))


def test_a_part_that_is_not_finite_is_not_passed_over():
    made = {"output_influence": ("sample", [1.0]), "peak": ((), 1.0, {"aggregation": "max over samples"})}
    attrs = result_attrs("effect", {}, preset=None, settings={}, positions="all", aggregation="none", n_samples=1)
    part = xr.Dataset(made, attrs=attrs)
    joined = join_samples([part, part.assign(peak=part["peak"].copy(data=np.nan))])
    assert np.isnan(joined["peak"])


def test_names_groups_and_all():
    assert [one.name for one in named(["lim", "contributions"])] == ["contributions", "lim"]  # the catalogue's order
    assert [one.name for one in named(["plans", "painters"])] == ["painters", "tradeoff"]
    assert len(named(["all"])) == len(CATALOGUE)
    assert {one.group for one in CATALOGUE.values()} == set(GROUPS)


def test_a_name_that_there_is_not():
    with pytest.raises(
        ValueError, match=r"no analysis 'lime'; choose from contributions, .*, or a group of them: depth"
    ):
        named(["lim", "lime"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("erasure", "erasure: it needs answers after the prompts: give --task."),
        ("gradients", "gradients: it needs answers after the prompts: give --task."),
        ("painters", "painters: it needs questions of a benchmark: give --task."),
    ],
)
def test_what_a_text_lacks(name, text):
    with pytest.raises(PromptsError) as caught:
        CATALOGUE[name].check(None, TEXT)
    assert str(caught.value) == text


def test_what_is_fitted_on_one_half_needs_two_prompts():
    CATALOGUE["updates"].check(None, TEXT)
    with pytest.raises(PromptsError, match="updates: it needs 2 prompts or more, got 1"):
        CATALOGUE["updates"].check(None, TEXT.part(0, 1))
