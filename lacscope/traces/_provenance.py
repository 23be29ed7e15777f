"""A paper's settings under a name, and what every result carries: its data, positions, aggregation and departures."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Literal

from lacscope.guards._arguments import text

# What says which model it was, in every result that is made of one.
MODEL_ATTRS = (
    "model", "model_class", "weights", "quantization", "dtype", "device", "weight_processing", "cost", "versions",
)  # fmt: skip
# Told after each piece of work how many pieces are done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Preset:
    """The settings of a paper's own experiment.

    Args:
        name: ``author_year/quantity``.
        source: title, arXiv number, and section or figure.
        settings: keyword arguments of the function, and of its data ("data", "samples"), as the paper has them.
        read_in: ``"code"`` where definition and settings were read in the authors' code, or in a faithful public one,
            else ``"paper"``.

    >>> p = Preset("doe_2025/effect", "arXiv 0000.00000", {"data": "GSM8K", "samples": 20, "skip_first": True})
    >>> p.departures({"data": "GSM8K", "samples": 10, "skip_first": True})
    'samples = 10 (paper: 20)'
    >>> p.departures({"data": ""})
    'data not named (paper: GSM8K)'
    """

    name: str
    source: str
    settings: Mapping[str, Any]
    read_in: Literal["code", "paper"] = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def departures(self, settings: Mapping[str, Any]) -> str:
        """In words, which of the paper's settings these are not; "" where all agree.

        A setting not given agrees. Data given as "" were not named, and agree with none.
        """
        return ", ".join(
            f"{_found(key, settings[key])} (paper: {_said(value)})"
            for key, value in self.settings.items()
            if key in settings and _said(settings[key]).casefold() != _said(value).casefold()
        )


def _found(key: str, value: Any) -> str:
    return f"{key} not named" if value == "" else f"{key} = {_said(value)}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@functools.cache
def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a number in a trace."""
    found = {}
    for package in ("lacscope", "torch", "transformers", "transformer-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """The time in UTC, to the second, as results carry it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def result_attrs(
    measure: str,
    model: Mapping[str, Any],
    *,
    preset: Preset | None,
    settings: Mapping[str, Any],
    positions: str,
    aggregation: str,
    n_samples: int,
    data: str = "",
) -> dict[str, str | int]:
    """Attributes of a result, str and int alone so that it can be saved as netCDF.

    Args:
        measure: the name of the public function that measured.
        model: the names of the model (``lacscope.models._facts.model_attrs(adapter)``), and the versions where they are
            not those that are installed now.
        preset: the paper's settings that ``settings`` are compared with; None for a quantity of nobody's.
        settings: the keyword arguments in force.
        positions: the tokens, in words: ``"all but position 0"``.
        aggregation: the aggregation, in words: ``"mean over tokens, then samples"``.
        n_samples: prompts read.
        data: the name of the prompts (``"GSM8K test"``); "" where the caller did not say, which departs from a preset
            that names its data.

    >>> attrs = result_attrs("depth", {"model": "m"}, preset=None, settings={"k": 2}, positions="all",
    ...                      aggregation="mean", n_samples=3)
    >>> attrs["settings"], attrs["n_samples"], attrs["departures"]
    ('{"k": 2}', 3, '')
    """
    text("data", data)
    text("prompt_format", settings.get("prompt_format", ""))
    return {
        "versions": json.dumps(installed_versions(), sort_keys=True),
        **model,
        "time": now(),
        "measure": measure,
        "preset": preset.name if preset else "",
        "source": preset.source if preset else "",
        "read_in": preset.read_in if preset else "",
        "paper_settings": _said(dict(preset.settings)) if preset else "{}",
        "departures": preset.departures(_asked(settings, n_samples, data)) if preset else "",
        "settings": json.dumps(dict(settings), sort_keys=True, default=str),
        "positions": positions,
        "aggregation": aggregation,
        "n_samples": n_samples,
        "data": data,
    }


def with_samples(attrs: Mapping[str, Any], n_samples: int) -> dict[str, Any]:
    """The attributes of the same measurement on another number of prompts.

    >>> paper = Preset("doe_2025/effect", "arXiv 0000.00000", {"samples": 20})
    >>> attrs = result_attrs("effect", {}, preset=paper, settings={}, positions="all", aggregation="mean", n_samples=2)
    >>> attrs["departures"], with_samples(attrs, 20)["departures"]
    ('samples = 2 (paper: 20)', '')
    """
    if "preset" not in attrs:  # a measure of the user's own
        return {**attrs, "n_samples": n_samples}
    paper = Preset(attrs["preset"], attrs["source"], json.loads(attrs["paper_settings"]))
    asked = _asked(json.loads(attrs["settings"]), n_samples, attrs["data"])
    return {**attrs, "n_samples": n_samples, "departures": paper.departures(asked)}


def _asked(settings: Mapping[str, Any], n_samples: int, data: str) -> dict[str, Any]:
    """What a preset is compared with."""
    return {**settings, "samples": n_samples, "data": data}
