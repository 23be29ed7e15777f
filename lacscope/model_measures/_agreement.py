"""Every measure of a layer's importance on the same prompts, and how far they agree with what removal does."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import xarray as xr

from lacscope.guards._arguments import did_you_mean, whole_number, whole_number_or_none
from lacscope.model_measures._importance_results import ORIENTATION
from lacscope.model_measures._positions import positions_in_words
from lacscope.models._checks import check_blocks
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter
from lacscope.trace_analyses._agreement import METRIC_ATTRS, agreement
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._lac import check_alphas
from lacscope.traces._measure import MEASURES, Measure, Ranking
from lacscope.traces._provenance import Progress, result_attrs
from lacscope.traces._voids import voids
from lacscope.tracing._inputs import read_inputs
from lacscope.tracing._run import trace

USAGE_ALPHAS = (0.5, 0.8, 1.0)
_RESTS_ON = (*METRIC_ATTRS, "source", "read_in", "aggregation")
_NO_SCORES: Mapping[str, xr.DataArray] = MappingProxyType({})


@dataclass
class Read:
    """The prompts, and what is measured on them: each measure runs once, however many rankings are read from it.

    Args:
        rows: the prompts' token ids, cut already.
        max_tokens: the number of tokens at which they were cut, which each measure says of itself.
        found: results that are there already, by the measure's name; they are not made again.
    """

    model: Model
    rows: list[list[int]]
    max_tokens: int | None = None
    data: str = ""
    prompt_format: str = ""
    n_probes: int = 32
    seed: int = 0
    found: dict[str, xr.Dataset] = field(default_factory=dict)

    @cached_property
    def trace(self) -> xr.Dataset:
        return trace(self.model, self.rows)

    def result(self, measure: Measure, options: Mapping[str, Any]) -> xr.Dataset:
        """What the measure finds under these options."""
        key = f"{measure.name} {dict(options)}" if options else measure.name
        if key not in self.found:
            prompts = () if measure.needs == "weights" else (self.rows,)
            shared = measure.takes(
                max_tokens=self.max_tokens,
                data=self.data,
                prompt_format=self.prompt_format,
                n_probes=self.n_probes,
                seed=self.seed,
            )
            self.found[key] = measure.function(self.model, *prompts, **(shared | dict(options)))
        return self.found[key]


def scorers(alphas: Sequence[float | int] = USAGE_ALPHAS) -> dict[str, Callable[[Read], xr.DataArray]]:
    """Every score of :func:`layer_scores` by name: usage at each alpha, and all that prompts or weights suffice for."""
    found: dict[str, Callable[[Read], xr.DataArray]] = {
        f"usage {alpha:g}": partial(_usage, alpha=alpha) for alpha in alphas
    }
    for measure in MEASURES.values():
        if measure.needs in ("prompts", "weights"):
            for name, ranking in measure.rankings.items():
                found[name] = partial(_ranked, measure=measure, ranking=ranking)
    return {name: partial(_named, name=name, score=score) for name, score in found.items()}


def _named(read: Read, *, name: str, score: Callable[[Read], xr.DataArray]) -> xr.DataArray:
    found = score(read).reset_coords(drop=True).transpose(..., "layer")
    return found.rename(name).assign_attrs(orientation=ORIENTATION)


def _ranked(read: Read, *, measure: Measure, ranking: Ranking) -> xr.DataArray:
    """The score of a ranking, larger = more important, with what it rests on."""
    score = _of(read.result(measure, ranking.options), ranking.variable)
    if ranking.layer != "layer":
        score = score.rename({ranking.layer: "layer"})
    return score if ranking.important == "larger" else (-score).assign_attrs(score.attrs)


def _usage(read: Read, *, alpha: float) -> xr.DataArray:
    """Share of each prompt's tokens for which the layer is no void at this alpha."""
    usage = layer_usage(read.trace, voids(read.trace, alpha), by="sample", sinks="include")
    attrs = result_attrs(
        "layer_usage",
        {},
        preset=None,
        settings={"alpha": alpha, "sinks": "include", "max_tokens": read.max_tokens},
        positions=positions_in_words(False),
        aggregation="share of tokens, per sample",
        n_samples=len(read.rows),
        data=read.data,
    )
    return _of(xr.Dataset({"usage": usage.sel(phase="prefill", drop=True)}, attrs=attrs), "usage")


def _of(found: xr.Dataset, variable: str) -> xr.DataArray:
    """A variable with what it rests on."""
    return found[variable].assign_attrs({key: found.attrs[key] for key in _RESTS_ON if key in found.attrs})


def layer_scores(
    model: Model,
    inputs: Any,
    *,
    alphas: Sequence[float | int] = USAGE_ALPHAS,
    leave_out: Collection[str] = (),
    max_tokens: int | None = None,
    n_probes: int = 32,
    seed: int = 0,
    scores: Mapping[str, xr.DataArray] = _NO_SCORES,
    data: str = "",
    progress: Progress | None = None,
) -> dict[str, xr.DataArray]:
    """Each layer's importance by every measure, on the same prompts, larger = more important.

    - ``usage A``: share of the prompt's tokens for which the layer is no void of L2 Adaptive Computation at alpha A;
    - ``Block Influence``; ``LIM``; ``ZD`` (no data; the smaller the share the more important, as its paper has it);
    - ``angular distance`` (across one layer, last token); ``relative contribution`` (block); ``variance growth`` (its
      size); ``identity distance``; ``skip influence`` (Csordás: change of the output, current token);
    - ``SLEB order`` (the step of removal, all layers candidates; one order for all prompts);
    - ``ablation KL`` and ``ablation loss`` (bypassed at all tokens).

    Each has the defaults of its own function, but ``SLEB order``, where any layer may go (``protect=()``; its authors
    keep the first and the last) and prompts are not cut unless ``max_tokens`` says so. What departs from a paper
    stands in each score's attribute ``departures``. Three measures take more than prompts and come in as ``scores``:
    greedy by task, the accuracy of an ablation and the geometry of updates.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them; at least two tokens each.
        alphas: the alphas of the usage.
        leave_out: measures not wanted. ``SLEB order`` costs about L^2 / 6 passes a prompt, ``identity distance``
            reads a prompt token by token.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        n_probes: Gaussian probes of the identity distance.
        seed: the seed of these probes.
        scores: more scores by name, over (sample, layer) or (layer,), larger = more important: whoever gives them
            sees to their sense. Prompts have the ``sample`` coordinates 0, 1, ... in order; give others to samples
            that are other prompts or questions. For instance ``greedy["importance"].assign_attrs(greedy.attrs)`` of
            :func:`~lacscope.model_measures.greedy_by_task`; minus ``correct`` as float of
            :func:`~lacscope.model_measures.ablation_accuracy`; ``error`` of
            :func:`~lacscope.model_measures.update_geometry`, fitted on the first half of the prompts and measured on
            the rest, with ``assign_coords(sample=...)``.
        data: the name of the prompts.
        progress: a function that is called with (measures done, measures).

    Returns:
        For each measure a DataArray over (sample, layer), or over (layer,) for ``ZD`` and ``SLEB order``. Its
        attributes are ``preset``, ``source``, ``read_in``, ``paper_settings``, ``settings``, ``departures``,
        ``positions`` and ``aggregation`` of its function, and ``orientation``. ``scores`` follow as they were given.

    Raises:
        InputError: inputs that cannot be read, or a prompt of fewer than two tokens.
        ValueError: ``leave_out`` names no measure, a bad alpha, or ``scores`` of a measure's name or other layers.

    >>> from lacscope.testing import tiny_model
    >>> scores = layer_scores(tiny_model(), [5, 17, 3, 60], leave_out=["identity distance"])
    >>> scores["usage 0.8"].dims, scores["ZD"].dims
    (('sample', 'layer'), ('layer',))
    """
    adapter: Adapter = check_blocks(model)
    whole_number("n_probes", n_probes, least=1)
    whole_number("seed", seed)
    whole_number_or_none("max_tokens", max_tokens, least=1)
    if isinstance(leave_out, str):
        raise ValueError(f"leave_out must be a list of names, got the string {leave_out!r}; write [{leave_out!r}].")
    used = check_alphas("alphas", alphas)
    measures = scorers(used)
    unknown = [name for name in leave_out if name not in measures]
    if unknown:
        raise ValueError(
            f"leave_out names {unknown[0]!r}; the measures are {', '.join(measures)}."
            f"{did_you_mean(unknown[0], measures)}"
        )
    _check_scores(scores, measures, adapter.n_layers)
    rows = [ids[:max_tokens] for ids in read_inputs(adapter, inputs)]
    read = Read(model, rows, max_tokens, data, n_probes=n_probes, seed=seed)
    wanted = [name for name in measures if name not in leave_out]
    found = {}
    for done, name in enumerate(wanted, 1):
        found[name] = measures[name](read)
        if progress is not None:
            progress(done, len(wanted))
    return {**found, **scores}


def layer_agreement(
    model: Model,
    inputs: Any,
    *,
    seed: int,
    alphas: Sequence[float | int] = USAGE_ALPHAS,
    leave_out: Collection[str] = (),
    max_tokens: int | None = None,
    n_probes: int = 32,
    scores: Mapping[str, xr.DataArray] = _NO_SCORES,
    drop: Collection[int] = (0, 1, -1),
    n_boot: int = 1000,
    n_permutations: int = 10_000,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Do the measures rank layers alike, and like what happens when a layer is bypassed?

    :func:`lacscope.trace_analyses.agreement` of :func:`layer_scores`, whose arguments these are.

    Returns:
        Spearman's correlations with their intervals and p, over (subset, metric, other). Attribute ``metrics`` is a
        JSON object: name -> preset, settings, departures and positions of each.

    Raises:
        InputError: inputs that cannot be read, or a prompt of fewer than two tokens.
        ValueError: bad settings, a measure that is not finite, or a model of too few layers.

    >>> found = layer_agreement(model, prompts, seed=0, data="WikiText-2")  # doctest: +SKIP
    >>> found["rho"].sel(subset="all", metric="usage 0.8", other="ablation KL")  # doctest: +SKIP
    """
    found = layer_scores(
        model,
        inputs,
        alphas=alphas,
        leave_out=leave_out,
        max_tokens=max_tokens,
        n_probes=n_probes,
        seed=seed,
        scores=scores,
        data=data,
        progress=progress,
    )
    return agreement(
        found,
        drop=drop,
        n_boot=n_boot,
        n_permutations=n_permutations,
        seed=seed,
        model=check_blocks(model).name,
        data=data,
    )


def _check_scores(scores: Mapping[str, xr.DataArray], measures: Collection[str], n_layers: int) -> None:
    """Before any measure is taken: that may be hours."""
    for name, score in scores.items():
        if name in measures:
            raise ValueError(f"scores has {name!r}, which is a measure of its own: give another name.")
        if set(score.dims) not in ({"layer"}, {"sample", "layer"}):
            raise ValueError(f"scores[{name!r}] has dimensions {score.dims}; give (sample, layer) or (layer,).")
        if score["layer"].values.tolist() != list(range(n_layers)):
            raise ValueError(
                f"scores[{name!r}] has layers {score['layer'].values.tolist()}; the model has 0 to {n_layers - 1}."
            )
