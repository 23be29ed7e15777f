"""The whole reproduction on a tiny model: parts, controls, resume, tables, figures and report."""

import contextlib
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent / "sweep"))

from toy import ToyTask, toy_questions

from lacscope.reproduction import _settings as module
from lacscope.reproduction._presets import PRESETS, needs
from lacscope.reproduction._report import _study
from lacscope.reproduction._run import IncompleteError, reproduce
from lacscope.reproduction._settings import ReproductionSettings, load_questions
from lacscope.reproduction._studies import Findings, open_studies
from lacscope.reproduction._write import write_reproduction
from lacscope.reproduction.controls import norm_null
from lacscope.reproduction.sweep._parts import controlled, median_curve, swept
from lacscope.reproduction.sweep._processes import Processes
from lacscope.reproduction.sweep._runner import Share
from lacscope.reproduction.sweep._spec import FULL
from lacscope.reproduction.sweep._store import StoreError
from lacscope.tasks._registry import TASKS
from lacscope.testing import synthetic_norms, synthetic_scores

pytestmark = pytest.mark.once

SETTINGS = ReproductionSettings(
    alphas=(0.0, 0.1, 0.8),
    generate_alphas=(0.8,),
    generate_limit=6,
    max_new_tokens=4,
    control_limit=5,
    control_seeds=(0, 1),
    shard_size=4,
)


@contextlib.contextmanager
def silent(what):
    yield lambda now: None


@pytest.fixture(scope="module")
def told():
    """What the run of ``finished`` says of how far it is, by part."""
    return {}


@pytest.fixture(scope="module")
def finished(tiny_with_tokenizer, tmp_path_factory, told):
    @contextlib.contextmanager
    def step(what):
        told[what] = []
        yield told[what].append

    out = tmp_path_factory.mktemp("reproduction")
    reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), SETTINGS, out, step=step)
    return out


DAMAGES = [b"", b"{", b"[]", b"null", b"\xff\x00", b"{}", b'{"choice": 5}', b'{"choice": "../.."}', b'{"choice": "x"}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_parts_are_told_by_the_folders_beside_them(finished, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (listed,) = out.glob("runs/*/*/parts.json")
    listed.write_bytes(damage)
    (study,), (whole,) = open_studies(out), open_studies(finished)
    pd.testing.assert_frame_equal(study.scores, whole.scores)
    # Of two choice parts nobody can tell which the controls belong to.
    shutil.copytree(next(listed.parent.glob("choice-*")), listed.parent / "choice-other")
    with pytest.raises(
        StoreError, match=r"parts\.json is damaged: .*choice-other.*lacscope reproduce.* does no finished"
    ):
        open_studies(out)


def test_a_damaged_specification_is_named_by_the_report_and_healed_by_the_run(finished, tiny_with_tokenizer, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    path = next(out.glob("runs/*/*/choice-*/spec.json"))
    before = {at: at.read_bytes() for at in out.rglob("*") if at.is_file()}
    path.write_bytes(before[path][:50])
    with pytest.raises(StoreError, match=r"choice-.*spec\.json is not a sweep's specification"):
        open_studies(out)
    told = []

    @contextlib.contextmanager
    def step(what):
        yield told.append

    reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), SETTINGS, out, step=step)
    assert {at: at.read_bytes() for at in out.rglob("*") if at.is_file()} == before
    assert {now.fresh for now in told} == {0}


def test_an_unfinished_run_says_how_far_it_is(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for path in (next(out.glob("runs/*/*/parts.json")), next(out.glob("runs/*/*/choice-*/shard-00000.json"))):
        path.unlink()
    with pytest.raises(StoreError, match=r"no finished run yet: 6 of 7 shards of the parts begun are there"):
        open_studies(out)


def test_three_parts_of_nested_samples(finished):
    (study,) = open_studies(finished)
    assert set(study.stores) == {"choice", "generated", "controls"}
    samples = {name: set(store.spec.samples) for name, store in study.stores.items()}
    assert [len(samples[name]) for name in ("choice", "generated", "controls")] == [10, 6, 5]
    assert samples["controls"] <= samples["generated"] <= samples["choice"]
    assert (study.model, study.task) == ("tiny-llama", "toy")


def test_run_again_nothing_is_scored_again(finished, tiny_with_tokenizer, monkeypatch):
    def never(*given, **options):
        raise AssertionError("a whole shard was scored again")

    monkeypatch.setattr("lacscope.reproduction.sweep._runner.score_shard", never)
    reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), SETTINGS, finished, step=silent)


def test_without_a_step_nothing_is_shown_and_the_results_are_the_same(tiny_with_tokenizer, tmp_path, finished, capfd):
    swept = dataclasses.replace(SETTINGS, generate_alphas=(), control_alphas={})
    reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), swept, tmp_path)
    assert capfd.readouterr() == ("", "")
    stepped = open_studies(finished)[0].stores["choice"].read("scores")
    pd.testing.assert_frame_equal(open_studies(tmp_path)[0].stores["choice"].read("scores"), stepped)


@pytest.mark.usefixtures("finished")
def test_a_step_is_entered_for_each_part_and_told_how_far_it_is(told):
    names = ["choice, 10 samples", "generated, 6 samples", "controls, 5 samples"]
    assert [what.split(": ")[1].split(" x ")[0] for what in told] == names
    for what, advances in told.items():
        done = [now.done for now in advances]
        assert done == sorted(done), what
        assert done[-1] == pytest.approx(advances[-1].total), what


def test_changed_settings_never_mix_with_old_results(finished, tiny_with_tokenizer, tmp_path):
    changed = dataclasses.replace(SETTINGS, alphas=(0.0, 0.1, 0.8, 1.0), generate_alphas=(), control_alphas={})
    reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), changed, tmp_path, step=silent)
    (old,), (new,) = open_studies(finished), open_studies(tmp_path)
    assert old.spec.id != new.spec.id
    assert set(new.stores) == {"choice"}
    assert set(new.scores["alpha"].dropna()) == {0.0, 0.1, 0.8, 1.0}


def test_the_scores_hold_each_sample_once_in_each_condition(finished):
    scores = open_studies(finished)[0].scores
    key = ["model", "task", "style", "scoring", "effect", "rule", "alpha", "seed", "protect", "sample"]
    assert not scores.duplicated(key).any()
    rules = set(scores.loc[scores["effect"] == "bypass", "rule"])
    assert rules == {"lac", "random_layers", "random_tokens", "lowest_usage", "last_layers", "norm_null"}
    assert set(scores.loc[scores["effect"] == "readout", "rule"]) == {
        "lac",
        "permuted_exits",
        "constant_exit",
        "norm_null",
    }


def test_bypass_controls_spend_what_lac_spends(finished):
    scores = open_studies(finished)[0].scores
    bypass = scores[(scores["effect"] == "bypass") & (scores["scoring"] == "choice") & np.isclose(scores["alpha"], 0.1)]
    shared = bypass[bypass["rule"] == "random_layers"]["sample"].unique()
    bypass = bypass[bypass["sample"].isin(shared)]

    def active(rule):
        rows = bypass[(bypass["rule"] == rule) & ~bypass["protect"] & (bypass["seed"] < 1)]
        return np.stack(rows.sort_values("sample")["active_prefill"])

    assert active("random_layers").sum(1).tolist() == active("lac").sum(1).tolist()
    assert active("random_tokens").tolist() == active("lac").tolist()


def test_report_tables_and_figures(finished):
    report = write_reproduction(finished)
    text = report.read_text()
    for heading in ("## What was run", "## What came out", "## Table", "## toy", "### toy, tiny-llama"):
        assert f"\n{heading}" in text, heading
    for image in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (finished / image).is_file(), image
        made_by = json.loads((finished / image).with_suffix(".json").read_text())
        assert "versions" in json.dumps(made_by)
    drawn = sorted(path.relative_to(finished).as_posix() for path in finished.rglob("*.png"))
    assert [path for path in drawn if "controls" not in path] == [
        *(f"all-models/toy/{name}.png" for name in ("accuracy", "continuous")),
        *(f"tiny-llama/toy/{name}.png" for name in ("norms", "phases", "usage")),
    ]
    assert len(drawn) == 7
    scores = pd.read_parquet(finished / "scores.parquet")
    pd.testing.assert_frame_equal(scores, open_studies(finished)[0].scores)
    assert len(pd.read_csv(finished / "summary.csv")) == len(Findings(open_studies(finished)).summary)
    assert "nan" not in text.lower().replace("finance", "")


def test_the_report_counts_answers_that_think_and_those_that_never_end_it(finished):
    (study,) = open_studies(finished)
    said = "Generated answers that think before they answer"
    assert "thought" in study.scores
    assert said not in "\n".join(_study(Findings([study]), {}, finished, study))
    scores = study.scores.copy()
    full = scores[(scores["scoring"] == "generated") & (scores["effect"] == "none")].index
    assert len(full) == 6
    scores.loc[full, "thought"] = ["closed", "open", "none", "open", "closed", "open"]
    thinks = dataclasses.replace(study)
    thinks.__dict__["scores"] = scores  # where the cached property keeps what it read
    text = "\n".join(_study(Findings([thinks]), {}, finished, thinks))
    table = text.partition(said)[2]
    assert re.search(r"\| *answers *\| *think *\| *never end the thought *\|", table)
    assert re.search(r"\| *full model *\| *full *\| *6 *\| *5 *\| *3 *\|", table)
    assert re.search(r"\| *readout, alpha 0.8 *\| *lac *\| *6 *\| *0 *\| *0 *\|", table)
    # Shards written before answers were asked for their thoughts have no such column.
    old = dataclasses.replace(study)
    old.__dict__["scores"] = study.scores.drop(columns="thought")
    assert said not in "\n".join(_study(Findings([old]), {}, finished, old))


def test_a_damaged_shard_is_named_and_nothing_is_reported(finished, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    next(copy.glob("runs/*/*/choice-*/shard-00001.scores.parquet")).write_bytes(b"")
    with pytest.raises(StoreError, match="1 of 3 shards are missing or damaged"):
        open_studies(copy)
    with pytest.raises(StoreError, match="holds no finished run"):
        open_studies(tmp_path / "empty")


@pytest.mark.slow
def test_a_member_of_an_array_waits_for_the_others_words(tiny_with_tokenizer, tmp_path, finished):
    def job(rank):
        member = Processes(Share(rank, 2), writes_report=False)
        reproduce(tiny_with_tokenizer, ToyTask(), toy_questions(10), SETTINGS, tmp_path, processes=member, step=silent)

    with pytest.raises(IncompleteError, match=r"1 of 3 shards of .* by other jobs\. Run the same command again"):
        job(0)
    with pytest.raises(IncompleteError):
        job(1)  # the last of the first round goes on to its controls
    job(0)
    pd.testing.assert_frame_equal(open_studies(tmp_path)[0].scores, open_studies(finished)[0].scores)


# --- settings ---------------------------------------------------------------------------------------------


def test_a_limit_is_a_seeded_sample_and_smaller_ones_are_part_of_it():
    task = TASKS["pocket_options"]
    ids = {}
    for limit in (5, 20):
        ids[limit] = [q.sample for q in load_questions(task, dataclasses.replace(SETTINGS, limit=limit))]
    assert set(ids[5]) < set(ids[20])
    again = [q.sample for q in load_questions(task, dataclasses.replace(SETTINGS, limit=5))]
    assert again == ids[5]
    other = [q.sample for q in load_questions(task, dataclasses.replace(SETTINGS, limit=5, seed=1))]
    assert other != ids[5]


def test_shots_are_the_first_of_each_group():
    rows = [{"subject": s, "place": i} for s in ("a", "b") for i in range(3)]
    kept = module._first_of_each(rows, 2, TASKS["mmlu"])
    assert [(row["subject"], row["place"]) for row in kept] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"effects": ("observe",)}, "unknown effect 'observe' to reproduce"),
        ({"alphas": (0.0, 0.5)}, r"the controls at alpha 0.8 need the sweep's own run there: add it to alphas"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes, text, unchecked):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SETTINGS, **changes)


def test_the_paper_preset_has_the_papers_settings():
    paper = PRESETS["paper"]
    settings = paper.settings
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (0.6, 0.9, 51)
    assert (settings.alphas, settings.style, paper.dtype) == ((0.8,), "paper", "bfloat16")
    need = needs(paper.models, ("boolq",), settings, "bfloat16")
    assert [round(one.memory_gib) for one in need] == [17, 16]
    assert all(one.petaflop > 10 for one in need)
    assert not needs(("some/other",), ("boolq",), settings, "bfloat16")


# --- controls, from tables ------------------------------------------------------------------------------------


def test_swept_conditions_are_each_effect_at_each_alpha_and_the_full_model():
    conditions = swept((0.0, 0.8), ("readout",))
    assert conditions[0] == FULL
    assert [(c.effect, c.alpha) for c in conditions[1:]] == [
        ("observe", 0.0),
        ("observe", 0.8),
        ("readout", 0.0),
        ("readout", 0.8),
    ]


def test_fixed_controls_follow_from_the_choice_part():
    scores, norms = synthetic_scores(12), synthetic_norms(12)
    scores = scores[(scores["scoring"] == "choice") & scores["rule"].isin(("full", "lac"))]
    found = {(c.effect, c.rule): c for c in controlled(scores, norms, {"readout": (0.8,), "bypass": (0.8,)}, (0,))}
    lac = scores[(scores["effect"] == "bypass") & np.isclose(scores["alpha"], 0.8)]
    n_layers = len(lac["active_prefill"].iloc[0])
    share = np.stack(lac["active_prefill"]).sum(0) / lac["n_prefill"].sum()
    n_void = round(n_layers - share.sum())
    assert found["bypass", "last_layers"].layers == tuple(range(n_layers - n_void, n_layers))
    lowest = found["bypass", "lowest_usage"].layers
    assert len(lowest) == n_void
    assert share[list(lowest)].max() <= share[[i for i in range(n_layers) if i not in lowest]].min()
    readout = scores[(scores["effect"] == "readout") & np.isclose(scores["alpha"], 0.8)]
    mean_exit = n_layers * (readout["exit_prefill"] * readout["n_prefill"]).sum() / readout["n_prefill"].sum()
    assert found["readout", "constant_exit"].layers == tuple(range(round(mean_exit), n_layers))
    null = np.flatnonzero(norm_null(median_curve(norms), 0.8))
    for effect in ("readout", "bypass"):
        assert found[effect, "norm_null"].layers == tuple(null)


def test_controls_at_an_alpha_that_was_not_run_are_refused():
    with pytest.raises(ValueError, match=r"no bypass at alpha 0.3 to match controls to; the choice part has \["):
        controlled(synthetic_scores(8), synthetic_norms(8), {"bypass": (0.3,)}, (0,))
