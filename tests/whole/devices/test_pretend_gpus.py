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
    "restore": "undoes what an interrupt left, and computes nothing: tests/whole/faults",
}


@functools.cache
def outcome(*names: str) -> Any:
    """What the process with the pretend GPUs found: one for all fast layouts, one for all slow ones."""
    script = Path(__file__).with_name("run_on_pretend_gpus.py")
    return json.loads(python(str(script), *names))


def python(*given: str) -> str:
    """What a Python process says that began in this folder."""
    done = subprocess.run(
        [sys.executable, *given], capture_output=True, text=True, timeout=1800, check=False, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check(found: dict[str, dict[str, Any]]) -> None:
    """Each call gives what it gives on the CPU, by the same kernels, or refuses the model in the same words."""
    compared = {name: one for name, one in found.items() if "refused" not in one}
    assert len(compared) > 60, sorted(found.keys() - compared.keys())
    wrong = {
        name: one
        for name, one in compared.items()
        if isinstance(one["error"], str) or one["error"] > 1e-5 or one["flips"] or one["others"]
    }
    assert not wrong, json.dumps(wrong, indent=1)


def test_a_pretend_gpu_is_as_strict_as_a_real_one() -> None:
    python(
        "-c",
        """
import torch
from pretend_gpus import MixedDevicesError, NoFloat64Error, PretendGPUs, pretending

def refused(kind, call):
    try:
        call()
    except kind:
        return True

gpus = PretendGPUs(float64=False)
with pretending(gpus):
    here, there, home = (torch.arange(4.0, device=place) for place in ("gpu:0", "gpu:1", "cpu"))
    assert (here.device.index, there.device.index) == (0, 1)
    assert refused(MixedDevicesError, lambda: here + there)
    assert refused(MixedDevicesError, lambda: here + home)
    assert refused(MixedDevicesError, lambda: home[here > 1]), "numbers at home, asked for by a mask from there"
    assert refused(NoFloat64Error, lambda: here.double())
    assert not gpus.waits
    # What CUDA lets pass: a single number of the CPU, indices of the CPU, a copy.
    assert (here + torch.tensor(2.0) + 1).device == here.device
    assert gpus.waits.total() == 0 == gpus.copies.total()
    assert here[torch.tensor([1, 3])].tolist() == [1.0, 3.0]
    assert (gpus.waits.total(), gpus.copies.total()) == (1, 1)
    assert torch.equal(here.cpu(), home)
    assert bool((here[here > 1] == there.to("gpu:0")[2:]).all())
    # The copy home, the mask's places, and the answer.
    assert gpus.waits.total() == 4, gpus.waits
    here.add_(1)
    assert here.tolist() == [1.0, 2.0, 3.0, 4.0]
""",
    )


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
    # With a wait a layer there would be 4 more; whether the model looks at its mask differs from step to step.
    assert many["waits"] <= few["waits"] + 1, (few, many)
    assert many["copies"] <= few["copies"] + 1, (few, many)


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("observe", 0.06),
        ("observe, a rule", 0.06),
        ("observe, 11 rules", 0.06),
        ("readout", 0.06),
        ("readout, 6 rules", 0.065),
        # Where they part, each layer's keys and values are put in another order.
        ("readout, 6 rules that part", 0.16),
        # Eight small kernels a layer: two norms' difference, its history, the comparison and two choices.
        ("bypass", 0.23),
    ],
)
def test_a_step_launches_little_more_than_the_plain_model(program: str, more: float) -> None:
    launches = outcome(*FAST, "waits")["launches"]
    plain, found = launches["plain"], launches[program]
    assert plain["kernels"] > 250
    assert plain["kernels"] < found["kernels"] <= (1 + more) * plain["kernels"], launches
    assert found["waits"] <= plain["waits"] + 1, launches


def test_every_public_function_that_takes_a_model_is_called() -> None:
    called = {name for call in CALLS.values() for name in call.covers}
    missing = taking_a_model() - called - set(EXCUSED)
    assert not missing, f"add a call to public_calls.py, or an excuse in words here, for {sorted(missing)}"
    assert called <= set(dir(lacscope))


def taking_a_model() -> set[str]:
    """Public functions, and public classes with a method, one of whose arguments is a model or a model's cache."""
    found = set()
    for name in dir(lacscope):
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
