"""Every public call on pretend GPUs, or offloaded, beside the same on the CPU; the results as JSON on stdout.

python run_on_pretend_gpus.py LAYOUT ... [waits]
"""

import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from comparing import difference
from layouts import LAYOUTS, Layout, on_cpu, spread
from pretend_gpus import PretendGPUs, pretending
from public_calls import CALLS, LAYERS, PROMPTS, Call

import lacscope
from lacscope.models.adapters import adapt, bare_model, build_bridge
from lacscope.rules import CALM, PromptDecided, Scope
from lacscope.testing import tiny_transformers_model


def run(layout: Layout) -> dict[str, Any]:
    """How far each call's result is from the CPU's, or the error."""
    n_gpus = len({place for place in layout.places.values() if place.startswith("gpu")})
    wanted = {name: call for name, call in CALLS.items() if (layout.full or not call.full) and n_gpus <= call.pretend}
    plain = on_cpu(layout.architecture, LAYERS, full=layout.full)
    expected = {name: _outcome(call, plain) for name, call in wanted.items()}
    gpus = pretending(PretendGPUs(float64=layout.float64)) if n_gpus else nullcontext()
    with tempfile.TemporaryDirectory() as folder, gpus:
        placed = spread(layout.architecture, layout.places, full=layout.full, folder=folder)
        return {name: _compared(call, expected[name], placed) for name, call in wanted.items()}


def _outcome(call: Call, model: Any) -> Any:
    try:
        return call.run(model)
    except Exception as error:
        return error


def _compared(call: Call, expected: Any, model: Any) -> dict[str, Any]:
    began = time.process_time()
    found = _outcome(call, model)
    cost = {"seconds": time.process_time() - began}
    if isinstance(expected, Exception) or isinstance(found, Exception):
        alike = isinstance(expected, lacscope.UnsupportedModelError) and repr(expected) == repr(found)
        return {"refused": str(found), **cost} if alike else {"error": _where(found, expected), **cost}
    return {**difference(expected, found, call.wall_clock).as_dict(), **cost}


def _where(found: Any, expected: Any) -> str:
    if not isinstance(found, Exception):
        return f"no error, where the CPU raises {expected!r}"
    ours = [one for one in traceback.extract_tb(found.__traceback__) if "lacscope/" in one.filename]
    at = f" <- {ours[-1].filename.rpartition('lacscope/')[2]}:{ours[-1].lineno}" if ours else ""
    return f"{type(found).__name__}: {str(found)[:300]}{at}"


def waits(n_layers: int) -> dict[str, dict[str, float]]:
    """What one decode step on one GPU waits for and copies there, in all and by line, of each rule and effect."""
    lac = lacscope.L2AdaptiveComputation
    programs: dict[str, dict[str, Any]] = {
        "observe": {},
        "readout": {"rule": lac(0.8), "effect": "readout"},
        "bypass": {"rule": lac(0.8), "effect": "bypass"},
        "observe, 11 rules": {"rule": [lac(i / 10) for i in range(11)]},
        "readout, 6 rules": {"rule": [lac(i / 5) for i in range(6)], "effect": "readout"},
        "random tokens": {"rule": lacscope.RandomTokens(0.25, seed=0), "effect": "readout"},
        "prompt decided": {"rule": PromptDecided(skip=1), "effect": "readout"},
        "CALM, cosine": {"rule": CALM(0.1, confidence="cosine", scope=Scope()), "effect": "readout"},
        "CALM, softmax": {"rule": CALM(0.1, scope=Scope()), "effect": "readout"},
    }
    machine = PretendGPUs()
    with pretending(machine):
        places = dict.fromkeys((*map(str, range(n_layers)), "embed", "head"), "gpu:0")
        model = spread("llama", places, full=False)
        return {name: _step(machine, model, program) for name, program in programs.items()}


def _step(machine: PretendGPUs, model: Any, program: dict[str, Any]) -> dict[str, float]:
    counted = []
    for steps in (4, 8):
        machine.waits.clear()
        machine.copies.clear()
        lacscope.trace(model, PROMPTS, max_new_tokens=steps, **program)
        counted.append((machine.waits.copy(), machine.copies.copy()))
    (few, few_copies), (many, many_copies) = counted
    lines = {line: (n - few[line]) / 4 for line, n in many.items() if n > few[line]}
    return {
        "waits": sum(lines.values()),
        "copies": (many_copies.total() - few_copies.total()) / 4,
        **{f"at {line}": n for line, n in sorted(lines.items())},
    }


def launches() -> dict[str, dict[str, float]]:
    """Kernels and waits of a decode step of two prompts of one length, of the plain model and under each effect."""
    lac = lacscope.L2AdaptiveComputation
    programs: dict[str, dict[str, Any]] = {
        "observe": {},
        "observe, a rule": {"rule": lac(0.8)},
        "observe, 11 rules": {"rule": [lac(i / 10) for i in range(11)]},
        "readout": {"rule": lac(0.8), "effect": "readout"},
        "readout, 6 rules": {"rule": [lac(i / 100) for i in range(6)], "effect": "readout"},
        "readout, 6 rules that part": {"rule": [lac(i / 5) for i in range(6)], "effect": "readout"},
        "bypass": {"rule": lac(0.2), "effect": "bypass"},
    }
    prompts = [[5, 17, 3, 9], [40, 11, 2, 8]]
    machine = PretendGPUs()
    with pretending(machine):
        hf_model = tiny_transformers_model("llama", n_layers=8)
        for module in hf_model.modules():
            machine.put(module, "gpu:0")
        model = build_bridge(hf_model, None, name="on one GPU", residual_only=True)
        bare, _ = bare_model(adapt(model))
        assert bare is not None
        ids = machine.on(torch.tensor(prompts), "gpu:0")

        def plain(steps: int) -> None:
            with torch.inference_mode():
                tokens, cache, finished = ids, None, torch.zeros(2, dtype=torch.bool, device=ids.device)
                for _ in range(steps):
                    found = bare.twin(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    tokens, cache = found.logits[:, -1].argmax(-1, keepdim=True), found.past_key_values
                    finished = finished | (tokens[:, 0] == 96)
                    if bool(finished.all()):
                        break

        def counted(run: Callable[[int], Any]) -> dict[str, float]:
            seen = []
            run(2)  # its checks of the model, made once, are not counted
            for steps in (4, 8):
                machine.waits.clear()
                machine.kernels = 0
                run(steps)
                seen.append((machine.kernels, machine.waits.total()))
            (few, few_waits), (many, many_waits) = seen
            return {"kernels": (many - few) / 4, "waits": (many_waits - few_waits) / 4}

        def traced(program: dict[str, Any]) -> Callable[[int], Any]:
            return lambda steps: lacscope.trace(model, prompts, max_new_tokens=steps, **program)

        return {"plain": counted(plain)} | {name: counted(traced(program)) for name, program in programs.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    layouts = {name: run(LAYOUTS[name]) for name in sys.argv[1:] if name != "waits"}
    depths = {n_layers: waits(n_layers) for n_layers in (4, 8)} if "waits" in sys.argv else {}
    kernels = launches() if "waits" in sys.argv else {}
    json.dump({"layouts": layouts, "waits": depths, "launches": kernels}, sys.stdout, indent=1)
