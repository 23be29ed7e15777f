"""Undocumented names of other libraries: each hidden in turn, as a release would by renaming it."""

import types
from collections.abc import Iterator

import pytest
import torch

from lacscope import UnsupportedModelError, plan
from lacscope.models.adapters import _private as private
from lacscope.models.adapters import adapt, require_private
from lacscope.plans import Plan
from lacscope.testing import tiny_model


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    require_private.cache_clear()
    yield
    require_private.cache_clear()


def _renamed(code: types.CodeType, name: str) -> types.CodeType:
    inner = tuple(_renamed(one, name) if isinstance(one, types.CodeType) else one for one in code.co_consts)
    names = tuple("renamed" if one == name else one for one in code.co_names)
    return code.replace(co_consts=inner, co_names=names)


def _hide(monkeypatch: pytest.MonkeyPatch, entry: private.PrivateName) -> None:
    owner, name = entry.owner(), entry.name
    if owner is torch.Tensor:  # written in C
        monkeypatch.setattr(private, "Tensor", object)
    elif isinstance(owner, types.ModuleType):
        monkeypatch.delattr(owner, name)
    elif isinstance(owner, type):
        for kind in owner.__mro__[:-1]:
            if name in vars(kind):
                monkeypatch.delattr(kind, name)
            for function in (value for value in list(vars(kind).values()) if isinstance(value, types.FunctionType)):
                if name in private._names_in(type("Holder", (), {"function": function})):
                    monkeypatch.setattr(function, "__code__", _renamed(function.__code__, name))
    else:
        made = type(owner).__init__

        def without(self: object, *args: object, **kwargs: object) -> None:
            made(self, *args, **kwargs)
            vars(self).pop(name, None)

        monkeypatch.setattr(type(owner), "__init__", without)


@pytest.mark.parametrize("entry", private.NAMES, ids=lambda entry: entry.name)
def test_a_private_name_that_is_gone_is_refused_in_words_at_first_use(
    entry: private.PrivateName, monkeypatch: pytest.MonkeyPatch
) -> None:
    if entry.since == 4 and private.version(entry.library).startswith("3."):
        pytest.skip("TransformerLens 3 refuses start_at_layer by itself")
    model = tiny_model()
    whole = Plan.full(adapt(model).n_layers)
    require_private.cache_clear()
    _hide(monkeypatch, entry)

    def first_use() -> None:
        if entry.library == "transformers":
            with plan(model, whole):
                pass
        else:
            adapt(model)

    tested = private.TESTED[entry.library]
    with pytest.raises(
        UnsupportedModelError, match=rf"^{entry.library} \S+ has no {entry.name} where .*tested with .* {tested}"
    ):
        first_use()


def test_what_is_there_is_looked_for_once() -> None:
    model = tiny_model()
    require_private.cache_clear()
    adapt(model)
    adapt(model)
    assert require_private.cache_info().misses == 1


def test_only_the_file_of_private_names_reads_them() -> None:
    from pathlib import Path

    import lacscope

    root = Path(lacscope.__file__).parent
    allowed = {root / "models/adapters/_private.py", root / "plans/_kv.py"}
    names = [entry.name for entry in private.NAMES if entry.name.startswith("_") and entry.name != "_modules"]
    read = [
        (path.relative_to(root).as_posix(), name)
        for path in root.rglob("*.py")
        if path not in allowed
        for name in names
        if f".{name}" in path.read_text(encoding="utf-8")
    ]
    assert read == []
