"""Every public call on a real GPU beside the CPU, and what tracing costs there: ``make test-gpu``.

    python tests/whole/devices/check_gpu.py [--cpu] [--out runs/gpu_check.json]

Without CUDA it says so in one line and ends with code 0; ``--cpu`` tries the script itself, CPU against CPU. One line a
check; the JSON has them all, with the card, its driver, the versions and the commit. Code 1 where a check failed.
"""

import argparse
import contextlib
import functools
import itertools
import json
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparing import difference
from layouts import TWO, bridged, on_cpu, spread
from public_calls import CALLS, LAYERS, Call

import lacscope
from lacscope import L2AdaptiveComputation as LAC
from lacscope import UnsupportedModelError
from lacscope.testing import tiny_transformers_model

ARCHITECTURES = ("llama", "qwen2", "mistral", "gemma2", "gpt_neox", "gpt2")
ERROR, FLIPS = 1e-4, 0.02  # a delta that stands on its threshold may fall to the other side in float32
DEMO = "smollm2-135m-instruct"
TEXTS = ["The capital of France is", "Water boils at a temperature of one hundred degrees when"]
PROGRAMS: dict[str, dict[str, Any]] = {
    "observe": {},
    "readout": {"rule": LAC(0.8), "effect": "readout"},
    "bypass": {"rule": LAC(0.8), "effect": "bypass"},
}


class Report:
    """The checks so far, shown as they come."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.checks: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}

    def compare(self, name: str, call: Call, cpu: Any, gpu: Any) -> None:
        """One call on both. A model that the CPU refuses in words is to be refused in the same words."""
        expected, found = _outcome(call.run, cpu), _outcome(call.run, gpu)
        if isinstance(expected, Exception) or isinstance(found, Exception):
            alike = isinstance(expected, UnsupportedModelError) and repr(expected) == repr(found)
            self._keep(name, alike, {"cpu": repr(expected)[:300], "gpu": repr(found)[:300]})
            if not alike and isinstance(found, Exception):
                traceback.print_exception(found, limit=-3)
            return
        apart = difference(expected, found, call.wall_clock)
        self._keep(name, apart.error <= ERROR and apart.flips <= FLIPS and apart.others == 0, apart.as_dict())

    def measure(self, name: str, value: Any) -> None:
        self.measured[name] = value
        print(f"      {name}: {value}", flush=True)

    def _keep(self, name: str, passed: bool, more: dict[str, Any]) -> None:
        self.checks.append({"check": name, "passed": passed, **more})
        print(f"{'pass' if passed else 'FAIL'}  {name}  {json.dumps(more)}", flush=True)

    @property
    def failed(self) -> list[str]:
        return [one["check"] for one in self.checks if not one["passed"]]


def _outcome(call: Callable[[Any], Any], model: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(model)
    except Exception as error:
        return error


def small_models(report: Report, architectures: Sequence[str]) -> None:
    """Each architecture, with every hook point and with the residual ones; on two GPUs where there are two."""
    for architecture, full in itertools.product(architectures, (False, True)):
        wanted = {name: call for name, call in CALLS.items() if full or not call.full}
        cpu, hooks = on_cpu(architecture, LAYERS, full=full), "full" if full else "residual"
        placed = {"": bridged(tiny_transformers_model(architecture, n_layers=LAYERS).to(report.device), full=full)}
        if report.device == "cuda" and torch.cuda.device_count() > 1:
            two = {part: place.replace("gpu", "cuda") for part, place in TWO.items()}
            placed["two GPUs, "] = spread(architecture, two, full=full)
        for where, model in placed.items():
            for name, call in wanted.items():
                report.compare(f"{where}{architecture}, {hooks}: {name}", call, cpu, model)


def demo_model(report: Report, length: int, steps: int) -> None:
    """The demo model: equality, what bfloat16 flips, and waits, memory and time beside the plain model."""
    cpu, gpu = (lacscope.load_model(DEMO, device=device, hooks="residual") for device in ("cpu", report.device))
    for name, program in PROGRAMS.items():
        run = functools.partial(lacscope.trace, inputs=TEXTS, max_new_tokens=8, **program)
        report.compare(f"{DEMO}: {name}", Call(run, ("trace",)), cpu, gpu)
    low = lacscope.load_model(DEMO, device=report.device, dtype="bfloat16", hooks="residual")
    one, other = (lacscope.voids(lacscope.trace(model, TEXTS), 0.8).values for model in (gpu, low))
    report.measure("mask cells that differ in bfloat16", float((one != other).mean()))
    ids = [(7 * i) % 40000 + 100 for i in range(length)]
    for name, program in PROGRAMS.items():
        with _waits() as waits:
            lacscope.trace(low, [ids[:64]], max_new_tokens=10, **program)
        report.measure(f"{name}: waits by line, 64 tokens and 9 steps", dict(waits.most_common()))
        prefill = _both(low, report.device, [ids], 0, program)
        decode = _both(low, report.device, [ids[:16]], steps, program)
        report.measure(f"{name}: prefill of {length}, plain and traced", prefill)
        report.measure(f"{name}: {steps} steps, plain and traced", decode)


def _both(model: Any, device: str, rows: list[list[int]], steps: int, program: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds and peak MiB of the plain model, and of a trace of the same."""
    ids = torch.tensor(rows, device=device)
    runs = {
        "plain": lambda: _plain(model.original_model, ids, steps),
        "traced": lambda: lacscope.trace(model, rows, max_new_tokens=steps, **program),
    }
    return {name: {"ms": _milliseconds(run, device), "MiB": _peak(run, device)} for name, run in runs.items()}


@torch.inference_mode()
def _plain(model: Any, ids: Any, steps: int) -> None:
    mask, cache = torch.ones_like(ids), None
    for _ in range(max(1, steps)):
        out = model(ids, attention_mask=mask, past_key_values=cache, use_cache=steps > 0, logits_to_keep=1)
        cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.cat([mask, mask[:, :1]], dim=1)


def _milliseconds(run: Callable[[], Any], device: str, rounds: int = 5) -> float:
    run()
    taken = []
    for _ in range(rounds):
        _settle(device)
        began = time.perf_counter()
        run()
        _settle(device)
        taken.append(1e3 * (time.perf_counter() - began))
    return round(float(np.median(taken)), 2)


def _peak(run: Callable[[], Any], device: str) -> float | None:
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _waits() -> Iterator[Counter[str]]:
    """Where the CPU waited for the GPU, by the line that asked: torch warns of each."""
    seen: Counter[str] = Counter()
    if not torch.cuda.is_available():
        yield seen
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one in caught:
        if "synchroniz" in str(one.message):
            seen["/".join(Path(one.filename).parts[-2:]) + f":{one.lineno}"] += 1


def facts(device: str) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if device == "cuda" else "none: CPU against CPU"
    return {
        "card": card,
        "cards": torch.cuda.device_count() if device == "cuda" else 0,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "commit": _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"),
        "date": time.strftime("%Y-%m-%d"),
        **{name: version(name) for name in ("torch", "transformers", "transformer-lens", "accelerate")},
    }


def _said(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="try the script itself, CPU against CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check.json"), help="where the JSON goes")
    parser.add_argument("--only", choices=ARCHITECTURES, help="one architecture of the small models")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        print(
            f"No CUDA device here (torch {torch.__version__}), so nothing was checked; --cpu tries the script itself."
        )
        return 0
    device = "cpu" if given.cpu else "cuda"
    # TensorFloat-32 has 10 bits of mantissa: equality with the CPU is that of float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report, began = Report(device), time.time()
    small_models(report, [given.only] if given.only else ARCHITECTURES)
    try:
        demo_model(report, *((64, 4) if given.cpu else (1024, 64)))
    except lacscope.ModelLoadError as error:
        report.measure(f"{DEMO} was left out", str(error))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    whole = {**facts(device), "failed": report.failed, "checks": report.checks, "measured": report.measured}
    given.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"{len(report.failed)} of {len(report.checks)} checks failed in {time.time() - began:.0f} s; see {given.out}")
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
