"""``trace``: batched prefill and decode with a KV cache, recorded layer by layer."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from lacscope.guards._arguments import hook_pairs, whole_numbers
from lacscope.models._checks import check_blocks, divides_rows, require_decode, require_one_run, rows_at_once
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, BareModel, attention_of, bare_model, execution_of
from lacscope.rules import Effect, HaltingRule, describe_rule
from lacscope.rules._lac import thresholds_of
from lacscope.traces._joining import stack_rules
from lacscope.traces._options import Logits, Tokenwise, check_options
from lacscope.traces._provenance import Progress
from lacscope.traces._schema import SampleTrace
from lacscope.tracing._batches import Batch, Batches, Reading, prepared
from lacscope.tracing._branching import RuleKeepsStateError, run_branches
from lacscope.tracing._inputs import InputError, check_lengths, read_inputs, read_responses
from lacscope.tracing._program import Program, make_program
from lacscope.tracing._recorder import Recorder, assemble, described_rules, run_attrs
from lacscope.tracing._sampling import Sampler
from lacscope.tracing._session import HaltingSession, Rows


def trace(
    model: Model,
    inputs: Any,
    *,
    rule: HaltingRule | Sequence[HaltingRule] | None = None,
    effect: Effect = "observe",
    max_new_tokens: int = 0,
    responses: Sequence[Any] | str | None = None,
    fwd_hooks: Sequence[tuple[Any, Callable[..., Any]]] | tuple[Any, Callable[..., Any]] = (),
    batch_size: int = 8,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | np.ndarray | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    temperature: float | int = 0.0,
    top_p: float | int = 1.0,
    seed: int | None = None,
    measures: Sequence[str] = (),
    tokenwise: Tokenwise = "all",
    logits: Logits = "none",
    sample_ids: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read prompts, generate, and record every layer's change of the residual stream for every token read.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``, from :func:`lacscope.load_model` or your own.
        inputs: str, list of str, one chat, list of chats, token ids, or an integer tensor [batch, pos]; also as
            numpy arrays or pandas columns.
        rule: the rule that decides the voids; a list of rules gives the result a leading dimension ``rule``. One pass
            observes them all. Under ``readout`` one prefill serves them all, and decode reads a token once for all
            rules that got there by the same tokens; one run a rule is needed where a rule writes to its ``run_state``,
            with hooks of your own, or for ``threshold``. Under ``bypass`` each rule has a run.
        effect: ``"observe"``, ``"readout"`` or ``"bypass"``.
        max_new_tokens: the number of tokens to generate at most. N give at most N-1 decode rows: the last is
            produced and never read. Generation ends, row by row, at the end-of-sequence tokens of the
            generation config and of the tokenizer; the rest of the generation config is ignored.
        responses: given answers (text or token ids), read in the same pass as their prompts and labelled
            decode, instead of generating.
        fwd_hooks: your own ``(name or filter, fn)`` hooks, or one such pair; they fire before ours.
        batch_size: prompts per batch. Samples are batched by length and left-padded; the result does not
            depend on it beyond float32 rounding.
        attention_mask: True on the real tokens of a tensor of inputs.
        chat_template_kwargs: options of the chat template, such as ``{"enable_thinking": False}``; they stand in the
            trace's attributes.
        temperature, top_p, seed: 0 is greedy. Each sample has a generator of its own, seeded by
            (seed, sample id); without a seed one is drawn and stored in the trace.
        measures: any of ``attn_out_norm``, ``mlp_out_norm``, ``cos_pre_post``, ``threshold`` (per layer and
            token), ``surprisal``, ``entropy`` (per token, in nats), ``rank`` (per token: how many tokens had a
            higher logit than the one read, 0 = the greedy choice; like surprisal NaN at a sample's first token).
        tokenwise: the tokens that the per-token measures are taken of: ``"all"`` that are read, or ``"response"``,
            those after the prompt alone (NaN on the prompt), which unembeds few positions and so costs less.
        logits: ``"none"``, ``"last"`` (at the last prompt token) or ``"all"`` (at every token read).
        sample_ids: coordinate ``sample`` (default 0, 1, ...), also what seeds each sample.
        progress: a function that is called with (samples done, samples) after each batch.

    Returns:
        The trace, an ``xarray.Dataset`` with dimensions (sample, layer, token). Norms are float32, in units
        of the stream; each row belongs to the token that is *read*. What is padding is NaN, in ``void`` too. One
        phase is ``t.where(t.phase == "decode")``: ``phase`` is a label of tokens and no dimension. The attribute
        ``ran_on`` says whether the wrapped model ran alone, or what kept it on the bridge, and ``attention`` how
        attention was computed.

    Raises:
        InputError: inputs that cannot be read, or do not fit the context.
        ValueError: an unknown effect, measure or option.
        UnsupportedModelError: a measure that this model's hook points cannot give.
        NonFiniteStreamError: NaN or infinity in the stream, with sample, layer and token.

    Source: "Void in Language Models", arXiv 2505.14467.

    >>> t = trace(model, ["The capital of France is"], max_new_tokens=8)  # doctest: +SKIP
    >>> voids(t, alpha=[0.0, 0.5, 0.8])  # no new pass  # doctest: +SKIP
    """
    adapter = check_blocks(model, lean=True)
    rules = tuple(rule) if isinstance(rule, (list, tuple)) else (rule,) if rule is not None else ()
    check_options(
        effect=effect,
        logits=logits,
        tokenwise=tokenwise,
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
    sampler = Sampler(temperature, top_p, 0 if drawn is None else drawn)
    hooks = hook_pairs(fwd_hooks)
    given_ids = None if sample_ids is None else whole_numbers("sample_ids", sample_ids, distinct=True)

    prompts = read_inputs(adapter, inputs, attention_mask, chat_template_kwargs=chat_template_kwargs)
    answers = None if responses is None else read_responses(adapter, responses, len(prompts))
    whole = prompts if answers is None else [p + a for p, a in zip(prompts, answers, strict=True)]
    check_lengths(adapter, whole, max_new_tokens)
    ids = list(range(len(prompts))) if given_ids is None else given_ids
    if len(ids) != len(prompts):
        raise InputError(f"sample_ids has {len(ids)} entries for {len(prompts)} inputs.")
    if max_new_tokens > 1:
        require_decode(adapter)
    _check_hook_names(adapter, hooks)
    if "threshold" in measures:
        _refuse_skipped_history(adapter)

    attrs = {
        "max_new_tokens": max_new_tokens,
        "response": "given" if answers is not None else "generated" if max_new_tokens > 0 else "none",
        "temperature": float(temperature),
        "top_p": float(top_p),
        "seed": drawn,
        "batch_size": batch_size,
        "n_fwd_hooks": len(hooks),
    }
    if chat_template_kwargs:
        attrs["chat_template_kwargs"] = json.dumps(dict(chat_template_kwargs), sort_keys=True, default=str)
    program = replace(
        make_program(adapter, rules, effect, measures),
        max_new_tokens=max_new_tokens,
        logits=logits,
        tokenwise=tokenwise,
        given_answers=answers is not None,
    )
    bare, reason = _alone(adapter, program, hooks)
    if bare is not None:
        program = replace(program, ends_on_any_length=bare.ends_on_any_length)
    attrs["ran_on"] = f"the bridge: {reason}" if bare is None else "the wrapped model alone"
    if (
        attention := attention_of(getattr(adapter.model, "original_model", None)) if bare is None else bare.attention
    ) is not None:
        attrs["attention"] = attention
    pad_id = getattr(adapter.tokenizer, "pad_token_id", None) or 0
    batches = Batches(whole, [len(p) for p in prompts], ids, rows_at_once(adapter, batch_size), pad_id, adapter.device)
    found = _run_rules(adapter, program, batches, sampler, hooks, progress, bare)
    attrs = run_attrs(adapter, rules, effect) | attrs
    traces = [
        assemble(
            samples,
            adapter,
            attrs | {"rule": described_rules(group)},
            sample_ids=ids,
            rules=[describe_rule(one) for one in group],
        )
        for group, samples in found
    ]
    if not isinstance(rule, (list, tuple)):
        return traces[0]
    return stack_rules(traces, [describe_rule(one) for one in rules])


def _alone(adapter: Adapter, program: Program, hooks: Sequence[Any]) -> tuple[BareModel | None, str]:
    """The wrapped model alone, where these passes need nothing of the bridge; or None, and what they need."""
    if hooks:
        return None, "hooks of yours stand on it"
    if program.inside_blocks:
        return None, "what is measured lies inside its blocks"
    return bare_model(adapter)


def _refuse_skipped_history(adapter: Adapter) -> None:
    execution = execution_of(adapter.model)
    plan = {} if execution is None else json.loads(execution.text)
    if plan.get("idle"):
        raise ValueError(
            f"measure 'threshold' under the plan [{plan['plan']}], which skips layers {plan['idle']}: they have no "
            "part in the other layers' history, and the norms kept do not tell them apart. Leave 'threshold' out; the "
            "voids are recorded."
        )


def _check_hook_names(adapter: Adapter, fwd_hooks: Sequence[tuple[Any, Any]]) -> None:
    for name, _ in fwd_hooks:
        if isinstance(name, str) and adapter.hook_point(name) is None:
            raise ValueError(
                f"{adapter.name} has no hook point {name!r}. Model-wide names are listed by model.hook_dict; a model "
                "loaded with hooks='residual' has the block-level ones alone: reload it with hooks='full'."
            )


def _run_rules(
    adapter: Adapter,
    program: Program,
    batches: Batches,
    sampler: Sampler,
    fwd_hooks: list[tuple[Any, Callable[..., Any]]],
    progress: Progress | None,
    bare: BareModel | None,
) -> list[tuple[tuple[HaltingRule, ...], list[SampleTrace]]]:
    """The samples of each run, with the rules that it was for: as few runs as the effect allows."""
    rules, effect = program.rules, program.effect
    if effect == "observe" or len(rules) < 2:
        return [(rules, _run(adapter, program, batches, sampler, fwd_hooks, progress, bare))]
    # A hook of the user's may stand on rows, or on what follows the last block; a threshold is one rule's.
    alone = fwd_hooks or adapter.user_hooked() or "threshold" in program.measures
    if effect == "readout" and not alone and divides_rows(adapter):
        # Found out on the way: it shows only when a rule is asked.
        with suppress(RuleKeepsStateError):
            samples = run_branches(adapter, program, batches, sampler, progress, bare)
            return [((rule,), found) for rule, found in zip(rules, samples, strict=True)]
    return [
        (one.rules, _run(adapter, one, batches, sampler, fwd_hooks, progress, bare)) for one in program.of_each_rule()
    ]


def _run(
    adapter: Adapter,
    program: Program,
    batches: Batches,
    sampler: Sampler,
    fwd_hooks: list[tuple[Any, Callable[..., Any]]],
    progress: Progress | None,
    bare: BareModel | None,
) -> list[SampleTrace]:
    found: dict[int, SampleTrace] = {}
    session = HaltingSession(adapter, program, Recorder(), bare=bare)
    with prepared(session, fwd_hooks):
        for batch in batches:
            found.update(zip(batch.members, _run_batch(session, batch, sampler), strict=True))
            if progress is not None:
                progress(len(found), len(batches))
    for sample in found.values():
        if "threshold" in program.measures:
            sample.layerwise["threshold"] = thresholds_of(program.rules[0], sample.layerwise["delta_norm"])
    return [found[i] for i in range(len(batches))]


def _run_batch(session: HaltingSession, batch: Batch, sampler: Sampler) -> list[SampleTrace]:
    adapter, program, stop_ids = session.adapter, session.program, session.adapter.stop_ids()
    mask, n_read = batch.mask, batch.mask.shape[1]
    rows = torch.arange(len(mask), device=mask.device)
    reading = Reading(program, batch, rows)
    session.recorder.clear()
    sampler.start(batch.sample_ids)
    kept = program.kept(int(batch.answer_lengths.max()))
    first = Rows(batch.prompt_lengths, None, batch.sample_ids, kept, padded=batch.padded)
    logits, cache = session.step(first, batch.ids, mask, None)
    reading.read_prompts(logits)
    sampled = None
    if program.max_new_tokens > 0:
        stop = torch.tensor(sorted(stop_ids), device=mask.device)
        finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        for remaining in range(program.max_new_tokens - 1, -1, -1):
            drawn = sampler(logits[:, -1])
            sampled = drawn if sampled is None else torch.where(finished, sampled, drawn)
            finished |= torch.isin(sampled, stop)
            if remaining == 0 or bool(finished.all()):
                break
            if batch.padded or session.bare is None:
                # What a row reads beside the others once it has ended is padding.
                mask = torch.cat([mask, ~finished.unsqueeze(-1)], dim=1)
            n_read += 1
            logits, cache = session.step(replace(first, kept=1), sampled.unsqueeze(-1), mask, cache)
            reading.read_token(sampled, logits, rows, rows)
    run = session.recorder.open_runs[0]
    require_one_run(adapter, run.length, n_read)
    samples = run.samples(stop_ids, sampled, reading.tokenwise(rows), batch.sample_ids)
    for row, sample in enumerate(samples):
        sample.logits = reading.logits_of(row, len(sample))
    return samples
