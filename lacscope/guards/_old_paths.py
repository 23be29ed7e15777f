"""Import paths from before the rooms, which stay until 1.0: ``lacscope.plots.table`` is ``lacscope.plots._table``."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS = ("analyze", "harness", "plans", "plots", "reproduction", "rules", "tasks")
_MOVED = {
    **dict.fromkeys(("arguments", "shown", "temporary", "text_files", "withheld"), "guards"),
    **dict.fromkeys(("atomic", "masks", "normalised", "options", "sealed"), "traces"),
    **dict.fromkeys(("checks", "converted", "facts", "gguf_metadata", "load_errors", "text_only", "twin"), "models"),
    **dict.fromkeys(("branching", "halting_pass", "inputs", "questions", "recorder", "run"), "tracing"),
    **dict.fromkeys(("sampling", "token_text"), "tracing"),
    **dict.fromkeys(("choices", "painters", "residuals", "tradeoff"), "model_measures"),
    **dict.fromkeys(("demo", "prompts_file", "report", "terminal"), "cli"),
}
_RENAMED = {
    "cached": "tracing._from_cache",
    "cli_analyze": "cli._analyze",
    "cli_errors": "cli._errors",
    "cli_harness": "cli._harness",
    "cli_reproduce": "cli._reproduce",
    "dataset": "traces._schema",
    "figures": "plots._saving",
    "hooks": "tracing._session",
    "leftovers": "models._restore",
    "plots.erasure": "plots._token_maps",
    "plots.gradients": "plots._token_maps",
    "plots.marks": "plots._score_panels",
    "plots.state_similarity": "plots._angular",
    "presets": "traces._provenance",
    "reading": "tracing._batches",
    "rules.swift_search": "model_measures._swift_search",
    "rules.table": "rules._shipped",
    "stacking": "traces._joining",
    "tasks.marks": "tasks._answer_cleaning",
    "thresholds": "traces._lac",
}
# A room has a function of the same name, which an import of the module must not put aside.
_SHADOWED = ("plans.freeze", "plans.plan", "plots.style")


def new_path(old: str) -> str | None:
    """Where a module of before the rooms is now; None for what is none.

    >>> new_path("lacscope.plots.table"), new_path("lacscope.sealed"), new_path("lacscope.traces")
    ('lacscope.plots._table', 'lacscope.traces._sealed', None)
    """
    _, _, below = old.partition("lacscope.")
    room, _, name = below.partition(".")
    if below in _RENAMED:
        return f"lacscope.{_RENAMED[below]}"
    if below in _MOVED:
        return f"lacscope.{_MOVED[below]}._{below}"
    if room in _ROOMS and name and not name.startswith("_") and "." not in name:
        found = f"lacscope.{room}._{name}"
        return found if importlib.util.find_spec(found) is not None else None
    return None


class _OldPaths(MetaPathFinder, Loader):
    """Asked when nothing else knows a module: gives the one that it has become."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        known = fullname.startswith("lacscope.") and new_path(fullname) is not None
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(new_path(spec.name)))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # Importing put the old path's specification on the module, which goes on as what it is.
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


class _Later(ModuleType):
    """A module under its old path, read when something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(str(new_path(self.__name__))), name)


def keep_old_paths() -> None:
    """Let imports find modules under their old paths, once."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
    for below in _SHADOWED:
        sys.modules.setdefault(f"lacscope.{below}", _Later(f"lacscope.{below}"))


def old_modules(old: str, names_by_room: Mapping[str, str]) -> None:
    """Have ``old.x`` be the module ``_x`` of the room that it went to, or ``_y`` where it is written ``x=y``."""
    for room, names in names_by_room.items():
        for name in names.split():
            before, _, now = name.partition("=")
            sys.modules[f"{old}.{before}"] = importlib.import_module(f"{room}._{now or before}")
