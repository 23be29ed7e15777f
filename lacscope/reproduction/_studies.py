"""What a folder of runs shows: tables, figures and a report, from the shards alone. No model, no torch."""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from lacscope.reproduction.scores._comparisons import compare
from lacscope.reproduction.scores._norm_null import null_share
from lacscope.reproduction.scores._scores import reference_lines, summarise
from lacscope.reproduction.scores._verdicts import verdict
from lacscope.reproduction.sweep._spec import SweepSpec
from lacscope.reproduction.sweep._store import Store, StoreError, read_spec
from lacscope.tasks._registry import TASKS
from lacscope.trace_analyses._phase_matching import matched_difference

PARTS = ("choice", "controls", "generated")


@dataclass(frozen=True)
class Study:
    """One model on one benchmark: the stores of its parts, and what follows from them.

    Args:
        folder: ``runs/<model>/<task>``, whose ``parts.json`` names the parts' folders.
        stores: the stores by part: ``choice``, and ``generated`` and ``controls`` where they were run.
    """

    folder: Path
    stores: dict[str, Store]

    @property
    def spec(self) -> SweepSpec:
        return self.stores["choice"].spec

    @property
    def model(self) -> str:
        return self.spec.model

    @property
    def task(self) -> str:
        return self.spec.task

    @property
    def style(self) -> str:
        """Of the prompts, with the solved examples before them."""
        return self.spec.style + (f", {self.spec.shots}-shot" if self.spec.shots else "")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The parts' scores as one table. Of the controls part, the controls alone: the rest is in the choice part."""
        parts = []
        for name, store in self.stores.items():
            table = store.read("scores")
            parts.append(table[~table["rule"].isin(("full", "lac"))] if name == "controls" else table)
        scores = pd.concat(parts, ignore_index=True)
        for name in ("style", "task", "model"):
            scores.insert(0, name, getattr(self, name))
        return scores

    @cached_property
    def norms(self) -> pd.DataFrame:
        """Norms by sample, phase and layer: with the generated answers where there are any, for their decode rows."""
        norms = self.stores.get("generated", self.stores["choice"]).read("norms")
        return norms.assign(model=self.model, task=self.task)

    @cached_property
    def matched_phases(self) -> pd.DataFrame:
        """Usage in decode less that in prefill, raw and matched; empty without generated answers."""
        cells = self.stores["generated"].read("cells") if "generated" in self.stores else pd.DataFrame()
        if cells.empty or not (cells["phase"] == "decode").any():
            return pd.DataFrame()
        n_layers = len(self.scores["active_prefill"].iloc[0])
        return matched_difference(cells, n_layers, seed=0).assign(model=self.model, task=self.task)

    @cached_property
    def controlled_summary(self) -> pd.DataFrame:
        """Every condition on the samples of the controls part alone; empty without controls."""
        if "controls" not in self.stores:
            return pd.DataFrame()
        choice = self.scores[self.scores["scoring"] == "choice"]
        return summarise(choice[choice["sample"].isin(self.stores["controls"].spec.samples)])

    def made_by(self) -> dict[str, object]:
        """What made it, for the JSON beside each figure."""
        spec = self.spec
        return {
            "model": spec.model,
            "weights_sha256": spec.weights,
            "quantization": spec.quantization,
            "dtype": spec.dtype,
            "device": spec.device,
            "task": spec.task,
            "style": self.style,
            "data_seed": spec.data_seed,
            "versions": dict(spec.versions),
            "parts": {name: {"id": s.spec.id, "n_samples": len(s.spec.samples)} for name, s in self.stores.items()},
        }


def open_studies(out: Path) -> list[Study]:
    """Every model and benchmark under ``out/runs``, in the order of their names.

    Raises:
        StoreError: nothing there, or a part with shards missing.
    """
    studies = []
    for listed in sorted(Path(out).glob("runs/*/*/parts.json")):
        stores = {}
        for name, folder in _parts_of(listed).items():
            spec = read_spec(listed.parent / folder)
            store = Store(listed.parent / folder, spec)
            missing = sorted(set(range(spec.n_shards)) - store.done())
            if missing:
                raise StoreError(
                    f"{store.folder}: {len(missing)} of {spec.n_shards} shards are missing or damaged, among them "
                    f"shard-{missing[0]:05d}. Run the command that made it again: it does those alone."
                )
            stores[name] = store
        studies.append(Study(listed.parent, stores))
    if not studies:
        written, begun = shards_on_disk(out)
        if begun:
            raise StoreError(
                f"{out} holds no finished run yet: {written} of {begun} shards of the parts begun are there. Run the "
                "`lacscope reproduce` command that made them again: it goes on from there."
            )
        raise StoreError(f"{out} holds no finished run: `lacscope reproduce --out {out}` makes them.")
    return studies


def _parts_of(listed: Path) -> dict[str, str]:
    """Each part's folder, as ``parts.json`` says; where it is damaged, as the folders beside it leave no doubt.

    Raises:
        StoreError: it is damaged, and several runs lie beside it.
    """
    beside = {name: [at.name for at in sorted(listed.parent.glob(f"{name}-*/"))] for name in PARTS}
    with suppress(OSError, ValueError, RecursionError):
        named = json.loads(listed.read_text(encoding="utf-8"))
        if isinstance(named, dict) and "choice" in named and all(at in beside.get(k, ()) for k, at in named.items()):
            return named
    if len(beside["choice"]) != 1 or any(len(folders) > 1 for folders in beside.values()):
        raise StoreError(
            f"{listed} is damaged: it does not name the parts of a run, and of those beside it "
            f"({', '.join(at for folders in beside.values() for at in folders) or 'none'}) it cannot be told which "
            "belong together. Run the `lacscope reproduce` command that made it again: it writes it anew and does no "
            "finished shard again."
        )
    return {name: folders[0] for name, folders in beside.items() if folders}


def shards_on_disk(out: Path) -> tuple[int, int]:
    """How many shards are written, and how many there are, of all parts that were begun under ``out/runs``."""
    written = total = 0
    for described in Path(out).glob("runs/*/*/*/spec.json"):
        with suppress(StoreError):
            total += read_spec(described.parent).n_shards
            written += len(list(described.parent.glob("shard-[0-9]*[0-9].json")))
    return written, total


@dataclass(frozen=True)
class Findings:
    """All studies of a folder, compared: what the figures and the report are drawn from."""

    studies: list[Study]

    @cached_property
    def scores(self) -> pd.DataFrame:
        return pd.concat([study.scores for study in self.studies], ignore_index=True)

    @cached_property
    def summary(self) -> pd.DataFrame:
        return pd.concat([summarise(study.scores) for study in self.studies], ignore_index=True)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        return pd.concat([compare(study.scores) for study in self.studies], ignore_index=True)

    @cached_property
    def null(self) -> pd.DataFrame:
        return null_share(self.scores, self.comparisons)

    @cached_property
    def verdict(self) -> list[str]:
        """What came out, in words that the numbers support."""
        return verdict(self.comparisons, self.null if len(self.null) else None)

    @property
    def benchmarks(self) -> list[tuple[str, str]]:
        """Every (task, style), as the studies stand."""
        return list(dict.fromkeys((study.task, study.style) for study in self.studies))

    def of(self, task: str, style: str) -> list[Study]:
        """The studies of one benchmark, one a model."""
        return [study for study in self.studies if (study.task, study.style) == (task, style)]

    def references(self, task: str, style: str) -> dict[str, dict[str, float]]:
        """By model: the full model's accuracy, chance, and the best constant answer."""
        chance = TASKS[task].chance if task in TASKS else None
        return {study.model: reference_lines(study.scores, chance) for study in self.of(task, style)}
