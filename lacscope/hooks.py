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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.adapters import Adapter, PartialPassError, PassInput, first_keys, registered
from lacscope.dataset import LAYERWISE_MEASURES
from lacscope.models import check_blocks, require_sublayers
from lacscope.recorder import PassRecord, Recorder, Run
from lacscope.rules import Effect, HaltingRule, L2AdaptiveComputation, LayerView, check_effect

__all__ = ["PaddingWarning", "RunWarning", "halting", "halting_hooks"]

Hook = tuple[str, Callable[..., Tensor | None]]


_GIVEN_AS = {"phase": "decode"}


class PaddingWarning(UserWarning):
    """A batch came without an attention mask: pads cannot be told from ids, so all its tokens count."""


class RunWarning(UserWarning):
    """A forward pass that continues no recorded run, so it was recorded as a run of its own."""


@dataclass(frozen=True)
class Program:
    """What is measured, decided and edited in each pass."""

    rules: tuple[HaltingRule, ...]
    effect: Effect
    n_layers: int
    parallel: bool
    measures: frozenset[str] = frozenset()
    last_position_only: bool = False

    @property
    def unit(self) -> str:
        return self.rules[0].unit if self.rules else "block"

    def points(self) -> list[str]:
        """Hook points of a block that this program needs, in the order they fire."""
        names = ["hook_resid_pre"]
        if self.unit == "attn" or "attn_out_norm" in self.measures:
            names.append("hook_attn_out")
        if self.unit == "mlp" and not self.parallel:
            names.append("hook_resid_mid")
        if self.unit == "mlp" or "mlp_out_norm" in self.measures:
            names.append("hook_mlp_out")
        return [*names, "hook_resid_post"]


def make_program(
    adapter: Adapter,
    rules: Sequence[HaltingRule],
    effect: Effect,
    measures: Sequence[str] = (),
    *,
    last_position_only: bool = False,
) -> Program:
    """Check rule, effect and measures against each other and the model."""
    for rule in rules or (None,):
        check_effect(rule, effect)
    if len({rule.unit for rule in rules}) > 1:
        raise ValueError("rules of one call must share their unit (block, attn or mlp); trace them apart.")
    unknown = sorted(set(measures) - set(LAYERWISE_MEASURES))
    if unknown:
        raise ValueError(f"unknown measure {unknown}; choose from {', '.join(LAYERWISE_MEASURES)}.")
    if "threshold" in measures and not (len(rules) == 1 and isinstance(rules[0], L2AdaptiveComputation)):
        raise ValueError("measure 'threshold' needs one L2AdaptiveComputation rule; no other rule has a threshold.")
    program = Program(
        tuple(rules), effect, adapter.n_layers, adapter.parallel_blocks, frozenset(measures), last_position_only
    )
    if set(program.points()) - {"hook_resid_pre", "hook_resid_post"}:
        require_sublayers(adapter)
    return program


def _norm(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
    """L2 norm, accumulated in float32: in bfloat16 its rounding error exceeds many deltas."""
    if stream.dtype == torch.float64:
        return torch.linalg.vector_norm(stream.detach(), dim=-1).float()
    return torch.linalg.vector_norm(stream.detach(), dim=-1, dtype=torch.float32)


class HaltingPass:
    """One forward pass under a program: measures every layer, asks the rules, makes the edit.

    Keeps one stream at a time (and, for a readout, its buffer), and norms for the rest.
    """

    def __init__(
        self,
        program: Program,
        *,
        run_states: Sequence[dict[str, Any]],
        decode: Bool[Tensor, "batch pos"] | None = None,
        position: Int[Tensor, "batch pos"] | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        alone: bool = False,
    ) -> None:
        self.program = program
        self.alone = alone
        self.given = {"decode": decode, "position": position, "valid": valid}
        self.run_states = run_states
        self.pass_states: list[dict[str, Any]] = [{} for _ in program.rules]
        self.layerwise: dict[str, list[Tensor]] = {}
        self.void: list[Tensor] = []
        self.fired = 0
        self._inside = False
        self._resid_pre: Tensor | None = None
        self._pre_norm: Tensor | None = None
        self._mid: Tensor | None = None
        self._left: tuple[Tensor, int | None, Tensor] | None = None
        self._active: Tensor | None = None
        self._readout: Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.fired == self.program.n_layers and not self._inside

    def callback(self, point: str, layer: int, activation: Tensor) -> Tensor | None:
        """What the hook at ``blocks.{layer}.{point}`` does."""
        if point == "hook_resid_pre":
            self._enter(layer, activation)
            return None
        if not self._inside or layer != self.fired:
            raise PartialPassError(self._out_of_order(layer))
        if point == "hook_attn_out":
            return self._sublayer("attn", layer, activation)
        if point == "hook_mlp_out":
            return self._sublayer("mlp", layer, activation)
        if point == "hook_resid_mid":
            self._mid = activation
            return None
        return self._leave(layer, activation)

    def _out_of_order(self, layer: int) -> str:
        return (
            f"block {layer} fired where block {self.fired} was due. The pass is partial (start_at_layer, "
            "stop_at_layer), hooks were removed on the way (reset_hooks), or the model was called again from "
            "inside a hook; lacscope.halting keeps nested calls apart, plain hooks cannot."
        )

    def _enter(self, layer: int, stream: Tensor) -> None:
        if self._inside or layer != self.fired:
            raise PartialPassError(self._out_of_order(layer))
        self._inside = True
        self._resid_pre = stream
        self._pre_norm = self._known_norm(stream)
        self._keep("resid_pre_norm", self._pre_norm)
        if self.program.effect == "readout":
            self._update_readout(stream)

    def _known_norm(self, stream: Tensor) -> Tensor:
        """The norm measured as the stream left the last block, where nobody touched it since."""
        if self._left is not None:
            left, version, norm = self._left
            if left is stream and (self.alone if version is None else version == stream._version):
                return norm
        return _norm(stream)

    def _leave(self, layer: int, stream: Tensor) -> Tensor | None:
        assert self._resid_pre is not None
        assert self._pre_norm is not None
        candidate = _norm(stream)
        pre_norm = self._pre_norm.to(candidate.device)
        pre = self._resid_pre.to(stream.device)
        realised, out = candidate, stream
        if self.program.unit == "block" and self.program.rules:
            void = self._decide(layer, pre, stream, pre_norm, candidate)
            if self.program.effect == "bypass":
                out = torch.where(void.unsqueeze(-1), pre, stream)
                realised = torch.where(void, pre_norm, candidate)
            self._active = ~void if void.ndim == 2 else None
        self._keep("resid_post_norm", realised)
        self._keep("delta_norm", candidate - pre_norm)
        difference = stream.detach().float() - pre.detach().float()
        self._keep("update_norm", torch.linalg.vector_norm(difference, dim=-1))
        if "cos_pre_post" in self.program.measures:
            dot = (stream.detach().float() * pre.detach().float()).sum(-1)
            self._keep("cos_pre_post", dot / (candidate * pre_norm).clamp_min(torch.finfo(torch.float32).tiny))
        self._inside = False
        self._mid = None
        self.fired += 1
        if self.program.effect == "readout" and self.fired == self.program.n_layers:
            self._update_readout(stream)
            out = self._final_stream(stream)
        # Inference tensors carry no version that would show an edit in place.
        self._left = (out, None if out.is_inference() else out._version, realised)
        return None if out is stream else out

    def _sublayer(self, unit: str, layer: int, written: Tensor) -> Tensor | None:
        """A sublayer's output, still to be added to the stream."""
        assert self._resid_pre is not None
        if f"{unit}_out_norm" in self.program.measures:
            self._keep(f"{unit}_out_norm", _norm(written))
        if self.program.unit != unit:
            return None
        base = self._resid_pre if self._mid is None else self._mid
        base_norm = _norm(base)
        candidate = base + written
        candidate_norm = _norm(candidate)
        self._keep(f"{unit}_delta_norm", candidate_norm - base_norm)
        void = self._decide(layer, base, candidate, base_norm, candidate_norm)
        if self.program.effect != "bypass":
            return None
        return torch.where(void.unsqueeze(-1), torch.zeros((), dtype=written.dtype, device=written.device), written)

    def _decide(
        self, layer: int, pre: Tensor, post: Tensor, pre_norm: Tensor, post_norm: Tensor
    ) -> Bool[Tensor, "*rule batch pos"]:
        masks = []
        for rule, pass_state, run_state in zip(self.program.rules, self.pass_states, self.run_states, strict=True):
            after = rule.decides == "after"
            unknown = [need for need in sorted(rule.needs) if self.given[_GIVEN_AS.get(need, need)] is None]
            if unknown:
                raise ValueError(
                    f"{rule!r} needs {', '.join(unknown)}, but the pass was started from embeddings without an "
                    "attention mask: pass attention_mask= to the model, or token ids."
                )
            view = LayerView(
                layer,
                self.program.n_layers,
                pre,
                pre_norm,
                post if after else None,
                post_norm if after else None,
                **{
                    name: value.to(pre.device) if value is not None else None
                    for name, value in self.given.items()
                    if name in {_GIVEN_AS.get(need, need) for need in rule.needs}
                },
            )
            with torch.no_grad():
                void = rule.voids(view, pass_state, run_state)
            if not isinstance(void, Tensor) or void.dtype != torch.bool or void.shape != view.shape:
                got = f"{void.dtype} {tuple(void.shape)}" if isinstance(void, Tensor) else type(void).__name__
                raise ValueError(f"{rule!r}.voids must return a bool tensor of shape {tuple(view.shape)}, got {got}.")
            masks.append(void)
        void = masks[0] if len(masks) == 1 else torch.stack(masks)
        self.void.append(void)
        return void

    def _update_readout(self, stream: Tensor) -> None:
        """Carry, per token, the stream after its last active block so far (h_0 before any)."""
        if self.program.last_position_only:
            stream = stream[:, -1:]
        if self._readout is None:
            self._readout = stream
            return
        assert self._active is not None
        active = self._active[:, -1:] if self.program.last_position_only else self._active
        self._readout = torch.where(active.unsqueeze(-1).to(stream.device), stream, self._readout.to(stream.device))

    def _final_stream(self, stream: Tensor) -> Tensor:
        assert self._readout is not None
        if self.program.last_position_only and stream.shape[1] > 1:
            return torch.cat([stream[:, :-1], self._readout], dim=1)
        return self._readout

    def _keep(self, name: str, values: Float[Tensor, "batch pos"]) -> None:
        self.layerwise.setdefault(name, []).append(values.detach())

    def record(self, tokens: Tensor | None, mask: Tensor | None) -> PassRecord:
        """What is kept of the finished pass: arrays of layers x batch x pos."""
        home = self.layerwise["resid_pre_norm"][0].device
        layerwise = {name: torch.stack([layer.to(home) for layer in layers]) for name, layers in self.layerwise.items()}
        void = torch.stack([layer.to(home) for layer in self.void], dim=-3) if self.void else None
        shape = layerwise["resid_pre_norm"].shape[1:]
        # Copies: a view of one column would keep everything that was read so far, once for each step.
        mask = torch.ones(shape, dtype=torch.bool, device=home) if mask is None else mask.to(home, copy=True)
        tokens = torch.full(shape, -1, device=home) if tokens is None else tokens.detach().clone()
        return PassRecord(tokens, mask, layerwise, void)


class HaltingSession:
    """A program on one model: the hooks, the stack of open passes, and which run each belongs to."""

    def __init__(
        self,
        adapter: Adapter,
        program: Program,
        recorder: Recorder,
        *,
        prompt_lengths: Int[Tensor, " batch"] | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> None:
        self.adapter, self.program, self.recorder = adapter, program, recorder
        self.prompt_lengths, self.attention_mask = prompt_lengths, attention_mask
        self.sample_ids: Sequence[int] | None = None
        self._order = itertools.count()
        self._stack: list[tuple[HaltingPass, Run, PassInput, Tensor | None]] = []

    @functools.cached_property
    def _residual_points(self) -> list[Any]:
        return [
            self.adapter.hook_point(f"blocks.{layer}.{point}")
            for layer in range(self.program.n_layers)
            for point in ("hook_resid_pre", "hook_resid_post")
        ]

    def points(self) -> list[tuple[Any, Callable[..., Tensor | None]]]:
        return [
            (self.adapter.hook_point(f"blocks.{layer}.{point}"), partial(self._fire, point, layer))
            for layer in range(self.program.n_layers)
            for point in self.program.points()
        ]

    def _fire(self, point: str, layer: int, activation: Tensor, hook: Any) -> Tensor | None:
        if not self._stack:
            return None  # a block called by hand, outside any pass of the model
        return self._stack[-1][0].callback(point, layer, activation)

    def open_pass(self, given: PassInput) -> None:
        run = self._run_for(given)
        mask = self._mask_of(given, run)
        now = None if mask is None else mask[:, run.length :]
        position = decode = None
        if now is not None:
            seen = torch.cat([run.mask.to(now.device), now], dim=1) if run.length else now
            position = (seen.long().cumsum(-1) - 1)[:, run.length :]
            lengths = run.prompt_lengths
            if lengths is None:
                lengths = now.long().sum(-1)
                run.prompt_lengths = lengths
            decode = position >= lengths.to(position.device).unsqueeze(-1)
        current = HaltingPass(
            self.program,
            run_states=run.rule_states,
            decode=decode,
            position=position,
            valid=now,
            alone=all(len(point._forward_hooks) == 1 for point in self._residual_points),
        )
        self._stack.append((current, run, given, now))

    def close_pass(self, cache: Any, completed: bool) -> None:
        current, run, given, mask = self._stack.pop()
        if not completed:
            return
        if not current.finished:
            raise PartialPassError(
                f"{current.fired} of {self.program.n_layers} blocks fired in this pass. Its hooks were removed on "
                "the way (reset_hooks() inside the context takes ours too), or the pass was partial."
            )
        record = current.record(given.tokens, mask)
        record.check_finite(run, None if self._stack else self.sample_ids)
        run.add(record)
        run.cached = given.past_length + record.tokens.shape[1]
        run.cache = None if cache is None else weakref.ref(cache)
        keys = first_keys(cache)
        run.keys = None if keys is None else weakref.ref(keys)
        self.recorder.keep(run)

    def _run_for(self, given: PassInput) -> Run:
        """The run that this pass continues, or a new one. See DESIGN: phases are decided by what is read."""
        previous = self.recorder.last_run
        if given.past_length == 0:
            if previous is not None and previous.reread_by(given.tokens):
                warnings.warn(
                    "a pass without a cache reads a recorded run again with more tokens (uncached generation): "
                    "each such pass is recorded as a run of its own. Generate with the KV cache for one run.",
                    RunWarning,
                    stacklevel=2,
                )
            return self._new_run(given)
        for run in reversed(self.recorder.open_runs):
            if run.continues(given.past_length, given.cache, given.first_keys):
                return run
        warnings.warn(
            f"a pass with {given.past_length} cached tokens continues no recorded run (the cache was filled "
            "outside the context, reordered by beam search, or cropped): it is recorded as a run of its own, "
            "starting at the tokens it reads.",
            RunWarning,
            stacklevel=2,
        )
        return self._new_run(given)

    def _new_run(self, given: PassInput) -> Run:
        run = Run(rule_states=[{} for _ in self.program.rules], order=next(self._order))
        if self._stack:
            return run  # a call from inside a user's hook reads something of its own
        run.prompt_lengths = self.prompt_lengths
        rows = None if given.tokens is None else given.tokens.shape[0]
        for name, value in (("prompt_lengths", self.prompt_lengths), ("attention_mask", self.attention_mask)):
            if value is not None and rows is not None and value.shape[0] != rows:
                raise ValueError(f"{name} has {value.shape[0]} rows, the model was given {rows}.")
        return run

    def _mask_of(self, given: PassInput, run: Run) -> Tensor | None:
        """Mask of all that the run has read and now reads, or None where nothing is known."""
        if given.attention_mask is not None:
            # A run that began on a cache filled elsewhere knows only the tokens that it read itself.
            return given.attention_mask[:, given.past_length - run.length :]
        if given.tokens is None:
            return None
        now = torch.ones_like(given.tokens, dtype=torch.bool)
        if self.attention_mask is not None and run.length == 0 and not self._stack:
            if self.attention_mask.shape != now.shape:
                raise ValueError(
                    f"attention_mask is {tuple(self.attention_mask.shape)}, the pass reads {tuple(now.shape)} tokens."
                )
            now = self.attention_mask.to(now.device)
        elif now.shape[0] > 1 and run.length == 0:
            warnings.warn(
                f"a batch of {now.shape[0]} rows came without an attention mask, so every token counts as valid. "
                "Pads cannot be told from ids (pad is often EOS): pass attention_mask= to the model or to halting.",
                PaddingWarning,
                stacklevel=2,
            )
        return now if run.length == 0 else torch.cat([run.mask.to(now.device), now], dim=1)


def halting_hooks(
    model: Any, rule: HaltingRule | None, effect: Effect, *, recorder: Recorder | None = None
) -> list[Hook]:
    """The program as plain TransformerLens hooks, for ``run_with_hooks``, ``hooks`` or ``add_hook``.

    One model, one pass at a time: plain hooks do not see where a pass begins, so a nested call of the model
    and a partial pass raise :class:`~lacscope.adapters.PartialPassError`. They see neither tokens nor
    padding nor the cache: each pass given to ``recorder`` is a run of its own, read as a prompt without
    padding. :func:`halting` sees all of it.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        rule: what decides the voids; None only with ``"observe"``.
        effect: ``"observe"`` (needs a recorder), ``"readout"`` or ``"bypass"``.
        recorder: filled with one run per pass.

    Raises:
        ValueError: a rule that needs phase, position or padding; ``"observe"`` without a recorder.

    Gradients flow through the edit; measuring and deciding are outside the graph.

    >>> hooks = halting_hooks(model, FixedLayers([3]), "bypass")  # doctest: +SKIP
    >>> logits = model.run_with_hooks(tokens, fwd_hooks=hooks)  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    program = make_program(adapter, () if rule is None else (rule,), effect)
    if effect == "observe" and recorder is None:
        raise ValueError(
            "effect='observe' without a recorder does nothing. Pass recorder=lacscope.Recorder(), or use "
            "lacscope.halting or lacscope.trace."
        )
    for needing in program.rules:
        if needing.needs:
            raise ValueError(
                f"{needing!r} needs {', '.join(sorted(needing.needs))}, which plain hooks cannot see. "
                "Use `with lacscope.halting(model, rule, effect): ...`."
            )
    attrs = None if recorder is None else recorder.describe(adapter, program.rules, effect)
    current: list[HaltingPass] = []

    def fire(point: str, layer: int, activation: Tensor, hook: Any) -> Tensor | None:
        if layer == 0 and point == "hook_resid_pre":
            current[:] = [HaltingPass(program, run_states=[{} for _ in program.rules])]
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
                recorder.keep(run, attrs)
        return result

    return [
        (adapter.hook_name(layer, point), partial(fire, point, layer))
        for layer in range(program.n_layers)
        for point in program.points()
    ]


@contextmanager
def halting(
    model: Any,
    rule: HaltingRule | None,
    effect: Effect,
    *,
    prompt_lengths: Sequence[int] | Int[Tensor, " batch"] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> Iterator[Recorder]:
    """Run anything on the model under a rule and an effect, and record every run.

    A pass with an empty cache starts a run, and one that goes on from what a run has read continues it. A
    token counts as decode where its position is at or past its prompt's length.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``; as it was before once the context ends,
            also after an exception.
        rule: what decides the voids; None only with ``"observe"``.
        effect: ``"observe"``, ``"readout"`` or ``"bypass"``.
        prompt_lengths: tokens of each row's prompt, where the first pass reads less (a chunked prompt) or
            more (prompt and answer at once) than it. Default: what the run's first pass reads.
        attention_mask: True (or 1) on real tokens of the first pass, for calls that pass none themselves.

    Yields:
        A :class:`~lacscope.recorder.Recorder` with ``.runs``, ``.trace`` and ``.clear()``.

    >>> with halting(model, L2AdaptiveComputation(0.8), "readout") as recorder:  # doctest: +SKIP
    ...     model.generate("The capital of France is", max_new_tokens=8)
    >>> recorder.trace  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    program = make_program(adapter, () if rule is None else (rule,), effect)
    recorder = Recorder()
    recorder.describe(adapter, program.rules, effect)
    session = HaltingSession(
        adapter,
        program,
        recorder,
        prompt_lengths=None if prompt_lengths is None else torch.as_tensor(prompt_lengths),
        attention_mask=None if attention_mask is None else torch.as_tensor(attention_mask).bool(),
    )
    with run_session(session):
        yield recorder


@contextmanager
def run_session(session: HaltingSession) -> Iterator[None]:
    """The session's hooks on its model, for the length of the context."""
    with session.adapter.watch(session), registered(session.points()):
        yield
