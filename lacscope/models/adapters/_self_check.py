"""Whether a model computes what it seems to: the bridge, a cached step and a padded row, tried on a short prompt.

Once a model, and remembered. Nobody's hooks fire and no random number is drawn.
"""

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.models.adapters._base import Adapter, UnsupportedModelError, registered
from lacscope.models.adapters._execution import execution_of
from lacscope.models.adapters._grad_mode import without_gradients

EQUAL, UNKNOWN = "equal", "not compared"
N_TOKENS = 12
# Of the L2 distance between logits, less their mean, to their size. What is wrong is off by far more; what is right
# differs by rounding, which deep models multiply.
TOLERANCES = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
TOLERANCE = 1e-4
QUANTISED = 5e-2


@dataclass(frozen=True)
class SelfCheck:
    """What :func:`self_check` found.

    Each of ``stream`` (every block's residual points fire, once and in order, on one stream a token), ``bridge``
    (against the wrapped model), ``lean`` (the same with the blocks' insides unhooked), ``causal``, ``decode`` (cached
    steps against recomputation) and ``padding`` (a left-padded row against the row alone) is ``"equal"``, ``"not
    compared: ..."``, or says what is wrong.
    """

    stream: str
    bridge: str
    lean: str
    causal: str
    decode: str
    padding: str
    tolerance: float
    n_tokens: int

    @staticmethod
    def right(verdict: str) -> bool:
        """True for a verdict that names nothing wrong."""
        return verdict == EQUAL or verdict.startswith(UNKNOWN)

    def as_json(self) -> str:
        """For a trace's attributes."""
        return json.dumps(vars(self))


_REPORTS: "weakref.WeakKeyDictionary[Any, SelfCheck]" = weakref.WeakKeyDictionary()


def known_self_check(adapter: Adapter) -> SelfCheck | None:
    """What was found of this model, if it was checked."""
    return _REPORTS.get(adapter.model)


def self_check(adapter: Adapter) -> SelfCheck | None:
    """Check the model, or recall what was found. None for one that cannot be judged now.

    That is a model under a plan, or one whose logits are not finite: what reads its streams says where that begins.

    Raises:
        UnsupportedModelError: the model cannot read a prompt at all.
    """
    if adapter.model not in _REPORTS and execution_of(adapter.model) is None:
        with adapter.quiet(), without_gradients():
            found = _Check(adapter).run()
        if found is None:
            return None
        _REPORTS[adapter.model] = found
    return _REPORTS.get(adapter.model)


class SequenceCheck:
    """A short prompt read by ``step`` as a whole, with a cache, and beside a padded row."""

    def __init__(self, adapter: Adapter, step: Callable[..., Any]) -> None:
        self.adapter, self._step_of = adapter, step
        n_tokens = min(N_TOKENS, adapter.context_length or N_TOKENS)
        self.ids = torch.tensor([_prompt(adapter, n_tokens)], device=adapter.device)
        self.tolerance = _tolerance(adapter)

    def whole(self) -> Float[Tensor, "row pos vocab"]:
        """The prompt's logits."""
        logits: Tensor = self._step(self.ids, torch.ones_like(self.ids).bool(), None, use_cache=False)[0]
        return logits

    def _step(self, ids: Tensor, mask: Tensor, cache: Any, *, use_cache: bool = True) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = self._step_of(ids, mask, cache, use_cache=use_cache, keep=None)
        return found

    def compared(self, pairs: list[tuple[Tensor, Tensor]]) -> str:
        """``"equal"``, or by how much the worst of these pairs (found, right) is off."""
        off = max(_apart(found, right) for found, right in pairs)
        return EQUAL if off <= self.tolerance else f"logits off by {off:.1%}"

    def of_passes(self, whole: Float[Tensor, "pos vocab"]) -> tuple[str, str, str]:
        """What is found of ``causal``, ``decode`` and ``padding``: six short passes where all is well."""
        n = len(whole)
        if n < 6:
            why = f"{UNKNOWN}: a context of {n} tokens"
            return why, why, why
        short = n // 2 + 1
        # Apart: what is derived from pads (positions) may be missing where there are none.
        decode = self._decode(whole)
        padding, failure = tried(lambda: self._sequence(whole, [n, short]))
        if decode == padding == EQUAL:
            return EQUAL, EQUAL, EQUAL
        first = self.ids[:, :short]
        alone, _ = self._step(first, torch.ones_like(first).bool(), None, use_cache=False)
        return self.compared([(alone[0], whole[:short])]), decode, padding or failure

    def _decode(self, whole: Float[Tensor, "pos vocab"]) -> str:
        found, failure = tried(lambda: self._sequence(whole, [len(whole)]))
        return found or failure

    def _sequence(self, whole: Float[Tensor, "pos vocab"], lengths: list[int]) -> str:
        """Rows of the prompt's first so many tokens, left-padded, the last two of them read with a cache."""
        width, n_rows = max(lengths) - 2, len(lengths)
        ids = torch.zeros((n_rows, width), dtype=torch.long, device=self.ids.device)
        mask = torch.zeros_like(ids).bool()
        for row, length in enumerate(lengths):
            ids[row, width - length + 2 :] = self.ids[0, : length - 2]
            mask[row, width - length + 2 :] = True
        logits, cache = self._step(ids, mask, None)
        pairs = [(logits[row, width - n + 2 :], whole[: n - 2]) for row, n in enumerate(lengths)]
        for back in (2, 1):
            read = torch.stack([self.ids[0, length - back] for length in lengths]).unsqueeze(-1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits, cache = self._step(read, mask, cache)
            pairs += [(logits[row], whole[n - back : n - back + 1]) for row, n in enumerate(lengths)]
        return self.compared(pairs)


class _Check(SequenceCheck):
    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter, adapter.step)

    def run(self) -> SelfCheck | None:
        adapter = self.adapter
        whole, failure = tried(self.whole)
        if whole is not None and not bool(torch.isfinite(whole).all()):
            return None
        reference, reason = adapter.reference()
        bare = None
        if reference is not None:
            bare, reason = tried(lambda: reference(self.ids))
        bridge = failure or self._verdict(whole, bare, reason)
        lean = bridge
        if not SelfCheck.right(bridge):
            with adapter.lean(forced=True):
                alone, failure = tried(self.whole)
            lean = failure or self._verdict(alone, bare, reason)
            if SelfCheck.right(lean) and alone is not None:
                whole = alone
                adapter.prefer_lean()
        if whole is None:
            raise UnsupportedModelError(f"{adapter.name} cannot read a prompt: {failure}.")
        with adapter.lean():
            stream = self._stream()
            causal, decode, padding = self.of_passes(whole[0])
        return SelfCheck(stream, bridge, lean, causal, decode, padding, self.tolerance, self.ids.shape[1])

    def _stream(self) -> str:
        adapter = self.adapter
        fired: list[tuple[int, str]] = []
        streams: list[Tensor] = []

        def see(layer: int, name: str) -> Callable[..., None]:
            def hook(activation: Any, hook: Any) -> None:
                fired.append((layer, name))
                streams.append(activation.detach().cpu().clone())

            return hook

        places = [(k, name) for k in range(adapter.n_layers) for name in ("hook_resid_pre", "hook_resid_post")]
        points = [(adapter.hook_point(f"blocks.{k}.{name}"), see(k, name)) for k, name in places]
        with registered(points):
            self.whole()
        if fired != places:
            due = next((at for at, now in zip(places, [*fired, None], strict=False) if at != now), None)
            where = "fire more than once" if due is None else f"do not fire where blocks.{due[0]}.{due[1]} is due"
            return f"its residual hook points {where}"
        shapes = {tuple(stream.shape) for stream in streams}
        if len(shapes) > 1 or streams[0].ndim != 3:
            found = ", ".join(str(list(shape)) for shape in sorted(shapes))
            return f"for a prompt of {list(self.ids.shape)} its blocks hand on {found}, and not one stream a token"
        for layer in range(adapter.n_layers - 1):
            if not torch.equal(streams[2 * layer + 1], streams[2 * layer + 2]):
                return f"what block {layer} hands on is not what block {layer + 1} reads"
        return EQUAL

    def _verdict(self, found: Tensor | None, right: Tensor | None, reason: str) -> str:
        if right is None or found is None:
            return f"{UNKNOWN}: {reason}"
        return self.compared([(found, right)])

    def _decode(self, whole: Float[Tensor, "pos vocab"]) -> str:
        found = super()._decode(whole)
        if found == EQUAL or not self.adapter.give_positions(True):
            return found
        placed = super()._decode(whole)
        self.adapter.give_positions(placed == EQUAL)
        return placed if placed == EQUAL else found


def tried(attempt: Callable[[], Any]) -> tuple[Any, str]:
    """Its result, or None and the failure in words, where it fails twice: what passes is no fault of the model.

    Nor is memory that ran out.
    """
    failure = ""
    for _ in range(2):
        try:
            return attempt(), ""
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200].rstrip('.')}"
    return None, failure


def _apart(found: Tensor, right: Tensor) -> float:
    if found.shape != right.shape:
        return float("inf")
    found, right = found.float().cpu(), right.float().cpu()
    off = torch.linalg.vector_norm(found - right, dim=-1)
    size = torch.linalg.vector_norm(right - right.mean(-1, keepdim=True), dim=-1).clamp_min(1e-12)
    worst = float((off / size).max())
    return worst if worst == worst else float("inf")


def _prompt(adapter: Adapter, n_tokens: int) -> list[int]:
    """Token ids that mean nothing special to the model, spread over its vocabulary."""
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    given = [value for name, value in vars(config).items() if name.endswith("_token_id")] if config is not None else []
    named = {i for value in given for i in (value if isinstance(value, (list, tuple)) else [value])}
    ids = [i for i in range(adapter.vocab_size) if i not in named] if adapter.vocab_size < 4096 else None
    ordinary = ids or [i for i in range(1000, 4000) if i not in named]
    return [ordinary[(7 + 31 * place) % len(ordinary)] for place in range(n_tokens)]


def _tolerance(adapter: Adapter) -> float:
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    quantised = getattr(config, "quantization_config", None) is not None
    floats = [p.dtype for p in adapter.model.parameters()]
    if quantised or any(not dtype.is_floating_point for dtype in floats):
        return QUANTISED
    return max((TOLERANCES.get(dtype, TOLERANCE) for dtype in floats), default=TOLERANCE)
