"""``trace``: batched prefill and decode with a KV cache, recorded layer by layer."""

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.adapters import Adapter
from lacscope.dataset import MEASURES, TOKENWISE_MEASURES, SampleTrace, stack_rules
from lacscope.halting_pass import Program, make_program
from lacscope.hooks import HaltingSession, run_session
from lacscope.inputs import InputError, check_lengths, read_inputs, read_responses
from lacscope.models import check_blocks
from lacscope.recorder import Recorder, assemble, run_attrs
from lacscope.rules import EFFECTS, Effect, HaltingRule, describe_rule
from lacscope.sampling import Sampler
from lacscope.thresholds import lac_thresholds

Progress = Callable[[int, int], None]
Logits = Literal["none", "last", "all"]
_RESIDUAL_POINTS = ("hook_resid_pre", "hook_resid_post")


@dataclass(frozen=True)
class _Plan:
    """What one call of :func:`trace` asked for, checked."""

    program: Program
    max_new_tokens: int
    logits: Logits
    tokenwise: frozenset[str]
    given: bool
    stop_ids: frozenset[int]

    @property
    def last_only(self) -> bool:
        """Whether logits beyond the last position's are needed by nobody."""
        return not self.tokenwise and self.logits != "all" and not (self.given and self.logits == "last")


def trace(
    model: Any,
    inputs: Any,
    *,
    rule: HaltingRule | Sequence[HaltingRule] | None = None,
    effect: Effect = "observe",
    max_new_tokens: int = 0,
    responses: Sequence[Any] | str | None = None,
    fwd_hooks: Sequence[tuple[Any, Callable[..., Any]]] = (),
    batch_size: int = 8,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    temperature: float | int = 0.0,
    top_p: float | int = 1.0,
    seed: int | None = None,
    measures: Sequence[str] = (),
    logits: Logits = "none",
    sample_ids: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read prompts, generate, and record every layer's change of the residual stream for every token read.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``, from :func:`lacscope.load_model` or your own.
        inputs: str, list of str, one chat, list of chats, token ids, or an integer tensor [batch, pos].
        rule: decides the voids; a list of rules gives the result a leading dimension ``rule``.
        effect: ``"observe"``, ``"readout"`` or ``"bypass"``.
        max_new_tokens: how many tokens to generate at most. N give at most N-1 decode rows: the last is
            produced and never read. Generation ends, row by row, at the end-of-sequence tokens of the
            generation config and of the tokenizer; the rest of the generation config is ignored.
        responses: given answers (text or token ids), read in the same pass as their prompts and labelled
            decode, instead of generating.
        fwd_hooks: your own ``(name or filter, fn)`` hooks; they fire before ours.
        batch_size: prompts per batch. Samples are batched by length and left-padded; the result does not
            depend on it beyond float32 rounding.
        attention_mask: True on the real tokens of a tensor of inputs.
        temperature, top_p, seed: 0 is greedy. Each sample has a generator of its own, seeded by
            (seed, sample id); without a seed one is drawn and stored in the trace.
        measures: any of ``attn_out_norm``, ``mlp_out_norm``, ``cos_pre_post``, ``threshold`` (per layer and
            token), ``surprisal``, ``entropy`` (per token, in nats).
        logits: ``"none"``, ``"last"`` (at the last prompt token) or ``"all"`` (at every token read).
        sample_ids: coordinate ``sample`` (default 0, 1, ...), also what seeds each sample.
        progress: called with (samples done, samples) after each batch.

    Returns:
        The trace, an ``xarray.Dataset`` with dimensions (sample, layer, token). Norms are float32, in units
        of the stream; each row belongs to the token that is *read*.

    Raises:
        InputError: inputs that cannot be read, or do not fit the context.
        ValueError: an unknown effect, measure or option.
        UnsupportedModelError: a measure that this model's hook points cannot give.
        NonFiniteStreamError: NaN or infinity in the stream, with sample, layer and token.

    Source: "Void in Language Models", arXiv 2505.14467; the effects as DESIGN tells them apart.

    >>> t = trace(model, ["The capital of France is"], max_new_tokens=8)  # doctest: +SKIP
    >>> voids(t, alpha=[0.0, 0.5, 0.8])  # no new pass  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    rules = tuple(rule) if isinstance(rule, (list, tuple)) else (rule,) if rule is not None else ()
    check_options(
        effect=effect,
        logits=logits,
        measures=measures,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        responses=responses,
        temperature=temperature,
        top_p=top_p,
    )
    if isinstance(rule, (list, tuple)) and not rules:
        raise ValueError("rule=[] has no rule; pass rule=None to trace without one.")
    drawn = secrets.randbits(31) if seed is None and temperature > 0 else seed
    sampler = Sampler(temperature, top_p, drawn or 0)

    prompts = read_inputs(adapter, inputs, attention_mask)
    answers = None if responses is None else read_responses(adapter, responses, len(prompts))
    whole = prompts if answers is None else [p + a for p, a in zip(prompts, answers, strict=True)]
    check_lengths(adapter, whole, max_new_tokens)
    ids = list(range(len(prompts))) if sample_ids is None else [int(i) for i in sample_ids]
    if len(ids) != len(prompts):
        raise InputError(f"sample_ids has {len(ids)} entries for {len(prompts)} inputs.")
    _check_hook_names(adapter, fwd_hooks)

    attrs = {
        "max_new_tokens": max_new_tokens,
        "response": "given" if answers is not None else "generated" if max_new_tokens > 0 else "none",
        "temperature": float(temperature),
        "top_p": float(top_p),
        "seed": drawn,
        "batch_size": batch_size,
        "n_fwd_hooks": len(fwd_hooks),
    }
    # Only observing answers for many rules in one pass; an edit makes streams of its own.
    groups = [rules] if effect == "observe" or len(rules) < 2 else [(one,) for one in rules]
    traces = []
    for group in groups:
        plan = _Plan(
            make_program(adapter, group, effect, sorted(set(measures) - set(TOKENWISE_MEASURES))),
            max_new_tokens,
            logits,
            frozenset(measures) & frozenset(TOKENWISE_MEASURES),
            answers is not None,
            adapter.stop_ids(),
        )
        batches = _Batches(whole, [len(p) for p in prompts], ids, batch_size)
        samples = _run(adapter, plan, batches, sampler, list(fwd_hooks), progress)
        traces.append(
            assemble(
                samples,
                adapter,
                run_attrs(adapter, group, effect) | attrs,
                sample_ids=ids,
                rules=[describe_rule(one) for one in group],
            )
        )
    if not isinstance(rule, (list, tuple)):
        return traces[0]
    return stack_rules(traces, [describe_rule(one) for one in rules])


def check_options(
    *,
    effect: str = "observe",
    logits: str = "none",
    measures: Sequence[str] = (),
    batch_size: int = 1,
    max_new_tokens: int = 0,
    responses: Any = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> None:
    """Raise ValueError, in words, for an option of :func:`trace` that no model could serve."""
    if effect not in EFFECTS:
        raise ValueError(f"unknown effect {effect!r}; choose one of {', '.join(map(repr, EFFECTS))}.")
    if logits not in ("none", "last", "all"):
        raise ValueError(f"logits must be 'none', 'last' or 'all', got {logits!r}.")
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list of names, got the string {measures!r}; write [{measures!r}].")
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown:
        raise ValueError(f"unknown measure {unknown[0]!r}; choose from {', '.join(MEASURES)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or more, got {max_new_tokens}.")
    if responses is not None and max_new_tokens:
        raise ValueError("responses= gives the answers, max_new_tokens= generates them: pass one of the two.")
    Sampler(temperature, top_p)


def _check_hook_names(adapter: Adapter, fwd_hooks: Sequence[tuple[Any, Any]]) -> None:
    for name, _ in fwd_hooks:
        if isinstance(name, str) and adapter.hook_point(name) is None:
            raise ValueError(
                f"{adapter.name} has no hook point {name!r}. Model-wide names are listed by model.hook_dict; a model "
                "loaded with hooks='residual' has the block-level ones alone: reload it with hooks='full'."
            )


@dataclass(frozen=True)
class _Batches:
    """Samples in batches of similar length, each left-padded to its longest."""

    rows: list[list[int]]
    prompt_lengths: list[int]
    sample_ids: list[int]
    size: int

    def __iter__(self) -> Iterator[list[int]]:
        order = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i]))
        for start in range(0, len(order), self.size):
            yield order[start : start + self.size]

    def padded(
        self, members: list[int], pad_id: int, device: torch.device
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        longest = max(len(self.rows[i]) for i in members)
        ids = torch.full((len(members), longest), pad_id)
        mask = torch.zeros((len(members), longest), dtype=torch.bool)
        for row, i in enumerate(members):
            ids[row, longest - len(self.rows[i]) :] = torch.tensor(self.rows[i])
            mask[row, longest - len(self.rows[i]) :] = True
        return ids.to(device), mask.to(device)


@contextmanager
def _prepared(
    adapter: Adapter, session: HaltingSession, fwd_hooks: list[tuple[Any, Callable[..., Any]]]
) -> Iterator[None]:
    """The user's hooks, then ours, on the leanest path that serves both."""
    foreign = bool(fwd_hooks) or adapter.user_hooked()
    inside = set(session.program.points()) - set(_RESIDUAL_POINTS)
    with ExitStack() as stack:
        # Tensors caught by a user's hook under inference_mode could not be trained on.
        stack.enter_context(torch.no_grad() if foreign else torch.inference_mode())
        if not foreign and not inside:
            stack.enter_context(adapter.lean())
        if fwd_hooks:
            stack.enter_context(adapter.model.hooks(fwd_hooks=fwd_hooks))
        stack.enter_context(run_session(session))
        yield


def _run(
    adapter: Adapter,
    plan: _Plan,
    batches: _Batches,
    sampler: Sampler,
    fwd_hooks: list[tuple[Any, Callable[..., Any]]],
    progress: Progress | None,
) -> list[SampleTrace]:
    found: dict[int, SampleTrace] = {}
    recorder = Recorder()
    program = plan.program
    if program.effect == "readout" and plan.last_only and not plan.given:
        program = dataclasses.replace(program, last_position_only=True)
    session = HaltingSession(adapter, program, recorder)
    with _prepared(adapter, session, fwd_hooks):
        for members in batches:
            recorder.clear()
            session.prompt_lengths = torch.tensor([batches.prompt_lengths[i] for i in members])
            session.sample_ids = [batches.sample_ids[i] for i in members]
            sampler.start([batches.sample_ids[i] for i in members])
            samples = _run_batch(adapter, plan, batches, members, sampler, recorder)
            found.update(zip(members, samples, strict=True))
            if progress is not None:
                progress(len(found), len(batches.rows))
    for sample in found.values():
        if "threshold" in plan.program.measures:
            sample.layerwise["threshold"] = lac_thresholds(
                sample.layerwise["delta_norm"],
                plan.program.rules[0].alpha,  # type: ignore[attr-defined]
            )
    return [found[i] for i in range(len(batches.rows))]


def _run_batch(
    adapter: Adapter,
    plan: _Plan,
    batches: _Batches,
    members: list[int],
    sampler: Sampler,
    recorder: Recorder,
) -> list[SampleTrace]:
    pad_id = getattr(adapter.tokenizer, "pad_token_id", None) or 0
    ids, mask = batches.padded(members, pad_id, adapter.device)
    reading = _Reading(plan, mask)
    logits, cache = adapter.step(ids, mask, None, use_cache=plan.max_new_tokens > 1, last_only=plan.last_only)
    reading.add(ids, logits)
    prompt_end = [batches.prompt_lengths[i] - len(batches.rows[i]) - 1 for i in members]
    last_logits = None
    if plan.logits == "last":
        last_logits = logits[torch.arange(len(members)), prompt_end].float().cpu().numpy()
    last_sampled = None
    if plan.max_new_tokens > 0:
        stop = torch.tensor(sorted(plan.stop_ids), device=ids.device)
        finished = torch.zeros(len(members), dtype=torch.bool, device=ids.device)
        for remaining in range(plan.max_new_tokens - 1, -1, -1):
            last_sampled = sampler(logits[:, -1])
            finished |= torch.isin(last_sampled, stop)
            if remaining == 0 or bool(finished.all()):
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits, cache = adapter.step(
                last_sampled.unsqueeze(-1), mask, cache, use_cache=True, last_only=plan.last_only
            )
            reading.add(last_sampled.unsqueeze(-1), logits)
    run = recorder.open_runs[0]
    samples = run.samples(plan.stop_ids, last_sampled, reading.tokenwise())
    for row, sample in enumerate(samples):
        if last_logits is not None:
            sample.logits = last_logits[row]
        elif plan.logits == "all":
            columns = np.flatnonzero(run.mask[row].cpu().numpy())[: len(sample)]
            sample.logits = reading.all_logits(row)[columns]
    return samples


@dataclass
class _Reading:
    """What is measured on logits as they come: they belong to no layer, so no hook sees them."""

    plan: _Plan
    prompt_mask: Bool[Tensor, "batch pos"]
    kept: list[Float[Tensor, "batch pos vocab"]] = field(default_factory=list)
    columns: dict[str, list[Float[Tensor, "batch pos"]]] = field(default_factory=dict)
    _before: Float[Tensor, "batch vocab"] | None = None

    def add(self, tokens: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch read vocab"]) -> None:
        if self.plan.logits == "all":
            self.kept.append(logits.float().cpu())
        if not self.plan.tokenwise:
            return
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        if "entropy" in self.plan.tokenwise:
            self._keep("entropy", -(log_probs.exp() * log_probs).sum(-1))
        if "surprisal" in self.plan.tokenwise:
            before = torch.full_like(log_probs[:, 0], torch.nan) if self._before is None else self._before
            predicted = torch.cat([before.unsqueeze(1), log_probs[:, :-1]], dim=1)
            surprisal = -predicted.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            if self._before is None:
                # The first real token of a left-padded row follows a pad, which predicts nothing.
                first_real = self.prompt_mask & (self.prompt_mask.long().cumsum(-1) == 1)
                surprisal = surprisal.masked_fill(first_real, torch.nan)
            self._keep("surprisal", surprisal)
            self._before = log_probs[:, -1]

    def _keep(self, name: str, values: Float[Tensor, "batch pos"]) -> None:
        self.columns.setdefault(name, []).append(values)

    def tokenwise(self) -> dict[str, Float[Tensor, "batch pos"]]:
        return {name: torch.cat(parts, dim=1) for name, parts in self.columns.items()}

    def all_logits(self, row: int) -> Float[np.ndarray, "pos vocab"]:
        return np.concatenate([part[row].numpy() for part in self.kept])
