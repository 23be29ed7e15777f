"""Rule + effect -> hooks on the residual stream.

Two ways in. :func:`halting_hooks` gives plain ``(name, fn)`` pairs for ``run_with_hooks``, ``hooks`` and
``add_hook``. :func:`halting` is a context manager around anything that runs the model (``generate``,
``run_with_cache``, an evaluation harness): it sees where passes begin and end, which tokens they read,
the padding and the cache, and records every run.

Order. Hooks fire in the order they were registered. Hooks registered before ours have had their say by the
time we measure, so we measure the stream they leave; a hook registered after ours at the same point can
change, or undo, our edit. Whatever is edited at a block's ``hook_resid_post``, by whomever, is what the
next block's ``hook_resid_pre`` shows, and what a readout returns.
"""

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.guards._temporary import Temporary, together
from lacscope.models._checks import check_blocks
from lacscope.models._model import Model
from lacscope.models.adapters import (
    Adapter,
    BareModel,
    PartialPassError,
    PassInput,
    execution_of,
    first_keys,
    identity_of,
    registered,
)
from lacscope.models.adapters._private import forward_hooks
from lacscope.rules import Effect, HaltingRule, needs_of
from lacscope.tracing._halting_pass import HaltingPass
from lacscope.tracing._inputs import PaddingWarning
from lacscope.tracing._program import Program, make_program
from lacscope.tracing._readout import Readouts
from lacscope.tracing._recorder import Recorder, Run, going_on_under_plan, under_plan
from lacscope.tracing._settled_pass import SettledPass, settled_pass

__all__ = ["PaddingWarning", "RunWarning", "TrainingModeWarning", "halting", "halting_hooks"]

Hook = tuple[str, Callable[..., Tensor | None]]


class TrainingModeWarning(UserWarning):
    """A model that the user runs is in training mode, with something random in each pass."""


class RunWarning(UserWarning):
    """A forward pass that continues no recorded run, so it was recorded as a run of its own."""


@dataclass(frozen=True)
class Rows:
    """What is known of the rows of a pass besides what the model is given.

    ``kept`` is how many last positions are read out (None: all). Several rules under ``readout`` need ``readouts``.
    ``padded`` is False where it is known that no row has pads.
    """

    prompt_lengths: Int[Tensor, " row"] | None = None
    attention_mask: Bool[Tensor, "row pos"] | None = None
    sample_ids: Sequence[int] | None = None
    kept: int | None = None
    readouts: Readouts | None = None
    padded: bool = True


@dataclass(frozen=True)
class _OpenPass:
    halting: HaltingPass | SettledPass
    run: Run
    given: PassInput
    mask: Bool[Tensor, "row pos"] | None
    rows: Rows


class HaltingSession:
    """A program on one model: the hooks, the stack of open passes, and which run each belongs to.

    ``rows`` is what is known of the rows of passes that :meth:`step` does not make; None: they are left alone. ``bare``
    is the wrapped model alone, where the passes of :meth:`step` are to run on it.
    """

    def __init__(
        self,
        adapter: Adapter,
        program: Program,
        recorder: Recorder,
        rows: Rows | None = None,
        bare: BareModel | None = None,
    ) -> None:
        self.adapter, self.program, self.recorder, self.bare = adapter, program, recorder, bare
        self._rows = rows
        self._order = itertools.count()
        self._all_real: Tensor | None = None
        self._stack: list[_OpenPass | None] = []  # None: a pass that is left alone

    def step(
        self, rows: Rows, tokens: Int[Tensor, "row pos"], mask: Bool[Tensor, "row past_and_pos"], cache: Any
    ) -> tuple[Float[Tensor, "readout read vocab"], Any]:
        """One pass of the model on these rows: the logits of what is kept, and the cache."""
        # Held while the model runs: it opens the pass itself.
        others, self._rows = self._rows, rows
        use_cache = self.program.max_new_tokens > 1
        try:
            if self.bare is not None:
                return self._step_alone(self.bare, rows, tokens, mask, cache, use_cache)
            return self.adapter.step(tokens, mask, cache, use_cache=use_cache, keep=rows.kept)
        finally:
            self._rows = others

    def _step_alone(
        self, bare: BareModel, rows: Rows, tokens: Tensor, mask: Tensor, cache: Any, use_cache: bool
    ) -> tuple[Tensor, Any]:
        call, given = bare.call(tokens, mask, cache, use_cache=use_cache, keep=rows.kept, padded=rows.padded)
        self.open_pass(given)
        completed = False
        try:
            logits, cache = bare.run(call)
            completed = True
        finally:
            self.close_pass(identity_of(cache), completed)
        return (logits[:, -rows.kept :] if rows.kept else logits), cache

    @functools.cached_property
    def _residual_points(self) -> list[Any]:
        return [
            self.adapter.hook_point(f"blocks.{layer}.{point}")
            for layer in range(self.program.n_layers)
            for point in ("hook_resid_pre", "hook_resid_post")
        ]

    def points(self) -> list[tuple[Any, Callable[..., Tensor | None]]]:
        return [
            (self.adapter.hook_point(f"blocks.{layer}.{point}"), partial(self.see, point, layer))
            for layer in range(self.program.n_layers)
            for point in self.program.points()
        ]

    def see(self, point: str, layer: int, activation: Tensor, hook: Any = None) -> Tensor | None:
        """What stands at every point; what it returns, where that is not None, goes on in the stream's place."""
        now = self._stack[-1] if self._stack else None  # none: a block called by hand, outside any pass of the model
        return None if now is None else now.halting.callback(point, layer, activation)

    def open_pass(self, given: PassInput) -> None:
        # A call from inside a user's hook reads something of its own.
        rows = self._rows if not self._stack else None if self._stack[-1] is None else Rows()
        if rows is None:
            self._stack.append(None)
            return
        run = self._run_for(given, rows)
        now = self._real(given.tokens) if not rows.padded and given.tokens is not None else None
        if now is None and (mask := self._mask_of(given, run, rows)) is not None:
            # A copy: a view of its last column would keep all that was read before.
            now = mask[:, run.length :].clone()
        if now is not None and run.prompt_lengths is None:
            run.prompt_lengths = now.long().sum(-1)
        asked = self._asked(now, run, rows)
        current: HaltingPass | SettledPass | None = None
        if self.bare is not None:
            current = settled_pass(self.program, run, asked, n_new=given.n_new, kept=rows.kept, readouts=rows.readouts)
            run.alphas = self.program.alphas if current is not None else run.alphas
        if current is None:
            current = HaltingPass(
                self.program,
                run_states=run.rule_states,
                given=asked,
                alone=self.bare is not None or all(len(forward_hooks(point)) == 1 for point in self._residual_points),
                kept=rows.kept,
                readouts=rows.readouts,
                execution=execution_of(self.adapter.model),
            )
        self._stack.append(_OpenPass(current, run, given, now, rows))

    def _real(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """The mask of a pass without pads; the same tensor for all steps of a decode."""
        if self._all_real is None or self._all_real.shape != tokens.shape:
            self._all_real = torch.ones_like(tokens, dtype=torch.bool)
        return self._all_real

    def _asked(self, now: Bool[Tensor, "batch pos"] | None, run: Run, rows: Rows) -> dict[str, Any]:
        """What the program's rules ask of the tokens of a pass, where it is known."""
        needs = self.program.needs
        if now is None:
            return {}
        found: dict[str, Any] = {"valid": now}
        if "sample" in needs and not self._stack:
            ids = range(len(now)) if rows.sample_ids is None else rows.sample_ids
            found["sample"] = torch.tensor(list(ids), device=now.device)
        if needs & {"phase", "position"}:
            assert run.prompt_lengths is not None
            seen = torch.cat([run.mask.to(now.device), now], dim=1) if run.length else now
            read = (seen.long().cumsum(-1) - 1)[:, run.length :]
            step = read - run.prompt_lengths.to(read.device).unsqueeze(-1)
            behind = run.behind if isinstance(run.behind, int) else run.behind.to(read.device).unsqueeze(-1)
            found |= {"step": step, "decode": step >= 0, "position": read + behind}
        return found

    def close_pass(self, cache: Any, completed: bool) -> None:
        closed = self._stack.pop()
        if closed is None or not completed:
            return
        current, run = closed.halting, closed.run
        if not current.finished:
            raise PartialPassError(
                f"{current.fired} of {current.n_places} blocks fired in this pass. Its hooks were removed on "
                "the way (reset_hooks() inside the context takes ours too), or the pass was partial."
            )
        record = current.record(closed.given.tokens, closed.mask)
        if self.bare is not None and run.passes:
            run.unchecked = True  # looked at as a whole, for a look at each step would wait for the device
        else:
            record.check_finite(run, closed.rows.sample_ids)
        if run.passes and run.passes[0].blocks != record.blocks:
            raise ValueError(
                f"this pass executed the blocks {list(record.blocks)} and the run began with "
                f"{list(run.passes[0].blocks)}: the plan changed on the way to one whose layers cannot stand in the "
                "same rows. Record such passes apart."
            )
        run.add(record)
        run.cached = closed.given.past_length + record.tokens.shape[1]
        run.cache = None if cache is None else weakref.ref(cache)
        keys = first_keys(cache)
        run.keys = None if keys is None else weakref.ref(keys)
        self.recorder.keep(run)
        if current.execution is not None:
            said = under_plan if len(run.passes) == 1 else going_on_under_plan
            run.attrs = said(run.attrs, current.execution.text)

    def _run_for(self, given: PassInput, rows: Rows) -> Run:
        """The run that this pass continues, or a new one: what a cache already holds decides, not the pass's length."""
        previous = self.recorder.last_run
        if given.past_length == 0 and not given.uncounted:
            if previous is not None and previous.reread_by(given.tokens):
                warnings.warn(
                    "a pass without a cache reads a recorded run again with more tokens (uncached generation): "
                    "each such pass is recorded as a run of its own. Generate with the KV cache for one run.",
                    RunWarning,
                    stacklevel=2,
                )
            return self._new_run(given, rows)
        for run in reversed(self.recorder.open_runs):
            if run.continues(given.past_length, given.cache, given.first_keys):
                return run
        warnings.warn(
            f"a pass with {given.past_length or 'uncounted'} cached tokens continues no recorded run (the cache was "
            "filled outside the context, reordered by beam search, or cropped): it is recorded as a run of its own, "
            "starting at the tokens it reads.",
            RunWarning,
            stacklevel=2,
        )
        return self._new_run(given, rows)

    def _new_run(self, given: PassInput, rows: Rows) -> Run:
        run = Run(rule_states=[{} for _ in self.program.rules], order=next(self._order))
        if self._stack:
            return run
        run.prompt_lengths = rows.prompt_lengths
        if given.past_length and given.tokens is not None:
            known = given.attention_mask
            past = torch.ones(len(given.tokens), given.past_length) if known is None else known[:, : given.past_length]
            run.behind = past.long().sum(-1)
        n_rows = None if given.tokens is None else given.tokens.shape[0]
        for name, value in (("prompt_lengths", rows.prompt_lengths), ("attention_mask", rows.attention_mask)):
            if value is not None and n_rows is not None and value.shape[0] != n_rows:
                raise ValueError(f"{name} has {value.shape[0]} rows, the model was given {n_rows}.")
        return run

    def _mask_of(self, given: PassInput, run: Run, rows: Rows) -> Tensor | None:
        """Mask of all that the run has read and now reads, or None where nothing is known."""
        if given.attention_mask is not None:
            # A run that began on a cache filled elsewhere knows only the tokens that it read itself.
            return given.attention_mask[:, given.past_length - run.length :]
        if given.tokens is None:
            return None
        now = torch.ones_like(given.tokens, dtype=torch.bool)
        if rows.attention_mask is not None and run.length == 0:
            if rows.attention_mask.shape != now.shape:
                raise ValueError(
                    f"attention_mask is {tuple(rows.attention_mask.shape)}, the pass reads {tuple(now.shape)} tokens."
                )
            now = rows.attention_mask.to(now.device)
        elif now.shape[0] > 1 and run.length == 0:
            warnings.warn(
                f"a batch of {now.shape[0]} rows came without an attention mask, so every token counts as valid. "
                "Pads cannot be told from ids (pad is often EOS): pass attention_mask= to the model or to halting.",
                PaddingWarning,
                stacklevel=2,
            )
        return now if run.length == 0 else torch.cat([run.mask.to(now.device), now], dim=1)


def halting_hooks(
    model: Model, rule: HaltingRule | None, effect: Effect, *, recorder: Recorder | None = None
) -> list[Hook]:
    """The program as plain TransformerLens hooks, for ``run_with_hooks``, ``hooks`` or ``add_hook``.

    One model, one pass at a time: plain hooks do not see where a pass begins, so a nested call of the model
    and a partial pass raise :class:`~lacscope.models.adapters.PartialPassError`. They see neither tokens nor
    padding nor the cache: each pass given to ``recorder`` is a run of its own, read as a prompt without
    padding. :func:`halting` sees all of it.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        rule: the rule that decides the voids; None only with ``"observe"``.
        effect: ``"observe"`` (needs a recorder), ``"readout"`` or ``"bypass"``.
        recorder: a recorder that is filled with one run per pass.

    Raises:
        ValueError: a rule that needs phase, position, padding or sample; ``"observe"`` without a recorder.

    Gradients flow through the edit; measuring and deciding are outside the graph.

    >>> hooks = halting_hooks(model, FixedLayers([3]), "bypass")  # doctest: +SKIP
    >>> logits = model.run_with_hooks(tokens, fwd_hooks=hooks)  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    _warn_of_training(adapter)
    program = make_program(adapter, () if rule is None else (rule,), effect)
    if effect == "observe" and recorder is None:
        raise ValueError(
            "effect='observe' without a recorder does nothing. Pass recorder=lacscope.Recorder(), or use "
            "lacscope.halting or lacscope.trace."
        )
    for needing in program.rules:
        unseen = needs_of(needing) - {"head"}
        if unseen:
            raise ValueError(
                f"{needing!r} needs {', '.join(sorted(unseen))}, which plain hooks cannot see. "
                "Use `with lacscope.halting(model, rule, effect): ...`."
            )
    attrs = None if recorder is None else recorder.describe(adapter, program.rules, effect)
    current: list[HaltingPass] = []

    def fire(point: str, layer: int, activation: Tensor, hook: Any) -> Tensor | None:
        execution = execution_of(adapter.model)
        if (layer if execution is None else execution.place) == 0 and point == "hook_resid_pre":
            current[:] = [HaltingPass(program, run_states=[{} for _ in program.rules], execution=execution)]
        if not current:
            raise PartialPassError(
                f"block {layer} fired before block 0: the pass is partial (start_at_layer), hooks of some layers were "
                "not registered, or the model was called again from inside a hook; lacscope.halting keeps nested calls "
                "apart, plain hooks cannot."
            )
        halting_pass = current[0]
        result = halting_pass.callback(point, layer, activation)
        if halting_pass.finished:
            current.clear()
            if recorder is not None:
                record = halting_pass.record(None, None)
                record.check_finite()
                run = Run(rule_states=[])
                run.add(record)
                recorder.keep(run, attrs if execution is None else under_plan(attrs or {}, execution.text))
        return result

    return [
        (adapter.hook_name(layer, point), partial(fire, point, layer))
        for layer in range(program.n_layers)
        for point in program.points()
    ]


def halting(
    model: Model,
    rule: HaltingRule | None,
    effect: Effect,
    *,
    prompt_lengths: Sequence[int] | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> Temporary[Recorder]:
    """Run anything on the model under a rule and an effect, and record every run.

    A pass with an empty cache starts a run, and one that goes on from what a run has read continues it. A
    token counts as decode where its position is at or past its prompt's length. A rule that needs ``sample``
    is given the row of the batch.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``; as it was before once the context ends,
            also after an exception.
        rule: the rule that decides the voids; None only with ``"observe"``.
        effect: ``"observe"``, ``"readout"`` or ``"bypass"``.
        prompt_lengths: tokens of each row's prompt, where the first pass reads less (a chunked prompt) or
            more (prompt and answer at once) than it. Default: what the run's first pass reads.
        attention_mask: True (or 1) on real tokens of the first pass, for calls that pass none themselves.

    Yields:
        A :class:`~lacscope.tracing.Recorder` with ``.runs``, ``.trace`` and ``.clear()``.

    >>> with halting(model, L2AdaptiveComputation(0.8), "readout") as recorder:  # doctest: +SKIP
    ...     model.generate("The capital of France is", max_new_tokens=8)
    >>> recorder.trace  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    _warn_of_training(adapter)
    program = make_program(adapter, () if rule is None else (rule,), effect)
    recorder = Recorder()
    recorder.describe(adapter, program.rules, effect)
    rows = Rows(
        None if prompt_lengths is None else torch.as_tensor(prompt_lengths),
        None if attention_mask is None else torch.as_tensor(attention_mask).bool(),
    )
    return run_session(HaltingSession(adapter, program, recorder, rows)).giving(recorder)


def _warn_of_training(adapter: Adapter) -> None:
    if drawn := adapter.random_in_training():
        warnings.warn(
            f"{adapter.name} is in training mode: dropout is on ({drawn}), so no two passes give the same numbers. "
            "Call model.original_model.eval() first, unless that is what you mean.",
            TrainingModeWarning,
            stacklevel=4,
        )


def run_session(session: HaltingSession) -> Temporary[None]:
    """The session's hooks on its model, or its eyes on the wrapped model alone, for the length of the context."""
    if session.bare is not None:
        return session.bare.shown_to(session.see)
    return together(session.adapter.watch(session), registered(session.points()))
