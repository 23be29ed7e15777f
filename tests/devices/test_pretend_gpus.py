"""Every public function that takes a model, on pretend GPUs and with offloaded layers, against the plain CPU.

Nothing here runs on a real GPU: ``make test-gpu`` does, where there is one.
"""

import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.utils.backend_registration

sys.path.insert(0, str(Path(__file__).parent))

from layouts import LAYOUTS
from public_calls import CALLS

import lacscope

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch knows no backend written in Python",
    ),
]

FAST = [name for name, layout in LAYOUTS.items() if not layout.slow]
SLOW = [name for name, layout in LAYOUTS.items() if layout.slow]
EXCUSED = {
    "load_model": "takes a name, and puts the model where it is told: test_models.py and test_offloading.py",
    "open_studies": "reads files",
}


@functools.cache
def outcome(*names: str) -> Any:
    """What the process with the pretend GPUs found: one for all fast layouts, one for all slow ones."""
    script = Path(__file__).with_name("run_on_pretend_gpus.py")
    done = subprocess.run(
        [sys.executable, str(script), *names], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(found: dict[str, dict[str, Any]]) -> None:
    """Each call gives what it gives on the CPU: the values are the same, computed by the same kernels."""
    wrong = {
        name: one
        for name, one in found.items()
        if isinstance(one["error"], str) or one["error"] > 1e-5 or one["flips"] or one["others"]
    }
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.parametrize("layout", FAST)
def test_every_call_gives_what_the_cpu_gives(layout: str) -> None:
    check(outcome(*FAST, "waits")["layouts"][layout])


@pytest.mark.slow
@pytest.mark.parametrize("layout", SLOW)
def test_every_call_gives_what_the_cpu_gives_wherever_the_layers_are(layout: str) -> None:
    check(outcome(*SLOW)["layouts"][layout])


@pytest.mark.parametrize(
    ("program", "bound"),
    [
        ("observe", 4),
        ("observe, 11 rules", 4),
        ("readout", 4),
        ("bypass", 4),
        ("readout, 6 rules", 10),
        ("random tokens", 6),
        ("prompt decided", 6),
        ("CALM, cosine", 4),
        ("CALM, softmax", 7),
    ],
)
def test_the_cpu_waits_for_the_gpu_a_few_times_a_step_whatever_the_depth(program: str, bound: int) -> None:
    by_depth = outcome(*FAST, "waits")["waits"]
    few, many = (by_depth[n_layers][program] for n_layers in ("4", "8"))
    assert many["waits"] <= bound, many
    assert many["waits"] == few["waits"], (few, many)
    assert many["copies"] == few["copies"], (few, many)


def test_every_public_function_that_takes_a_model_is_called() -> None:
    called = {name for call in CALLS.values() for name in call.covers}
    missing = taking_a_model() - called - set(EXCUSED)
    assert not missing, f"add a call to public_calls.py, or an excuse in words here, for {sorted(missing)}"
    assert called <= set(lacscope.__all__)


def taking_a_model() -> set[str]:
    """Public functions, and public classes with a method, one of whose arguments is a model or a model's cache."""
    found = set()
    for name in lacscope.__all__:
        value = getattr(lacscope, name)
        methods = vars(value).items() if inspect.isclass(value) else ()
        functions = [value, *(getattr(part, "__func__", part) for key, part in methods if not key.startswith("_"))]
        given = {
            argument
            for function in functions
            if inspect.isfunction(function)
            for argument in inspect.signature(function).parameters
        }
        if given & {"model", "model_a", "cache"}:
            found.add(name)
    return found
