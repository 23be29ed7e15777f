"""A shard is whole or absent: cut, corrupt or of another run, it counts as not done."""

import errno
import json

import numpy as np
import pandas as pd
import pytest
from toy import spec

from lacscope.reproduction.sweep._store import Store, StoreError, read_spec
from lacscope.traces._atomic import write_atomically

pytestmark = pytest.mark.once

TABLE = pd.DataFrame({"sample": [3, 1], "active_prefill": [[1, 2], [3, 4]]})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run", spec())


def test_what_is_written_is_read_back_in_the_order_of_the_shards(store):
    store.write(1, {"scores": TABLE.assign(shard=1)})
    store.write(0, {"scores": TABLE.assign(shard=0), "norms": TABLE})
    assert store.done() == {0, 1}
    found = store.read("scores")
    assert found["shard"].tolist() == [0, 0, 1, 1]
    assert [list(row) for row in found["active_prefill"]] == [[1, 2], [3, 4], [1, 2], [3, 4]]
    assert len(store.read("norms")) == 2
    assert store.read("cells").empty


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "marker", "marker of another run", "empty marker"])
def test_a_damaged_shard_counts_as_not_done(store, damage):
    store.write(0, {"scores": TABLE, "norms": TABLE})
    table, marker = store.folder / "shard-00000.norms.parquet", store.folder / "shard-00000.json"
    if damage == "flip":
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
    elif damage == "cut":
        table.write_bytes(table.read_bytes()[:-1])
    elif damage == "gone":
        table.unlink()
    elif damage == "marker":
        marker.unlink()
    elif damage == "empty marker":
        marker.write_text("[]")
    else:
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "id": "0" * 16}))
    assert store.done() == set()
    assert store.read("scores").empty
    store.write(0, {"scores": TABLE, "norms": TABLE})
    assert store.done() == {0}


def test_the_marker_comes_last(store, monkeypatch):
    written = []

    def note(path, content):
        written.append(path.name)
        write_atomically(path, content)

    monkeypatch.setattr("lacscope.reproduction.sweep._store.write_atomically", note)
    store.write(0, {"scores": TABLE, "norms": TABLE})
    assert written == ["shard-00000.scores.parquet", "shard-00000.norms.parquet", "shard-00000.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_another_specification_is_refused(store):
    assert Store(store.folder, spec(model="another label")).spec.id == store.spec.id
    with pytest.raises(StoreError, match="its specification differs"):
        Store(store.folder, spec(seed=1))


DAMAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"spec"',
    b"\xff\x00\x9d",
    b'{"id": 3}',
    b"[" * 100_000,
    b'{"conditions": 4, "id": 1}',
]


@pytest.mark.parametrize("damage", [*DAMAGES, "cut", "edited"])
def test_a_damaged_specification_is_named_and_written_anew_and_its_shards_are_kept(store, damage):
    store.write(0, {"scores": TABLE})
    path = store.folder / "spec.json"
    written = path.read_text()
    edits = {"cut": written[:-40], "edited": written.replace('"seed": 0', '"seed": 9')}
    path.write_bytes(edits[damage].encode() if isinstance(damage, str) else damage)
    with pytest.raises(StoreError, match=r"spec\.json is not a sweep's specification .*lacscope reproduce"):
        read_spec(store.folder)
    assert Store(store.folder, spec()).done() == {0}
    assert path.read_text() == written


def test_shards_of_another_run_are_not_taken_over_where_the_specification_is_damaged(store):
    store.write(0, {"scores": TABLE})
    (store.folder / "spec.json").write_text("{")
    with pytest.raises(StoreError, match=f"holds run {store.spec.id}, not"):
        Store(store.folder, spec(seed=1))
    assert (store.folder / "spec.json").read_text() == "{"


def test_a_full_disk_names_the_file_and_keeps_the_shards(store, monkeypatch):
    store.write(0, {"scores": TABLE})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match=r"No space left on device\); nothing was changed: '.*shard-00001\.scores\.parquet'"
    ):
        store.write(1, {"scores": TABLE})
    assert store.done() == {0}
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "shard-00000.json", "shard-00000.scores.parquet", "spec.json",
    ]  # fmt: skip


def test_all_of_mmlu_at_eleven_alphas_fits_in_100_mb(tmp_path):
    """14,042 questions x 11 alphas x 32 layers, from one shard of 32 questions with counts as random as they come."""
    rng, n, alphas, n_layers = np.random.default_rng(0), 32, 11, 32
    samples, tokens = rng.choice(14042, n, replace=False), rng.integers(60, 400, n)
    rows = []
    for effect, many in (("none", 1), ("observe", alphas), ("readout", alphas), ("bypass", alphas)):
        for alpha in range(many):
            frame = pd.DataFrame({"sample": samples, "group": "professional_law"})
            frame["effect"], frame["alpha"], frame["scoring"], frame["rule"] = effect, alpha / 10, "choice", "lac"
            frame["order"] = [[] for _ in range(n)]
            frame["choice_logp"] = list(rng.normal(size=(n, 4)))
            for name in ("target_logp", "margin", "kl_to_full", "exit_prefill", "skippable_prefill"):
                frame[name] = rng.normal(size=n)
            frame["exit_decode"] = frame["skippable_decode"] = np.nan
            for name in ("target", "picked", "scored", "early", "n_tokens", "target_tokens", "n_decode", "n_sink"):
                frame[name] = rng.integers(0, 4, n).astype(np.int32)
            frame["correct"], frame["agrees"] = rng.random(n) < 0.5, rng.random(n) < 0.5
            frame["n_prefill"] = tokens.astype(np.int32)
            frame["active_prefill"] = [rng.binomial(t, rng.random(n_layers)).astype(np.int32) for t in tokens]
            frame["active_decode"] = [np.zeros(n_layers, np.int32) for _ in range(n)]
            frame["active_sink"] = list(rng.integers(0, 2, (n, n_layers)).astype(np.int32))
            rows.append(frame)
    norms = pd.DataFrame({"sample": np.repeat(samples, n_layers), "phase": "prefill", "n": 9})
    norms["layer"] = np.tile(np.arange(n_layers, dtype=np.int32), n)
    for name in ("a", "b", "c", "d", "e"):
        norms[name] = rng.normal(size=len(norms)).astype(np.float32)
    store = Store(tmp_path / "run", spec(samples=tuple(range(14042)), shard_size=n))
    store.write(0, {"scores": pd.concat(rows), "norms": norms})
    written = sum(file.stat().st_size for file in store.folder.glob("shard-00000*"))
    assert 30e6 < written * store.spec.n_shards < 100e6


def test_a_folder_without_a_specification_is_named(tmp_path):
    with pytest.raises(StoreError, match="is not a sweep's specification"):
        read_spec(tmp_path)
