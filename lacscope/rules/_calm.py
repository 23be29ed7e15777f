"""CALM: a token leaves the model once its prediction is confident."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._arguments import is_real, whole_number
from lacscope.rules._base import Decides, Grain
from lacscope.rules._cosine import cosine
from lacscope.rules._scope import IN_DECODE, Scope, check_scope
from lacscope.rules._view import LayerView, Unit

Confidence = Literal["softmax", "softmax_max", "cosine"]
Schedule = Literal["paper", "code"]
_TOKENS_AT_ONCE = 64  # of logits: they are as wide as the vocabulary


@dataclass(frozen=True)
class CALM:
    r"""Confident Adaptive Language Modeling: all layers after the first confident one are voids for a token.

    Before each block the stream that enters it is asked for its confidence; where that is above
    :math:`\mathrm{clip}_{[0,1]}(0.9\,\lambda + 0.1\,e^{-\tau\,\mathrm{step}/N})` the token leaves, and stays out.
    ``step`` counts the tokens generated before the one that is read, so the first one read has step 0; tokens of the
    prompt, where ``scope`` lets them leave, have step 0 too. Under ``bypass`` the layers left out get the exit
    state: later tokens attend to its keys and values, as in the paper. Under ``readout`` they attend to the full
    model's.

    Source: "Confident Adaptive Language Modeling", arXiv 2207.07061, equation 5 (threshold) and section 3.5
    (confidence). No classifier is trained here, and :math:`\lambda` is not calibrated. The published code (t5x) has
    another threshold, :math:`\lambda\,(0.9 + 0.1\,e^{-\tau\,\mathrm{step}/N})`, up to :math:`0.1\,(1-\lambda)` lower,
    leaves at a confidence equal to it too, and by default takes the probability of the most likely token alone for the
    confidence: ``schedule="code", confidence="softmax_max"``. It also takes one decision for a whole batch; here each
    token has its own.

    Args:
        threshold: :math:`\lambda`, 0 to 1.
        tau: decay of the threshold with the step, >= 0.
        n_steps: :math:`N`, the longest answer in tokens, at least 1.
        confidence: ``"softmax"``: probability of the most likely token less that of the second, by the final norm and
            head; ``"softmax_max"``: that of the most likely alone; ``"cosine"``: of the last block's input and output.
        min_layer: the first block that may be void, at least 1.
        schedule: the version of the threshold: ``"paper"``, or ``"code"`` for what was published as code.
        scope: the tokens and layers where tokens may leave; published: in decode.

    Raises:
        ValueError: an option outside what is said here.

    >>> CALM(threshold=0.5, tau=0.0).latches
    True
    """

    threshold: float = 0.9
    tau: float = 4.0
    n_steps: int = 128
    confidence: Confidence = "softmax"
    min_layer: int = 1
    schedule: Schedule = "paper"
    scope: Scope = field(default=IN_DECODE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "token"
    latches: ClassVar[bool] = True
    unit: ClassVar[Unit] = "block"

    def __post_init__(self) -> None:
        if not is_real(self.threshold) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold (lambda) must be 0 to 1, got {self.threshold!r}.")
        if not is_real(self.tau) or self.tau < 0:
            raise ValueError(f"tau must be a finite number >= 0, got {self.tau!r}.")
        if self.confidence not in get_args(Confidence):
            known = ", ".join(map(repr, get_args(Confidence)))
            raise ValueError(f"confidence must be one of {known}, got {self.confidence!r}.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be 'paper' or 'code', got {self.schedule!r}.")
        whole_number("n_steps", self.n_steps, least=1)
        whole_number("min_layer", self.min_layer, least=1)
        check_scope(self.scope)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"phase"} if self.confidence == "cosine" else {"phase", "head"})

    @property
    def history(self) -> bool:
        return self.confidence == "cosine"

    def bar(self, step: Float[Tensor, "*token"]) -> Float[Tensor, "*token"]:
        """The confidence that a token must exceed to leave, by its step; of the code, that it must reach."""
        decay = torch.exp(-self.tau * step / self.n_steps)
        if self.schedule == "code":
            return (self.threshold * (0.9 + 0.1 * decay)).clamp(0.0, 1.0)
        return (0.9 * self.threshold + 0.1 * decay).clamp(0.0, 1.0)

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        assert view.step is not None
        found = self._turned_by_last(view, pass_state) if self.confidence == "cosine" else None
        if view.layer < self.min_layer or view.layer in self.scope.protected(view.n_layers):
            return torch.zeros(view.shape, dtype=torch.bool, device=view.device)
        asked = self.scope.restrict(torch.ones(view.shape, dtype=torch.bool, device=view.device), view)
        if found is None:
            found = self._confidences(view, asked, pass_state)
        bar = self.bar(view.step.clamp(min=0).float())
        return asked & (found >= bar if self.schedule == "code" else found > bar)

    def _confidences(
        self, view: LayerView, asked: Bool[Tensor, "batch pos"], pass_state: dict[str, Any]
    ) -> Float[Tensor, "batch pos"]:
        """The confidence of each token that may leave at this layer; 0, without computing it, for all others."""
        if "places" not in pass_state:
            # Of all layers alike, and found once: a GPU that is asked where is waited for.
            pass_state["places"] = asked.nonzero(as_tuple=True)
        rows, columns = (place.to(view.device) for place in pass_state["places"])
        found = torch.zeros(view.shape, device=view.device)
        if len(rows):
            found[rows, columns] = _confidence(view, view.resid_pre[rows, columns], margin=self.confidence == "softmax")
        return found

    @staticmethod
    def _turned_by_last(view: LayerView, pass_state: dict[str, Any]) -> Float[Tensor, "batch pos"]:
        """Cosine of the last block's input and output; 0 before any block."""
        entered = pass_state.get("entered")
        # A copy: a hook of the user's may edit the stream in place.
        pass_state["entered"] = view.resid_pre.clone()
        if entered is None:
            return torch.zeros(view.shape, device=view.device)
        return cosine(entered.to(view.device), view.resid_pre)


def _confidence(view: LayerView, stream: Float[Tensor, "token d_model"], *, margin: bool) -> Float[Tensor, " token"]:
    """Probability of the most likely token; with ``margin`` less that of the second."""
    found = []
    for part in stream.split(_TOKENS_AT_ONCE):
        top = torch.softmax(view.logits(part).float(), dim=-1).topk(2, dim=-1).values
        found.append(top[:, 0] - top[:, 1] if margin else top[:, 0])
    return torch.cat(found).to(view.device)
