"""Cut anywhere, shared by any number of processes: the same results, and no whole shard is done twice."""

import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from toy import SWEPT, ToyTask, toy_questions

from lacscope import open_studies, open_trace
from lacscope.models.adapters import adapt
from lacscope.reproduction.sweep import _runner as runner
from lacscope.reproduction.sweep._processes import array_member, launched_processes
from lacscope.reproduction.sweep._runner import Share, make_spec, run_shards
from lacscope.reproduction.sweep._store import Store
from lacscope.tracing._questions import read_questions

pytestmark = pytest.mark.once

HERE = Path(__file__).parent


@pytest.fixture
def toy(tiny_with_tokenizer, tmp_path):
    """Model, task, questions, and a function that makes a store for them."""
    task = ToyTask()
    read = read_questions(adapt(tiny_with_tokenizer), toy_questions(7))

    def store(name="run", **settings):
        spec = make_spec(
            tiny_with_tokenizer, "w", "toy", "plain", read, "choice", SWEPT, batch_size=2, shard_size=2, **settings
        )
        return Store(tmp_path / name, spec)

    return tiny_with_tokenizer, task, read, store


class Cut(Exception):
    pass


def test_a_cut_run_goes_on_and_ends_as_an_undisturbed_one(toy, monkeypatch):
    model, task, read, store = toy
    run_shards(model, task, read, store("whole"))
    done = []

    def cut_in_the_third(*given, **options):
        if len(done) == 2:
            raise Cut
        done.append(1)
        return score(*given, **options)

    score = runner.score_shard
    monkeypatch.setattr(runner, "score_shard", cut_in_the_third)
    with pytest.raises(Cut):
        run_shards(model, task, read, store("cut"))
    assert store("cut").done() == {0, 1}
    scored = []
    monkeypatch.setattr(runner, "score_shard", lambda *given, **options: scored.append(1) or score(*given, **options))
    run_shards(model, task, read, store("cut"))
    assert len(scored) == 2
    for name in ("scores", "norms"):
        pd.testing.assert_frame_equal(store("cut").read(name), store("whole").read(name))


def test_a_corrupt_shard_is_done_again_and_no_other(toy, monkeypatch):
    model, task, read, store = toy
    run_shards(model, task, read, store())
    before = store().read("scores")
    victim = store().folder / "shard-00002.scores.parquet"
    victim.write_bytes(victim.read_bytes()[:-7])
    score, scored = runner.score_shard, []

    def note(model, task, part, spec, **options):
        scored.append([one.question.sample for one in part])
        return score(model, task, part, spec, **options)

    monkeypatch.setattr(runner, "score_shard", note)
    run_shards(model, task, read, store())
    assert scored == [[one.question.sample for one in read[4:6]]]
    pd.testing.assert_frame_equal(store().read("scores"), before)


def test_shares_together_are_the_whole(toy):
    model, task, read, store = toy
    run_shards(model, task, read, store("one"))
    for rank in (1, 0, 2):
        run_shards(model, task, read, store("three"), share=Share(rank, 3))
    pd.testing.assert_frame_equal(store("three").read("scores"), store("one").read("scores"))


def test_progress_counts_samples_and_ends_at_all_of_them(toy):
    model, task, read, store = toy
    told = []
    run_shards(model, task, read, store(), progress=told.append)
    assert told[-1].done == pytest.approx(7)
    assert [now.total for now in told] == [7] * len(told)
    assert all(a.done < b.done for a, b in itertools.pairwise(told))
    full = store().read("scores").query("effect == 'none'")
    assert told[-1].accuracy == pytest.approx(full["correct"].mean())
    again = []
    run_shards(model, task, read, store(), progress=again.append)
    assert (again[-1].done, again[-1].fresh) == (7, 0)


def test_other_questions_than_the_specifications_are_refused(toy):
    model, task, read, store = toy
    with pytest.raises(ValueError, match="the questions are not those of the specification"):
        run_shards(model, task, read[:-1], store())


@pytest.mark.slow
def test_kept_traces_open_and_a_private_tasks_hold_no_text(toy):
    model, _, read, store = toy
    for name, task in (("open", ToyTask()), ("private", ToyTask(private=True))):
        run_shards(model, task, read, store(name), keep_traces=True)
        files = sorted((store(name).folder / "traces").glob("*.nc"))
        assert len(files) == 4 * 5  # four shards; the full model, two readouts, two bypasses
        for file in files:
            made = open_trace(file)
            hidden = bool((made["token_id"] == -1).all() and (made["token_text"] == "").all())
            assert hidden == (name == "private")
            assert ("prompt_sha256" in made.coords) == (name == "private")
            assert "logits" not in made


@pytest.mark.slow
def test_whole_shards_without_traces_are_done_again_where_traces_are_asked_for(toy):
    model, task, read, store = toy
    run_shards(model, task, read, store())
    before = store().read("scores")
    for _ in range(2):
        run_shards(model, task, read, store(), keep_traces=True)
    assert len(list((store().folder / "traces").glob("*.nc"))) == 4 * 5
    pd.testing.assert_frame_equal(store().read("scores"), before)


def test_where_no_text_is_kept_traces_hold_none_either(toy):
    model, task, read, store = toy
    run_shards(model, task, read, store(keep_text=False), keep_traces=True)
    made = open_trace(next((store(keep_text=False).folder / "traces").glob("*.nc")))
    assert (made["token_id"] == -1).all()
    assert (made["token_text"] == "").all()


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_share_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match="the shares are 0 to 2"):
        Share(rank, 3)


def test_a_member_of_an_array_writes_no_report():
    member = array_member("3/8")
    assert (member.share, member.writes_report) == (Share(3, 8), False)
    with pytest.raises(ValueError, match="--share is K/N"):
        array_member("three of eight")
    assert launched_processes().share == Share(0, 1)


# --- other processes --------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer_folder(make_tokenizer, tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def start(folder, tokenizer, *launcher):
    command = [sys.executable, *launcher, str(HERE / "run_toy.py"), str(folder), str(tokenizer)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tables(folder):
    """Every table of every part."""
    (study,) = open_studies(folder)
    assert set(study.stores) == {"choice", "generated", "controls"}
    return [store.read(name) for store in study.stores.values() for name in ("scores", "norms", "cells")]


def finish(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.mark.once
@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_as_an_undisturbed_run(tokenizer_folder, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = start(whole, tokenizer_folder)
    undisturbed.stdout.readline()
    began = time.monotonic()
    finish(undisturbed)
    length = time.monotonic() - began
    rng, stamps, killed = random.Random(0), {}, 0
    for _ in range(100):
        process = start(cut, tokenizer_folder)
        process.stdout.readline()
        time.sleep(rng.uniform(0, length / 4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            # It was through before its moment came: another begins from nothing.
            shutil.rmtree(cut)
            stamps = {}
            continue
        killed += 1
        done = {file: file.stat().st_mtime_ns for file in cut.glob("runs/*/*/*/shard-*.json")}
        whole_ones = {name: stamp for name, stamp in stamps.items() if name in done}
        assert whole_ones == {name: done[name] for name in stamps}, "a whole shard was written again"
        stamps = done
        if killed == 10:
            break
    finish(start(cut, tokenizer_folder))
    assert killed == 10
    for a, b in zip(tables(whole), tables(cut), strict=True):
        pd.testing.assert_frame_equal(a, b)


@pytest.mark.once
@pytest.mark.slow
def test_two_processes_of_accelerate_give_what_one_gives(tokenizer_folder, tmp_path):
    finish(start(tmp_path / "one", tokenizer_folder))
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29613")
    finish(start(tmp_path / "two", tokenizer_folder, *launcher, *options))
    for a, b in zip(tables(tmp_path / "one"), tables(tmp_path / "two"), strict=True):
        pd.testing.assert_frame_equal(a, b)
