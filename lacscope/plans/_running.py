"""Running a plan: the model's own loop over its blocks only collects the calls, and the last call runs the plan.

So each block is called with what the model gives *it* (its kind of mask, its rotary embedding), wherever it stands in
the plan, and nothing of the model is rewritten.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lacscope.guards._temporary import Temporary, together
from lacscope.models._checks import UnsupportedModelError, check_blocks, check_stream
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, Execution, PassInput, around_each, executing, require_private
from lacscope.plans._kv import cached_length, is_cache, lay_out, places
from lacscope.plans._plan import Plan, PlanError, Slot


def plan(model: Model, plan: Plan, *, decode: Plan | None = None) -> Temporary["RunningPlan"]:
    """Run the model's blocks as ``plan`` says, for whatever runs the model inside the context.

    Forward passes, ``run_with_cache`` and cached generation (TransformerLens's, transformers' on
    ``model.original_model``, :func:`lacscope.trace`); on a ``HookedTransformer`` without its cache alone. The model is
    as it was once the context ends, also after an exception.

    Hooks fire in the order of the runs, under the block's own names: once per run, so twice where a block runs twice
    (``run_with_cache`` then keeps the last), and in a slot of several blocks each fires on its own stream, before the
    mean. In a plan that only skips, the ``hook_resid_pre`` and ``hook_resid_post`` of a skipped block still fire, on
    the stream that passes it by; in any other plan a block that does not run has no place, and fires nothing.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``. A block that is called by hand runs as it is.
        plan: the plan to run; of as many layers as the model has.
        decode: the plan to run from a sequence's second (cached) pass on; it may only skip more. A pass without a cache
            is always a first one.

    Yields:
        The :class:`RunningPlan`, whose ``change(plan)`` sets another plan for the passes to come.

    Raises:
        TypeError: what is no :class:`Plan`.
        PlanError: a plan of another depth, a cache that this plan cannot go on with, a cached pass of a
            ``HookedTransformer``.
        UnsupportedModelError: a model whose blocks do not hand one stream on to each other, or share their K/V.
        PartialPassError: a pass that starts or stops at a layer.
        RuntimeError: the model is under a plan already.

    >>> with lacscope.plan(model, Plan.skip(30, range(10, 19))):  # doctest: +SKIP
    ...     model.generate("The capital of France is", max_new_tokens=8)
    """
    require_private("transformers")
    adapter = check_blocks(model)
    running = RunningPlan(adapter, plan, decode)
    # Before the plan runs: what is found out about the model is kept for its life.
    _check_model(adapter)
    trunk = adapter.trunk()
    methods = [] if trunk is None else [(trunk, "forward", running.inside)]
    methods += [
        (block, "forward", functools.partial(running.call, layer)) for layer, block in enumerate(adapter.model.blocks)
    ]
    parts = together(executing(adapter.model, running.execution), adapter.watch(running), around_each(methods))
    return parts.giving(running)


@dataclass(frozen=True)
class _Call:
    """What the model gave one block, to be given when the plan gets to it."""

    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def stream(self) -> Tensor:
        return self.args[0] if self.args else next(self.kwargs[name] for name in _STREAM if name in self.kwargs)

    @property
    def cache(self) -> Any:
        return next((value for value in (*self.args, *self.kwargs.values()) if is_cache(value)), None)

    def run(self, stream: Tensor, place: Any) -> Tensor:
        """The stream that the block makes of ``stream``, with ``place`` for its K/V."""
        stream = stream.to(self.stream.device)
        args = [place if is_cache(value) else value for value in self.args]
        kwargs = {name: place if is_cache(value) else value for name, value in self.kwargs.items()}
        if args:
            args[0] = stream
        else:
            kwargs[next(name for name in _STREAM if name in kwargs)] = stream
        output = self.forward(*args, **kwargs)
        return output[0] if isinstance(output, tuple) else output


@dataclass
class _Pass:
    """One pass of the model: the calls that it made of its blocks, whether it is inside the trunk, and has run them."""

    calls: list[_Call] = field(default_factory=list)
    inside: bool = False
    ran: bool = False


_STREAM = ("hidden_states", "resid_pre")


class RunningPlan:
    """A plan at work on a model: what :func:`lacscope.plan` yields.

    ``plan`` is what first passes run, ``decode`` what later passes of a sequence run (None: the same).
    """

    def __init__(self, adapter: Adapter, plan: Plan, decode: Plan | None) -> None:
        self._adapter = adapter
        self._points = [
            [adapter.hook_point(f"blocks.{layer}.{name}") for name in ("hook_resid_pre", "hook_resid_post")]
            for layer in range(adapter.n_layers)
        ]
        self._passes: list[_Pass] = []
        self.execution = Execution(0, False, "")
        self.change(plan, decode=decode)

    def change(self, plan: Plan, *, decode: Plan | None = None) -> None:
        """From the next pass on run this plan. A sequence that was begun may go on once, where it only skips more.

        Raises:
            PlanError: a plan of another depth, or a ``decode`` that does not only skip more than ``plan``.
        """
        for one in [plan] if decode is None else [plan, decode]:
            if not isinstance(one, Plan):
                raise TypeError(f"a plan is a lacscope.Plan, such as Plan.skip(30, [3]); got {one!r}.")
            if one.n_layers != self._adapter.n_layers:
                raise PlanError(
                    f"the plan is one of {one.n_layers} layers, {self._adapter.name} has {self._adapter.n_layers}."
                )
        if decode is not None and decode.kept_kv(plan) is None:
            raise PlanError(
                f"decode=[{decode.describe()}] does not only skip more than [{plan.describe()}]: a block that runs "
                "first in decode would have no keys and values of the prompt."
            )
        self.plan, self.decode = plan, decode
        self.execution.parallel = plan.has_parallel or (decode is not None and decode.has_parallel)
        self.execution.text = plan.as_json(decode)

    def open_pass(self, given: PassInput) -> None:
        """A pass of the model begins; one that a hook makes stands inside another."""
        self._passes.append(_Pass())

    def close_pass(self, cache: Any, completed: bool) -> None:
        """It has ended, or broke off."""
        self._passes.pop()

    def inside(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The part of the model that calls the blocks: of the pass that was just opened, or called on its own."""
        own = not self._passes or self._passes[-1].inside
        if own:
            self._passes.append(_Pass())
        self._passes[-1].inside = True
        try:
            return forward(*args, **kwargs)
        finally:
            if own:
                self._passes.pop()

    def call(self, layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own call of a block: kept, and all of them run at the last. A call by hand just runs it."""
        now = self._passes[-1] if self._passes else None
        if now is None or now.ran:  # from outside any pass, or from a hook of a block that the plan runs
            return forward(*args, **kwargs)
        if kwargs.get("past_kv_cache_entry") is not None:
            raise PlanError(
                "a HookedTransformer runs a plan without its cache, which has one entry per block: generate with "
                "use_past_kv_cache=False, or boot the model as a TransformerBridge."
            )
        if isinstance(kwargs.get("state"), list):
            raise PlanError(
                f"{self._adapter.name} keeps a recurrent state, which has no layers that a plan could lay out anew: "
                "run the plan without a cache (use_cache=False)."
            )
        now.calls.append(_Call(forward, args, kwargs))
        if layer < self._adapter.n_layers - 1:
            return self._adapter.returned(layer, now.calls[-1].stream)
        if len(now.calls) != self._adapter.n_layers:
            raise PlanError(
                f"{len(now.calls)} of {self._adapter.n_layers} blocks were called: something inside the plan's context "
                "replaced their forward. Use one way of not running a block at a time."
            )
        now.ran = True
        return self._adapter.returned(layer, self._run(now.calls))

    def _run(self, calls: list[_Call]) -> Tensor:
        cache = calls[0].cache
        going_on = cache is not None and cached_length(cache) > 0
        plan = self.decode if going_on and self.decode is not None else self.plan
        if cache is not None:
            lay_out(cache, plan)
        at = self.execution
        before = at.place, at.idle, at.n_places
        steps = plan.steps
        n_places = sum(len(slot.blocks) for slot, _ in steps)
        stream = calls[0].stream
        try:
            at.place, at.n_places = -1, n_places
            for slot, where in steps:
                if where is None:
                    stream = self._pass_by(slot, stream)
                else:
                    stream = self._run_slot(calls, slot, where, cache, stream)
        finally:
            # A call from inside a hook leaves the outer pass where it was.
            at.place, at.idle, at.n_places = before if before[0] >= 0 else (-1, False, n_places)
        return stream

    def _pass_by(self, slot: Slot, stream: Tensor) -> Tensor:
        """The residual hooks of a block that does not run."""
        self.execution.place += 1
        self.execution.idle = True
        for point in self._points[slot.blocks[0]]:
            stream = point(stream)
        return stream

    def _run_slot(self, calls: list[_Call], slot: Slot, where: tuple[int, ...], cache: Any, stream: Tensor) -> Tensor:
        self.execution.idle = False
        written: list[Tensor] = []
        given, finish = ([None] * len(slot.blocks), None) if cache is None else places(cache, slot, where)
        for block, place in zip(slot.blocks, given, strict=True):
            self.execution.place += 1
            # Of its own: a hook may edit what a block reads in place.
            own = stream if len(slot.blocks) == 1 else stream.clone()
            written.append(calls[block].run(own, place))
        if finish is not None:
            finish()
        if len(written) == 1:
            return written[0]
        # One after the other: a stack would hold a second copy of them all.
        return functools.reduce(lambda total, one: total + one.to(total.device), written) / len(written)


def _check_model(adapter: Adapter) -> None:
    adapter.returned(0, torch.empty(0))
    report = check_stream(adapter)
    if not report.chained:
        raise UnsupportedModelError(f"{adapter.name} cannot run in another order: {report.reason}.")
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    config = getattr(config, "text_config", None) or config
    shared = int(getattr(config, "num_kv_shared_layers", 0) or 0)
    if shared:
        raise UnsupportedModelError(
            f"{adapter.name} cannot run in another order: its last {shared} layers use the keys and values of earlier "
            "ones."
        )
