"""One analysis of one model: found in the store, gone on with, or begun."""

import functools
import json
from dataclasses import replace
from typing import Any

import xarray as xr

from lacscope.analyze._analysis import AT_ONCE, Analysis, SoFar
from lacscope.analyze._catalogue import catalogue
from lacscope.analyze._prompts import Prompts
from lacscope.analyze._store import ResultStore, result_id
from lacscope.traces._provenance import Progress, installed_versions


def analyze(
    model: Any,
    analysis: Analysis,
    prompts: Prompts,
    store: ResultStore,
    *,
    weights: str,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The result of an analysis, from the store where it is there.

    Each part of the work is written when it is done, and a second call goes on from them; parts are read back from
    their files before they are joined, so that the result is the same, bit for bit, however often it was cut. The
    texts and token ids of a private benchmark are withheld from all of them, whatever the store says.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        analysis: one of :func:`lacscope.analyze._catalogue.catalogue`.
        weights: digest of the model's weights (:func:`lacscope.models.weights_digest`), part of the result's id.
        progress: a function that is called with (parts done, parts); where there is one part alone, also with how far
            that is.

    Raises:
        PromptsError: prompts that lack what the analysis needs.
    """
    analysis.check(model, prompts)
    key = id_of(analysis, prompts, weights)
    store = replace(store, withhold=store.withhold or prompts.private)
    found = store.finished(analysis.name, key)
    if found is not None:
        return found
    others = catalogue()

    @functools.cache  # every part asks for the same ones
    def stored(name: str) -> xr.Dataset | None:
        return store.finished(name, id_of(others[name], prompts, weights)) if name in others else None

    work = analysis.parts(model, prompts)
    within = progress if len(work) == 1 else None
    parts: list[xr.Dataset] = []
    for index, run in enumerate(work):
        part = store.part(analysis.name, key, index)
        if part is None:
            store.write_part(analysis.name, key, index, run(SoFar(tuple(parts), within, stored)))
            part = store.part(analysis.name, key, index)
        assert part is not None
        parts.append(part)
        if progress is not None:
            progress(index + 1, len(work))
    made = {"versions": json.dumps(installed_versions(), sort_keys=True), "weights": weights}
    store.write(analysis.name, key, analysis.join(parts).assign_attrs(made))
    finished = store.finished(analysis.name, key)
    assert finished is not None
    return finished


def id_of(analysis: Analysis, prompts: Prompts, weights: str) -> str:
    """The id of an analysis' result: see :func:`lacscope.analyze._store.result_id`."""
    settings = {"data": prompts.name, "at_once": AT_ONCE, **analysis.settings}
    if analysis.style:
        settings["prompt_format"] = prompts.prompt_format
    return result_id(analysis.name, weights, settings, _read_by(prompts), installed_versions())


def _read_by(prompts: Prompts) -> list[Any]:
    """All of the prompts that changes the result."""
    tokens: list[Any] = [prompts.inputs, prompts.responses]
    # What the tokens of prompt and right answer do not show: the wrong choices, and what groups are made of.
    pairs = zip(prompts.tasks, prompts.questions, strict=True)
    tokens.append([[name, one.prompt, one.choices, one.target, one.group] for name, one in pairs])
    return tokens
