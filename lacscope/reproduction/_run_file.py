"""A run as a file of TOML: what ``lacscope reproduce`` reads, and writes beside its report.

Paths stand relative to the file's own folder, so that a folder can be moved with all that it names.
"""

import dataclasses
import itertools
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacscope.guards._arguments import did_you_mean, listed, one_of, text
from lacscope.guards._text_files import read_lines
from lacscope.reproduction._settings import ReproductionSettings
from lacscope.traces._atomic import write_atomically
from lacscope.traces._options import DTYPES

_HEAD = "# lacscope reproduce FILE makes this run again. Paths are relative to this file's folder.\n"


class RunFileError(ValueError):
    """A file that describes no run; the message names the file and the key."""


@dataclass(frozen=True)
class Recipe:
    """What one ``lacscope reproduce`` runs, but for how its work is shared.

    Args:
        models: names, hub ids, folders or ``.gguf`` files.
        tasks: the benchmarks' names.
        dtype, device, device_map: the arguments of :func:`lacscope.load_model`.
        out: the folder of shards and report.
        data, shots_data: a file of its own for each task that has one.
        settings: the settings for each model and benchmark.
    """

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    dtype: str = "float32"
    device: str | None = None
    device_map: str | None = None
    out: Path = Path("runs/reproduction")
    data: Mapping[str, Path] = field(default_factory=dict)
    shots_data: Mapping[str, Path] = field(default_factory=dict)
    settings: ReproductionSettings = field(default_factory=ReproductionSettings)


def read_run(path: Path) -> Recipe:
    """The run that a file describes; what it does not say has its default.

    Raises:
        FileNotFoundError: there is no such file.
        TextFileError: it is not UTF-8.
        RunFileError: it is no TOML, or says what no run could have.
    """
    try:
        given = tomllib.loads("\n".join(read_lines(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RunFileError(f"{path} is not TOML ({error}).") from None
    try:
        return Recipe(**_checked(given, path.resolve().parent))
    except ValueError as error:
        raise RunFileError(f"{path}: {error}") from error


def keep_run(recipe: Recipe) -> Path:
    """Write ``run.toml`` into the run's folder, ``run-2.toml`` where another run has that; returns the path."""
    written = _as_toml(recipe)
    for number in itertools.count(1):
        path = recipe.out / ("run.toml" if number == 1 else f"run-{number}.toml")
        with suppress(FileNotFoundError, ValueError):
            if _as_toml(read_run(path)) == written:
                return path
        if not path.exists():
            break
    # A path need not be UTF-8: such a run is run all the same, though its file cannot be read.
    write_atomically(path, written.encode("utf-8", "surrogateescape"))
    return path


def _checked(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    _know("key", given, Recipe)
    found = dict(given)
    for name in ("models", "tasks"):
        if name in given:
            found[name] = tuple(
                text(f"{name}[{place}]", one) for place, one in enumerate(listed(name, given[name], "names"))
            )
    found["models"] = tuple(_model_from(folder, one) for one in found.get("models", ()))
    for name in ("device", "device_map", "out"):
        if name in given:
            text(name, given[name])
    if "dtype" in given:
        one_of("dtype", given["dtype"], DTYPES)
    if "out" in given:
        found["out"] = _path_from(folder, given["out"])
    for name in ("data", "shots_data"):
        files = _table(name, given.get(name, {}))
        for task in files:
            one_of(f"task in {name}", task, found.get("tasks", ()))
        found[name] = {task: _path_from(folder, text(f"{name}.{task}", file)) for task, file in files.items()}
    settings = {
        name: value if name == "chat_template_kwargs" else _with_tuples(value)
        for name, value in _table("settings", given.get("settings", {})).items()
    }
    _know("key of settings", settings, ReproductionSettings)
    if isinstance(options := settings.get("chat_template_kwargs"), str):
        with suppress(json.JSONDecodeError):
            settings["chat_template_kwargs"] = json.loads(options)
    found["settings"] = ReproductionSettings(**settings)
    return found


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _know(what: str, given: Mapping[str, Any], kind: type) -> None:
    known = [one.name for one in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; it has {', '.join(known)}.{did_you_mean(name, known)}")


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a table, as [{name}]; got {value!r:.80}.")
    return value


def _path_from(folder: Path, said: str) -> Path:
    return Path(os.path.normpath(folder / Path(said).expanduser()))


def _model_from(folder: Path, said: str) -> str:
    """A path as it is from here; what is no file or folder there is a name."""
    path = _path_from(folder, said)
    return str(path) if path.exists() else said


def _path_to(folder: Path, path: str | Path) -> str:
    return os.path.relpath(Path(path).expanduser().resolve(), folder.resolve())


def _as_toml(recipe: Recipe) -> str:
    """Every value, but those that are None, which their keys' absence says."""
    said = {one.name: getattr(recipe, one.name) for one in dataclasses.fields(recipe)}
    said["models"] = [_path_to(recipe.out, one) if Path(one).expanduser().exists() else one for one in recipe.models]
    said["out"] = "."
    for name in ("data", "shots_data"):
        said[name] = {task: _path_to(recipe.out, path) for task, path in said[name].items()}
    settings = {one.name: getattr(recipe.settings, one.name) for one in dataclasses.fields(recipe.settings)}
    # As on the command line: JSON has a null, which TOML has not.
    settings["chat_template_kwargs"] = json.dumps(dict(recipe.settings.chat_template_kwargs), default=str)
    tables = {"data": said.pop("data"), "shots_data": said.pop("shots_data"), "settings": settings}
    said.pop("settings")
    sections = [_HEAD + _lines(said), *(f"[{name}]\n{_lines(table)}" for name, table in tables.items() if table)]
    return "\n".join(sections)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _quoted(value: str) -> str:
    # A basic string of TOML is one of JSON, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
