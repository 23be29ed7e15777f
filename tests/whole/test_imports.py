"""Imports point one way, traces need no torch, and the front door lists what there is."""

import ast
import doctest
import importlib
import inspect
import pydoc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import lacscope

PACKAGE = Path(lacscope.__file__).parent

# A room imports from rooms of the lines above, and of its own line. What is not named here is a front end (testing,
# the old names): it may import anything, and none of these may import it.
ORDER = (
    ("guards", "traces"),
    ("rules",),
    ("models", "tasks", "trace_analyses"),
    ("tracing", "plans", "plots"),
    ("model_measures", "reproduction", "harness"),
    ("analyze",),
    ("cli",),
)
# Where a method says what a room further down does: it is imported when called.
WHEN_CALLED = {("rules._swift", "lacscope.model_measures._fit_swift.fit_swift")}
RANK = {module: rank for rank, group in enumerate(ORDER) for module in group}
FRONT_END = len(ORDER)
NO_TORCH = (
    *("guards", "traces", "tasks", "trace_analyses", "plots"),
    *("reproduction.scores", "reproduction.controls"),
)


NAMESPACES = ("analyses", "measures", "plans", "plots", "rules", "tasks", "testing")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Each module's dotted name below lacscope, and its source as a tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from lacscope import x` imports the module x, or one of the front door's names.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.split(".", 1)[0]


def home_of(name: str) -> str:
    """The module below lacscope that ``lacscope.<name>`` reads."""
    return top(full_home_of(name))


def full_home_of(name: str) -> str:
    below = name.removeprefix("lacscope.")
    return HOME_OF.get(top(below), below)


def front_door() -> dict[str, str]:
    """Each public name, with the module below lacscope that has it: what ``lacscope/__init__.pyi`` says."""
    listed = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 1, "the front door imports from lacscope alone"
            (alias,) = node.names
            assert alias.asname == alias.name, "re-exports are `x as x`"
            listed[alias.name] = node.module
    return listed


HOME_OF = front_door()


def within(name: str, room: str) -> bool:
    return f"{name}.".startswith(f"{room}.")


def test_imports_point_only_to_the_left() -> None:
    wrong = []
    for module, tree in modules():
        if not module:
            continue
        rank = RANK.get(top(module), FRONT_END)
        for name in imported(tree):
            further = top(name) == "lacscope" and RANK.get(home_of(name), FRONT_END) > rank
            if further and (module, name) not in WHEN_CALLED:
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_the_order_names_modules_that_there_are() -> None:
    assert set(RANK) <= {top(module) for module, _ in modules()}


@pytest.mark.parametrize("part", NO_TORCH)
def test_no_torch_is_imported(part: str) -> None:
    heavy = {"torch", "transformers", "transformer_lens"}
    for module, tree in modules():
        if within(module, part):
            assert not {top(name) for name in imported(tree)} & heavy, module
            ours = {full_home_of(name) for name in imported(tree) if top(name) == "lacscope"}
            assert all(any(within(name, light) for light in NO_TORCH) for name in ours), module


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import lacscope; dir(lacscope); lacscope.analyses, lacscope.plots",
        "import lacscope; lacscope.open_trace, lacscope.voids, lacscope.layer_usage, lacscope.norm_profile",
        "import lacscope.plots",
        """
        from pathlib import Path
        from tempfile import TemporaryDirectory
        import lacscope
        from lacscope.testing import synthetic_trace
        with TemporaryDirectory() as folder:
            trace = lacscope.open_trace(lacscope.save_trace(synthetic_trace(), Path(folder) / "t.nc"))
        lacscope.layer_usage(trace, lacscope.voids(trace, [0.0, 0.8]))
        lacscope.token_usage(trace), lacscope.skippable_compute(trace), lacscope.norm_profile(trace)
        """,
    ],
    ids=["import", "names", "plots", "file and analyses"],
)
def test_torch_stays_out_of_the_process(run_python: Callable[[str], str], code: str) -> None:
    check = "import sys; print(sorted({'torch', 'transformers', 'transformer_lens'} & set(sys.modules)))"
    assert run_python(inspect.cleandoc(code) + "\n" + check).strip() == "[]"


# --- the front door -------------------------------------------------------------------------------------


def test_every_public_name_resolves_and_is_its_homes() -> None:
    for name, home in HOME_OF.items():
        assert getattr(lacscope, name) is getattr(importlib.import_module(f"lacscope.{home}"), name)
    for room in NAMESPACES:
        assert getattr(lacscope, room) is importlib.import_module(f"lacscope.{room}")
    assert dir(lacscope) == sorted([*HOME_OF, *NAMESPACES])


def test_help_fits_on_two_screens_and_says_where_to_start() -> None:
    said = pydoc.render_doc(lacscope, renderer=pydoc.plaintext).splitlines()
    assert len(said) <= 2 * 40
    assert "    Begin here:" in said


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    said = r"lacscope has no 'layer_use'; dir\(lacscope\) lists what it has. Did you mean 'layer_usage'\?"
    with pytest.raises(AttributeError, match=said):
        lacscope.layer_use  # noqa: B018


def public() -> Iterator[tuple[str, object]]:
    """Every public name, and the public methods of those that are classes."""
    for name in HOME_OF:
        value = getattr(lacscope, name)
        yield name, value
        if isinstance(value, type):
            for key, member in vars(value).items():
                if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{name}.{key}", member


# Members that a protocol describes, once for all that have them.
INHERITED = ("voids", "decides", "needs", "unit", "shape", "device", "history", "watch", "grain", "latches")


def test_every_public_name_has_a_docstring() -> None:
    # A dataclass without one is given its signature by Python: that says nothing.
    bare = []
    for name, value in public():
        text = getattr(value, "__doc__", None) or ""
        inherited = any(name.endswith(f".{key}") for key in INHERITED)
        if not inherited and (len(text) < 15 or text.startswith(f"{name}(")):
            bare.append(name)
    assert not bare


# --- examples in docstrings -----------------------------------------------------------------------------


def documented() -> list[str]:
    light = (
        *("guards", "traces", "rules", "plans", "tasks", "trace_analyses", "model_measures"),
        *("reproduction.scores", "reproduction.controls"),
    )
    return [module for module, _ in modules() if any(within(module, room) for room in light)]


@pytest.mark.parametrize("name", documented())
def test_docstring_examples(name: str) -> None:
    module: ModuleType = importlib.import_module(f"lacscope.{name}")
    failed, _ = doctest.testmod(module, raise_on_error=False)
    assert failed == 0


def test_there_are_docstring_examples() -> None:
    finder = doctest.DocTestFinder()
    for name in ("traces._voids", "trace_analyses._usage", "rules._static"):
        module = importlib.import_module(f"lacscope.{name}")
        assert sum(len(test.examples) for test in finder.find(module)), name
