"""lm-eval's ``hf`` model with a halting rule about each of its calls, registered as ``lacscope``."""

import copy
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float, Int
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor

from lacscope.harness._choose import resolve_rule
from lacscope.harness._usage import ScoredRows, Usage
from lacscope.models._facts import quantization
from lacscope.models._loading import load_model
from lacscope.models.adapters import adapt
from lacscope.rules import Effect, HaltingRule, check_effect, describe_rule
from lacscope.traces._provenance import installed_versions
from lacscope.tracing._inputs import check_template_options
from lacscope.tracing._recorder import Recorder, Run
from lacscope.tracing._session import halting

# What of lm-eval's ``hf`` model still means something once the model is loaded; it ignores the rest silently.
_OPTIONS = (
    "add_bos_token",
    "batch_size",
    "chat_template_args",
    "enable_thinking",
    "logits_cache",
    "max_batch_size",
    "max_length",
    "mixed_precision_dtype",
    "prefix_token_id",
    "softmax_dtype",
    "think_end_token",
    "truncation",
)


@register_model("lacscope")
class LacscopeLM(HFLM):
    """lm-eval's ``hf`` model with a halting rule about every one of its calls.

    Made by name too, once this module is imported:
    ``simple_evaluate(model="lacscope", model_args="pretrained=smollm2-135m-instruct,alpha=0.8,effect=readout")``.
    The usage is then in the results under ``config``, ``lacscope``.

    Args:
        pretrained: a ``TransformerBridge``, or what :func:`lacscope.load_model` takes.
        rule, alpha, layers, unit: the rule, as :func:`resolve_rule` takes it; without any, the model is left alone.
        effect: ``"observe"``, ``"readout"`` or ``"bypass"``.
        tokenizer: the tokenizer, as :func:`evaluate` takes it.
        dtype, device, trust_remote_code: the options of loading.
        options: more arguments of lm-eval's ``hf`` model: ``batch_size``, ``max_length``, ``add_bos_token``, ...

    Raises:
        ValueError: an unknown option, rule or effect.
        TypeError: a model that is not a ``TransformerBridge``.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        rule: HaltingRule | str | None = None,
        alpha: float | int | None = None,
        layers: str | int | Sequence[int] | None = None,
        unit: str = "block",
        effect: Effect = "observe",
        tokenizer: Any = None,
        dtype: str | torch.dtype = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(
                f"the model class lacscope has no option {unknown[0]!r}; it has pretrained, rule, alpha, layers, unit, "
                f"effect, tokenizer, dtype, device, trust_remote_code, {', '.join(_OPTIONS)}."
            )
        self.rule = resolve_rule(rule, alpha=alpha, layers=layers, unit=unit)
        self.effect = effect
        check_effect(self.rule, effect)
        if isinstance(pretrained, str):
            # Sublayers need every hook point; the rest runs at the speed of the plain model.
            sublayers = self.rule is not None and self.rule.unit != "block"
            pretrained = load_model(
                pretrained,
                device=device,
                dtype=dtype,
                hooks="full" if sublayers else "residual",
                trust_remote_code=trust_remote_code,
            )
        if not hasattr(pretrained, "original_model"):
            raise TypeError(
                f"lm-eval runs the transformers model inside a TransformerBridge; got {type(pretrained).__name__}. "
                "Load the model with lacscope.load_model(name)."
            )
        self.bridge = pretrained
        self.adapter = adapt(pretrained)
        self.usage: dict[str, Usage] = {}
        self._task = ""
        self._rows: ScoredRows | None = None
        chosen = _raw_tokenizer(pretrained, trust_remote_code) if tokenizer is None else copy.deepcopy(tokenizer)
        check_template_options(
            self.adapter, str(getattr(chosen, "chat_template", "")), options.get("chat_template_args") or {}
        )
        super().__init__(pretrained=pretrained.original_model, tokenizer=chosen, backend="causal", **options)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._by_task(super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return self._by_task(super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return self._by_task(super().generate_until, requests, disable_tqdm)

    def _by_task(self, run: Callable[..., list[Any]], requests: list[Any], disable_tqdm: bool) -> list[Any]:
        """Each task's requests by themselves: a batch with two tasks in it would have no usage of its own."""
        if self.rule is None:
            return run(requests, disable_tqdm=disable_tqdm)
        members: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            members.setdefault(request.task_name or "", []).append(index)
        answers: list[Any] = [None] * len(requests)
        for self._task, indices in members.items():
            found = run([requests[i] for i in indices], disable_tqdm=disable_tqdm)
            for index, answer in zip(indices, found, strict=True):
                answers[index] = answer
        return answers

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        self._rows = ScoredRows(requests, self.max_length, grouped=self.logits_cache)
        try:
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        finally:
            self._rows = None

    def _detect_batch_size(self, *args: Any, **kwargs: Any) -> int:
        """Tries out batches of made-up tokens, which are not counted."""
        rows, self._rows = self._rows, None
        try:
            return super()._detect_batch_size(*args, **kwargs)
        finally:
            self._rows = rows

    def _model_call(
        self, inps: Int[Tensor, "batch pos"], attn_mask: Any = None, labels: Any = None
    ) -> Float[Tensor, "batch pos vocab"]:
        if self.rule is None or self._rows is None:
            return super()._model_call(inps, attn_mask, labels)
        lengths, prompt_lengths = self._rows.take(inps)
        # The mask goes to the session alone: given to the model, it could change the last bits of a score.
        mask = torch.arange(inps.shape[1]) < lengths.unsqueeze(-1)
        with halting(
            self.bridge, self.rule, self.effect, prompt_lengths=prompt_lengths, attention_mask=mask
        ) as recorder:
            logits = super()._model_call(inps)
        self._count(_only_run(recorder), lengths)
        return logits

    def _model_generate(
        self, context: Int[Tensor, "batch pos"], max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> Int[Tensor, "batch longer"]:
        if self.rule is None:
            return super()._model_generate(context, max_length, stop, **generation_kwargs)
        for option in ("num_beams", "num_return_sequences"):
            if (generation_kwargs.get(option) or 1) > 1:
                raise ValueError(
                    f"generation with {option}={generation_kwargs[option]} cannot run under a rule: its rows change "
                    "places in the cache. Use greedy decoding or sampling (--gen-kwargs num_beams=1)."
                )
        with halting(self.bridge, self.rule, self.effect) as recorder:
            tokens = super()._model_generate(context, max_length, stop, **generation_kwargs)
        width = context.shape[1]
        # The last token that a row generates is never read.
        ends = [width + self._generated(row, width, stop) - 1 for row in tokens.cpu()]
        self._count(_only_run(recorder), torch.tensor(ends))
        return tokens

    def _generated(self, row: Int[Tensor, " pos"], width: int, stop: list[str]) -> int:
        """How many tokens the row would have generated alone: up to its own end of sequence or stop sequence."""
        criteria = stop_sequences_criteria(self.tokenizer, stop, width, 1)
        stop_ids = self.adapter.stop_ids()
        for end in range(width + 1, len(row)):
            if int(row[end - 1]) in stop_ids or any(criterion(row[None, :end], None) for criterion in criteria):
                return end - width
        return len(row) - width

    def _count(self, run: Run, ends: Int[Tensor, " batch"]) -> None:
        """Add a finished run to its task's usage; ``ends``: the column at which each row ends."""
        voids = torch.cat([record.void for record in run.passes if record.void is not None], dim=-1).cpu()
        kept = run.mask.cpu() & (torch.arange(run.length) < ends.unsqueeze(-1))
        assert run.prompt_lengths is not None
        position = run.mask.cpu().long().cumsum(-1) - 1 - run.prompt_lengths.cpu().unsqueeze(-1)
        usage = self.usage.setdefault(self._task, Usage.nothing(self.adapter.n_layers))
        usage.add(voids.numpy(), kept.numpy(), position.numpy())

    def pooled(self, tasks: set[str]) -> Usage:
        """The usage of several tasks together, every token weighing the same."""
        total = Usage.nothing(self.adapter.n_layers)
        for task in tasks & set(self.usage):
            total += self.usage[task]
        return total

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval keeps of the model beside its scores: ours is under ``lacscope``."""
        report = {
            "model": self.adapter.name,
            "quantization": quantization(self.adapter),
            "rule": describe_rule(self.rule),
            "effect": self.effect,
            "versions": {**installed_versions(), "lm_eval": version("lm_eval")},
            "usage": {task: usage.report() for task, usage in self.usage.items()},
        }
        return {**super().get_model_info(), "lacscope": report}


def _raw_tokenizer(bridge: Any, trust_remote_code: bool) -> Any:
    """The tokenizer as it came with the model: TransformerLens has its own prepend BOS, lm-eval does not."""
    from transformers import AutoTokenizer

    source = bridge.original_model.name_or_path
    if not source:
        if bridge.tokenizer is None:
            raise ValueError("the model has no tokenizer, and lm-eval's tasks are text: pass tokenizer=.")
        return copy.deepcopy(bridge.tokenizer)
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer is kept with {source}: pass tokenizer=.") from error


def _only_run(recorder: Recorder) -> Run:
    runs = recorder.open_runs
    if len(runs) != 1:
        raise RuntimeError(
            f"one call of lm-eval read {len(runs)} runs, so its tokens cannot be counted: its generation options "
            "reorder, crop or leave out the cache. Use greedy decoding or plain sampling."
        )
    return runs[0]
