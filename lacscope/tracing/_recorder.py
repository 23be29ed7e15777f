"""Runs, as they are recorded: norms per layer and token, never streams.

A *run* is a prefill and the decode steps that continue it; a *pass* is one forward pass of it. Memory is
O(layers x tokens).
"""

import bisect
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.models._facts import model_attrs
from lacscope.models.adapters import Adapter, execution_of, known_self_check
from lacscope.rules import HaltingRule, describe_rule
from lacscope.traces._schema import SampleTrace, build
from lacscope.tracing._rules_in_pass import Alphas
from lacscope.tracing._token_text import special_ids, token_texts


class NonFiniteStreamError(FloatingPointError):
    """NaN or infinity in the residual stream of a real token; the message says where it began."""


@dataclass
class PassRecord:
    """One finished forward pass. ``blocks`` are those of its rows, in the order in which they fired."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    layerwise: dict[str, Float[Tensor, "layer batch pos"]]
    void: Bool[Tensor, "*rule layer batch pos"] | None
    blocks: tuple[int, ...] = ()

    @property
    def n_layers(self) -> int:
        return len(self.layerwise["resid_pre_norm"])

    def check_finite(self, run: "Run | None" = None, sample_ids: Sequence[int] | None = None) -> None:
        """Raise NonFiniteStreamError naming sample, layer and token where a norm of a real token is not finite.

        ``run`` is what the pass continues, and ``sample_ids`` the names of the batch's rows, where known.
        """
        entering = ~torch.isfinite(self.layerwise["resid_pre_norm"])
        leaving = ~torch.isfinite(self.layerwise["delta_norm"] + self.layerwise["update_norm"])
        # In the order in which the stream passes them, so that the first is where it began.
        bad = torch.stack([entering, leaving], dim=1).flatten(0, 1) & self.mask
        if not bool(bad.any()):
            return
        place, row, position = (int(i) for i in bad.nonzero()[0])
        layer, has_left = divmod(place, 2)
        token = int(self.mask[row, : position + 1].sum()) - 1
        if run is not None and run.passes:
            token += int(run.mask[row].sum())
        sample = f"sample {row} of the batch" if sample_ids is None else f"sample {sample_ids[row]}"
        raise NonFiniteStreamError(
            f"the residual stream {'leaving' if has_left else 'entering'} layer {layer} is not finite at {sample}, "
            f"token {token} (id {int(self.tokens[row, position])}). "
            "A float16 model may overflow: load it in bfloat16 or float32; else look at the weights or at "
            "a hook that edits this layer."
        )

    def selected(self, rows: Int[Tensor, " row"]) -> "PassRecord":
        """The same pass as if these had been its rows."""
        return replace(
            self,
            tokens=self.tokens[rows],
            mask=self.mask[rows],
            layerwise={name: values[:, rows] for name, values in self.layerwise.items()},
            void=None if self.void is None else self.void[..., rows, :],
        )


@dataclass(eq=False)
class Run:
    """The passes of one prefill and its decode, and what is needed to recognise the next pass.

    ``behind`` is how many tokens of each row the cache held before the run began, ``length`` how many columns were read
    so far, padding included. ``unchecked`` says that passes after the first may hold what is not finite. Where there
    are ``alphas``, its voids are theirs, and are made when they are asked for.
    """

    rule_states: list[dict[str, Any]]
    prompt_lengths: Int[Tensor, " batch"] | None = None
    passes: list[PassRecord] = field(default_factory=list)
    cache: "weakref.ref[Any] | None" = None
    keys: "weakref.ref[Any] | None" = None
    cached: int = 0
    behind: Int[Tensor, " batch"] | int = 0
    order: int = 0
    attrs: dict[str, Any] = field(default_factory=dict)
    length: int = 0
    unchecked: bool = False
    alphas: Alphas | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        return torch.cat([record.mask for record in self.passes], dim=1)

    def add(self, record: PassRecord) -> None:
        self.passes.append(record)
        self.length += record.tokens.shape[1]

    def whole(self, rule: Int[Tensor, " batch"] | None = None) -> PassRecord:
        """All of its passes as one; of several rules each row with the voids of its ``rule`` alone, where given."""
        layerwise = {
            name: torch.cat([record.layerwise[name] for record in self.passes], dim=-1)
            for name in self.passes[0].layerwise
        }
        delta, voids = layerwise["delta_norm"], [record.void for record in self.passes if record.void is not None]
        void: Tensor | None = None
        if self.alphas is not None:
            void = self.alphas.voids(delta) if rule is None else self.alphas.voids_of_rows(delta, rule)
        elif voids:
            void = torch.cat(voids, dim=-1)
            if rule is not None:
                chosen = rule.to(void.device)
                void = void[chosen, :, torch.arange(len(chosen), device=void.device)].movedim(0, 1)
        tokens = torch.cat([record.tokens for record in self.passes], dim=1)
        return PassRecord(tokens, self.mask, layerwise, void, self.passes[0].blocks)

    def selected(self, rows: Int[Tensor, " row"]) -> "Run":
        """The same run as if these had been its rows, in this order; one may stand several times."""
        lengths = None if self.prompt_lengths is None else self.prompt_lengths[rows.to(self.prompt_lengths.device)]
        behind = self.behind if isinstance(self.behind, int) else self.behind[rows.to(self.behind.device)]
        passes = [record.selected(rows) for record in self.passes]
        return replace(self, passes=passes, prompt_lengths=lengths, behind=behind)

    def continues(self, past_length: int, cache: Any, keys: Any) -> bool:
        """True where a pass with this cache reads on from where this run stopped."""
        if not self.passes or past_length != self.cached:
            return False
        same_cache = self.cache is not None and self.cache() is cache
        return same_cache and (self.keys is None or self.keys() is keys)

    def reread_by(self, tokens: Int[Tensor, "batch pos"] | None) -> bool:
        """True where a cacheless pass reads all of this run's tokens again, and more."""
        if tokens is None or not self.passes:
            return False
        read = torch.cat([record.tokens for record in self.passes], dim=1)
        longer = tokens.shape[0] == read.shape[0] and tokens.shape[1] > read.shape[1]
        return longer and torch.equal(tokens[:, : read.shape[1]].to(read.device), read)

    def samples(
        self,
        stop_ids: frozenset[int] = frozenset(),
        last_sampled: Int[Tensor, " batch"] | None = None,
        tokenwise: Mapping[str, Float[Tensor, "batch pos"]] | None = None,
        sample_ids: Sequence[int] | None = None,
        rule: Int[Tensor, " batch"] | None = None,
    ) -> list[SampleTrace]:
        """The run's rows without padding, each cut at its first generated end-of-sequence token.

        ``last_sampled`` is what was sampled after the last token read, and ``tokenwise`` what was measured
        on logits: only the caller knows them. ``sample_ids`` are the rows' names, where known,
        and ``rule`` the one of several rules whose voids a row is to have.

        Raises:
            NonFiniteStreamError: a step that was not looked at by itself.
        """
        whole = self.whole(rule)
        if self.unchecked:
            whole.check_finite(sample_ids=sample_ids)
        tokens, mask = _numpy(whole.tokens), _numpy(whole.mask)
        layerwise = {name: _numpy(values) for name, values in whole.layerwise.items()}
        void = None if whole.void is None else _numpy(whole.void)
        first_pass = self.passes[0].tokens.shape[1]
        lengths = mask[:, :first_pass].sum(-1) if self.prompt_lengths is None else _numpy(self.prompt_lengths)
        measured = {name: _numpy(values) for name, values in (tokenwise or {}).items()}
        samples = []
        for row in range(len(tokens)):
            columns = np.flatnonzero(mask[row])
            ids = tokens[row, columns]
            # Tokens of the first pass were given, whatever their phase; those later and past the prompt
            # were generated.
            decode = np.arange(len(ids)) >= lengths[row]
            generated = decode & (columns >= first_pass)
            produced = np.where(generated, ids, -1)
            produced = np.append(produced[1:], -1 if last_sampled is None else int(last_sampled[row]))
            stops = np.flatnonzero(generated & np.isin(ids, list(stop_ids)))
            kept = slice(0, stops[0] if len(stops) else len(ids))
            columns = columns[kept]
            samples.append(
                SampleTrace(
                    token_id=ids[kept],
                    next_token_id=produced[kept],
                    decode=decode[kept],
                    layerwise={name: values[:, row, columns] for name, values in layerwise.items()},
                    void=None if void is None else void[..., row, :][..., columns],
                    tokenwise={name: values[row, columns] for name, values in measured.items()},
                )
            )
        return samples


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


class Recorder:
    """What a context recorded: ``.runs``, one trace each; ``.trace``, the only one; ``.clear()``.

    A recorder given to :func:`lacscope.halting_hooks` is made empty: ``Recorder()``.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._adapter: Adapter | None = None
        self._attrs: dict[str, Any] = {}
        self._built: dict[Run, tuple[int, xr.Dataset]] = {}

    def describe(self, adapter: Adapter, rules: Sequence[HaltingRule], effect: str) -> dict[str, Any]:
        """Say which model and program the coming runs belong to. Returns their traces' attributes."""
        if self._adapter is not None and self._adapter.model is not adapter.model:
            raise ValueError(
                f"this recorder holds runs of {self._adapter.name}; give each model a recorder of its own."
            )
        self._adapter = adapter
        # Without the plan: each pass says under which it ran.
        self._attrs = {name: value for name, value in run_attrs(adapter, rules, effect).items() if name != "plan"}
        return self._attrs

    def keep(self, run: Run, attrs: dict[str, Any] | None = None) -> None:
        """Add a run, unless it is here already and has only grown.

        A call from inside a hook ends before the run that it was made in: runs stand in the order in which
        they began.
        """
        if run not in self._runs:
            run.attrs = self._attrs if attrs is None else attrs
            bisect.insort_right(self._runs, run, key=lambda kept: kept.order)

    @property
    def open_runs(self) -> list[Run]:
        """The runs as they are recorded, in the order in which they began."""
        return list(self._runs)

    @property
    def last_run(self) -> Run | None:
        """The run that began last, or None."""
        return self._runs[-1] if self._runs else None

    @property
    def runs(self) -> list[xr.Dataset]:
        """One trace per run, in the order in which they began."""
        return [self._dataset(index) for index in range(len(self._runs))]

    @property
    def trace(self) -> xr.Dataset:
        """The trace of the only run. Raises ValueError, listing them, where there are none or several."""
        if not self._runs:
            raise ValueError("nothing was recorded: no forward pass of the model ran to its end in this context.")
        if len(self._runs) > 1:
            listed = "; ".join(
                f"run {i}: {run.passes[0].tokens.shape[0]} rows, {run.length} tokens in {len(run.passes)} passes"
                for i, run in enumerate(self._runs)
            )
            raise ValueError(
                f"{len(self._runs)} runs were recorded ({listed}). Take one from .runs, or .clear() between."
            )
        return self._dataset(0)

    def clear(self) -> None:
        """Forget all runs."""
        self._runs.clear()
        self._built.clear()

    def _dataset(self, index: int) -> xr.Dataset:
        run = self._runs[index]
        built = self._built.get(run)
        if built is None or built[0] != len(run.passes):
            assert self._adapter is not None
            samples = run.samples(self._adapter.stop_ids())
            built = len(run.passes), assemble(samples, self._adapter, run.attrs)
            self._built[run] = built
        return built[1]


def under_plan(attrs: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Attributes of a run whose first pass ran under the plan of this JSON (see ``Plan.as_json``)."""
    return {**attrs, "plan": text}


def going_on_under_plan(attrs: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Attributes of a run after a cached pass under the plan of this JSON; the first pass may have had another plan.

    >>> later = '{"plan": "0, 2", "blocks": [0, 1, 2], "idle": [1]}'
    >>> going_on_under_plan({}, later)["plan"]
    '{"plan": "0-2", "blocks": [0, 1, 2], "idle": [1], "decode": "0, 2"}'
    """
    if attrs.get("plan") == text:
        return dict(attrs)
    now = json.loads(text)
    n_rows = len(now["blocks"])
    unplanned = {"plan": f"0-{n_rows - 1}", "blocks": list(range(n_rows)), "idle": []}
    before = json.loads(attrs["plan"]) if "plan" in attrs else unplanned
    if now["plan"] in (before["plan"], before.get("decode")) and set(now["idle"]) <= set(before["idle"]):
        return {**attrs, "plan": json.dumps(before)}
    merged = {**before, "idle": sorted({*before["idle"], *now["idle"]}), "decode": now.get("decode", now["plan"])}
    return under_plan(attrs, json.dumps(merged))


def described_rules(rules: Sequence[HaltingRule]) -> str:
    """One rule as JSON, or a list of several."""
    described = [describe_rule(rule) for rule in rules]
    return described[0] if len(described) == 1 else "[" + ", ".join(described) + "]" if described else "null"


def run_attrs(adapter: Adapter, rules: Sequence[HaltingRule], effect: str) -> dict[str, Any]:
    """Attributes of a trace that say what made it."""
    rule = described_rules(rules)
    execution = execution_of(adapter.model)
    plan = {} if execution is None else {"plan": execution.text}
    found = known_self_check(adapter)
    check = {} if found is None else {"self_check": found.as_json()}
    return {**model_attrs(adapter), "rule": rule, "effect": effect, **plan, **check}


def assemble(samples: Sequence[SampleTrace], adapter: Adapter, attrs: Mapping[str, Any], **options: Any) -> xr.Dataset:
    """Samples and attributes as a trace, with token texts from the model's tokenizer."""
    tokenizer = adapter.tokenizer
    ids = {int(i) for sample in samples for i in sample.token_id} - {-1}
    special = sorted(special_ids(tokenizer, ids))
    return build(samples, attrs, token_text=token_texts(tokenizer, ids), special_ids=special, **options)
