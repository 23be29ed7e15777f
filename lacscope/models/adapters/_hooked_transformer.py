"""``HookedTransformer`` (TransformerLens up to 3.x)."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lacscope.guards._temporary import Temporary
from lacscope.models.adapters._base import Adapter
from lacscope.models.adapters._passes import PARTIAL_PASS, PartialPassError, PassInput, PassListener, around_each


class _HookedTransformerReading:
    """What the forward passes and generations of a ``HookedTransformer`` read, told to one listener.

    Each of its methods goes around the model's method of that name (``embed``: the embedding's ``forward``).
    """

    def __init__(self, model: Any, listener: PassListener) -> None:
        self.n_layers = int(model.cfg.n_layers)
        self.listener = listener
        self.passes: list[bool] = []  # of the passes now running: told to the listener?
        self.generations: list[tuple[int, list[Tensor]]] = []  # passes around it, and what it has embedded

    def forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(forward).bind(*args, **kwargs).arguments
        start = given.get("start_at_layer")
        if start is not None and start not in (0, -self.n_layers):
            raise PartialPassError(PARTIAL_PASS.format("start_at_layer"))
        if given.get("stop_at_layer") is not None:
            raise PartialPassError(PARTIAL_PASS.format("stop_at_layer"))
        tokens = None if start is None else self._embedded(given["input"].shape[1])
        self.passes.append(False)
        completed = False
        try:
            if start is not None:
                self._open(tokens, given["input"], given.get("attention_mask"), given.get("past_kv_cache"))
            output = forward(*args, **kwargs)
            completed = True
        finally:
            if self.passes.pop():
                self.listener.close_pass(given.get("past_kv_cache"), completed)
        return output

    def input_to_embed(self, input_to_embed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = input_to_embed(*args, **kwargs)
        residual, tokens, _, mask = result
        if self.passes and not self.passes[-1]:
            given = inspect.signature(input_to_embed).bind(*args, **kwargs).arguments
            self._open(tokens, residual, mask, given.get("past_kv_cache"))
        return result

    def generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.generations.append((len(self.passes), []))
        try:
            return generate(*args, **kwargs)
        finally:
            self.generations.pop()

    def embed(self, embed: Callable[..., Any], tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.generations and self.generations[-1][0] == len(self.passes):
            self.generations[-1][1].append(tokens)
        return embed(tokens, *args, **kwargs)

    def _embedded(self, n_new: int) -> Tensor | None:
        """The last tokens that the innermost generation embedded; None where it began from streams."""
        if not self.generations or self.generations[-1][0] != len(self.passes) or not self.generations[-1][1]:
            return None
        tokens = torch.cat(self.generations[-1][1], dim=1)
        return tokens[:, -n_new:] if tokens.shape[1] >= n_new else None

    def _open(self, tokens: Tensor | None, stream: Tensor, mask: Any, cache: Any) -> None:
        past_length = 0 if cache is None else int(cache[0].past_keys.shape[1])
        fits = isinstance(mask, Tensor) and mask.shape == (stream.shape[0], past_length + stream.shape[1])
        self.listener.open_pass(PassInput(tokens, mask.bool() if fits else None, past_length, cache))
        self.passes[-1] = True  # last: a pass that was refused is not closed


class HookedTransformerAdapter(Adapter):
    """``HookedTransformer`` of TransformerLens 3.9: mask and tokens are seen where it embeds them."""

    @property
    def context_length(self) -> int | None:
        return None if self.model.cfg.positional_embedding_type == "alibi" else int(self.model.cfg.n_ctx)

    @property
    def ends_on_any_length(self) -> bool:
        return True  # it has no other way to unembed fewer positions

    def hook_point(self, name: str) -> Any:
        return self.model.hook_dict.get(name)

    def hook_points(self) -> Iterator[Any]:
        return iter(self.model.hook_dict.values())

    def _idle(self, layer: int) -> tuple[nn.Module, Callable[..., Any]]:
        block = self.model.blocks[layer]

        def give_back(resid_pre: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return self.returned(layer, block.hook_resid_post(block.hook_resid_pre(resid_pre)))

        return block, give_back

    def _after_head(self, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch pos vocab"]:
        cap = self.model.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits

    def watched(self) -> list[tuple[nn.Module, str]]:
        model = self.model
        return [(model, "forward"), (model, "input_to_embed"), (model, "generate"), (model.embed, "forward")]

    def watch(self, listener: PassListener) -> Temporary[None]:
        # ``forward`` finds tokens and mask in ``input_to_embed``; ``generate`` embeds them by itself and calls
        # ``forward`` with streams, so there the tokens are those that it embedded.
        reading = _HookedTransformerReading(self.model, listener)
        outers: tuple[Callable[..., Any], ...] = (
            reading.forward,
            reading.input_to_embed,
            reading.generate,
            reading.embed,
        )
        return around_each([(*method, outer) for method, outer in zip(self.watched(), outers, strict=True)])

    def step(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch past_and_pos"],
        cache: Any,
        *,
        use_cache: bool,
        keep: int | None,
    ) -> tuple[Float[Tensor, "row read vocab"], Any]:
        if cache is None and use_cache:
            from transformer_lens import TransformerLensKeyValueCache

            cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, self.device, tokens.shape[0])
        # The cache keeps the mask of what it holds: only the new tokens' part is passed.
        logits = self.model(
            tokens, attention_mask=mask[:, -tokens.shape[1] :].int(), past_kv_cache=cache, return_type="logits"
        )
        return (logits[:, -keep:] if keep else logits), cache

    def select_rows(self, cache: Any, rows: Int[Tensor, " row"]) -> None:
        for entry in cache.entries:
            here = rows.to(entry.past_keys.device)
            entry.past_keys, entry.past_values = entry.past_keys[here], entry.past_values[here]
        seen = cache.previous_attention_mask
        cache.previous_attention_mask = seen[rows.to(seen.device)]
