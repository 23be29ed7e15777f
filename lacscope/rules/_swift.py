"""SWIFT: a set of attention and MLP sublayers whose removal changes few of the model's choices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsIndex

import torch
from jaxtyping import Bool
from torch import Tensor

from lacscope.guards._arguments import is_real, real_number
from lacscope.rules._base import Decides, Grain
from lacscope.rules._scope import IN_DECODE, Scope, check_scope, layer_indices, resolve_layers
from lacscope.rules._view import LayerView, Unit


@dataclass(frozen=True)
class SWIFT:
    """A set of attention sublayers and a set of MLP sublayers are voids; :meth:`fit` finds them.

    The authors draft with what is left and verify each draft with the full model; here the draft model stands alone.

    Source: "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration", arXiv 2410.06916, and
    its code for the search's settings.

    Args:
        skip_ratio: share of the ``2 (L - 2)`` sublayers of all layers but the first and last that :meth:`fit` picks;
            of those that ``scope`` does not protect.
        attn, mlp: the layers whose attention, or MLP, is void; None: not fitted yet. Give both to replay a set.
        score: the share of context tokens whose most likely next token stayed, which :meth:`fit` fills in.
        scope: the tokens and layers where there may be voids; published: in decode.

    Raises:
        ValueError: a ratio outside 0 to 1, one set without the other; when used, no sets, the first or the last
            layer among them, or a layer that the model does not have.

    >>> SWIFT(attn=[1, 2], mlp=[2]).sets(4)
    (frozenset({1, 2}), frozenset({2}))
    """

    skip_ratio: float = 0.45
    attn: Iterable[SupportsIndex] | None = None
    mlp: Iterable[SupportsIndex] | None = None
    score: float | None = None
    scope: Scope = field(default=IN_DECODE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "static"
    needs: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "sublayers"

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not is_real(self.skip_ratio) or not 0 <= self.skip_ratio <= 1:
            raise ValueError(f"skip_ratio is a share of the sublayers, 0 to 1; got {self.skip_ratio!r}.")
        if (self.attn is None) != (self.mlp is None):
            raise ValueError("give attn= and mlp= together (an empty list for none), or neither and call fit.")
        for name in ("attn", "mlp"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, layer_indices(getattr(self, name), name))
        if self.score is not None:
            real_number("score", self.score, least=0, most=1)

    def sets(self, n_layers: int) -> tuple[frozenset[int], frozenset[int]]:
        """The layers whose attention, and whose MLP, is void, as indices 0..n_layers-1."""
        if self.attn is None or self.mlp is None:
            raise ValueError(f"{self!r} has no sets yet: rule = rule.fit(model, data), or give attn= and mlp=.")
        found = [resolve_layers([int(i) for i in given], n_layers, "SWIFT") for given in (self.attn, self.mlp)]
        if (found[0] | found[1]) & {0, n_layers - 1}:
            raise ValueError(f"{self!r}: SWIFT keeps the first and the last layer, 0 and {n_layers - 1}.")
        return found[0], found[1]

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        if "layers" not in pass_state:
            pass_state["layers"] = self.sets(view.n_layers)[view.unit == "mlp"]
        return torch.full(view.shape, view.layer in pass_state["layers"], device=view.device)

    def fit(
        self,
        model: Any,
        data: Sequence[Sequence[int]] | Sequence[str],
        *,
        trials: int = 1000,
        patience: int = 300,
        bayes_every: int = 25,
        target: float = 0.95,
        context: int = 32,
        seed: int = 0,
    ) -> "SWIFT":
        """A copy with the sets that change fewest of the model's most likely next tokens in a context.

        Sets are tried as in the authors' code: mostly at random, every ``bayes_every``-th by a Gaussian process (UCB,
        kappa 2.5). Here the process weighs sets, there points of the unit cube; the authors' context is what they
        have generated, here it is ``data``. Nobody's hooks fire, and the model is left as it was.

        Args:
            model: a ``TransformerBridge`` or ``HookedTransformer`` with hook points at attention and MLP.
            data: token ids of each context, or texts.
            trials: the number of sets tried at most; one pass of all contexts for each.
            patience: end once more than so many sets in a row were no better.
            bayes_every: every so many-th set is the process's.
            target: end with a score above it.
            context: tokens read of each context, from its beginning.
            seed: the seed of the search.

        Raises:
            ValueError: no contexts, options that are no such numbers, or a model that leaves nothing to skip.
            UnsupportedModelError: a model without hook points there, or whose blocks are not the sum of the stream,
                attention and MLP.
        """
        from lacscope.model_measures._fit_swift import fit_swift

        return fit_swift(
            self,
            model,
            data,
            trials=trials,
            patience=patience,
            bayes_every=bayes_every,
            target=target,
            context=context,
            seed=seed,
        )
