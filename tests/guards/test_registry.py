"""Names of one kind: lacscope's own, a script's, and those of installed packages."""

import sys
from pathlib import Path

import pytest

from lacscope.guards._registry import ExtensionWarning, Registry


@pytest.fixture
def colours() -> Registry[str]:
    return Registry("colour", lambda: ["red", "green"], name_of=str)


def test_own_names_come_first_and_others_in_their_order(colours: Registry[str]) -> None:
    assert colours.register("violet") == "violet"
    colours.register("azure")
    assert list(colours) == ["red", "green", "violet", "azure"]
    assert len(colours) == 4
    assert colours["azure"] == "azure"
    assert "pink" not in colours


def test_what_was_registered_may_be_registered_again() -> None:
    pairs: Registry[tuple[str, int]] = Registry("pair", tuple, name_of=lambda pair: pair[0])
    pairs.register(("one", 1))
    pairs.register(("one", 2))
    assert dict(pairs) == {"one": ("one", 2)}


def test_own_names_and_bad_names_are_refused(colours: Registry[str]) -> None:
    with pytest.raises(ValueError, match="lacscope has a colour 'red' of its own: give yours another name"):
        colours.register("red")
    for bad in ("", "two words", "-x", "a/b", "[bold]"):
        with pytest.raises(ValueError, match="the name of a colour is made of letters, digits"):
            colours.register(bad)


def test_unknown_names_are_refused_with_those_that_there_are(colours: Registry[str]) -> None:
    with pytest.raises(ValueError, match=r"there is no colour 'gren'; choose one of red, green\. Did you mean 'green'"):
        colours.named("gren")


def installed(folder: Path, package: str, module: str, code: str) -> None:
    """A package in ``folder`` that extends lacscope, as pip would have left it."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lacscope]\n{module} = {module}\n")


def test_an_installed_package_brings_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: Registry[str]
) -> None:
    code = "import registry_of_a_test\nregistry_of_a_test.colours.register('teal')\n"
    installed(tmp_path, "more-colours", "more_colours_of_a_test", code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "registry_of_a_test", type("M", (), {"colours": colours}))  # type: ignore[arg-type]
    assert colours["red"] == "red"
    assert "more_colours_of_a_test" not in sys.modules, "nobody's code is run for a name of lacscope's own"
    assert colours.named("teal") == "teal"
    assert list(colours) == ["red", "green", "teal"]


def test_a_broken_package_is_named_once_and_breaks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: Registry[str]
) -> None:
    installed(tmp_path, "no-colours", "no_colours_of_a_test", "raise RuntimeError('half written [red]')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(ExtensionWarning, match=r"the package 'no-colours' extends lacscope by 'no_colours_of_a_test'"):
        assert list(colours) == ["red", "green"]
    assert list(colours) == ["red", "green"]
