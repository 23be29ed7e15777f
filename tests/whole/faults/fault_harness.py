"""Faults at our own lines: jobs, an exception raised at a line as it is reached, and all that must be as it was."""

import os
import random
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn

import lacscope
from lacscope import L2AdaptiveComputation, Plan, trace
from lacscope.plots._style import style
from lacscope.testing import synthetic_trace

PACKAGE = os.path.dirname(lacscope.__file__)
# Where models and settings are changed: every line of these is worth more than one fault.
MACHINERY = (
    "_temporary.py",
    "_restore.py",
    "_session.py",
    "_batches.py",
    "_residuals.py",
    f"{os.sep}adapters{os.sep}",
)
RULE = L2AdaptiveComputation(0.8)
PROMPTS = [[5, 17, 60, 9, 33], [44, 3, 90]]
Line = tuple[str, int]
Job = Callable[[Any], Any]


class Boom(Exception):
    """An ordinary exception."""


# --- what must be as it was --------------------------------------------------------------------------------


def modules_of(model: Any) -> Iterator[nn.Module]:
    """Every module that can be reached from a model, by whatever way."""
    seen: set[int] = set()
    stack: list[Any] = [model, model.original_model, *model._hook_registry.values()]
    while stack:
        module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        stack += [child for child in module._modules.values() if child is not None]
        stack += [value for value in vars(module).values() if isinstance(value, nn.Module)]


def state_of(model: Any) -> dict[str, Any]:
    """The state of a model and of the process."""
    modules = list(modules_of(model))
    return {
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in modules],
        "handles": [[id(handle) for handle in getattr(m, "fwd_hooks", ())] for m in modules],
        "functions": [[(k, id(v)) for k, v in vars(m).items() if callable(v) and k != "_modules"] for m in modules],
        "submodules": [[(name, id(child)) for name, child in m._modules.items()] for m in modules],
        "plan": "_lacscope_execution" in vars(model),
        "level": getattr(model, "context_level", 0),
        "training": [m.training for m in modules],
        "weights": [(id(p), p._version, p.requires_grad, p.grad is None) for p in model.original_model.parameters()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), forward_ad._current_level),
        "kernels": [getattr(torch.backends.cuda, f"{k}_sdp_enabled")() for k in ("math", "flash", "mem_efficient")],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
        "matplotlib": dict(mpl.rcParams),
        "warnings": list(warnings.filters),
        "numpy": np.geterr(),
    }


def changed(model: Any, before: dict[str, Any]) -> list[str]:
    """The names of what is not as it was."""
    now = state_of(model)
    return [name for name, value in before.items() if now[name] != value]


def forget(model: Any) -> None:
    """Make the model one that lacscope has not met: what it found out once is found out again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("lacscope"):
            for value in list(vars(module).values()):
                if isinstance(value, weakref.WeakKeyDictionary):
                    value.pop(model, None)


# --- jobs --------------------------------------------------------------------------------------------------


def _halting(model: Any) -> None:
    with lacscope.halting(model, RULE, "bypass"):
        model(torch.tensor(PROMPTS[:1]))
    with lacscope.halting(model, RULE, "readout") as recorder:
        model.generate(torch.tensor(PROMPTS[1:]), max_new_tokens=2, verbose=False, do_sample=False)
    recorder.trace  # noqa: B018


def _plan(model: Any) -> None:
    with lacscope.plan(model, Plan.skip(3, [1])):
        trace(model, PROMPTS[:1], max_new_tokens=2)
    with lacscope.plan(model, Plan.reverse(3, range(3))) as running:
        model(torch.tensor(PROMPTS[:1]))
        running.change(Plan.skip(3, [2]))
        model(torch.tensor(PROMPTS[:1]))


def _first_met(model: Any) -> None:
    forget(model)
    trace(model, PROMPTS, rule=RULE, effect="readout")


def _drawn(model: Any) -> None:
    made = synthetic_trace(n_layers=3)
    lacscope.norm_profile(made)
    with style():
        lacscope.layer_usage(made, lacscope.voids(made, 0.8))


JOBS: dict[str, Job] = {
    "first met": _first_met,
    "observe": lambda m: trace(m, PROMPTS, rule=RULE, logits="last"),
    "readout": lambda m: trace(m, PROMPTS, rule=[RULE, L2AdaptiveComputation(0.2)], effect="readout", max_new_tokens=3),
    "bypass": lambda m: trace(m, PROMPTS, rule=L2AdaptiveComputation(0.8, "attn"), effect="bypass", max_new_tokens=2),
    "hooked": lambda m: trace(
        m, PROMPTS, fwd_hooks=[(lambda name: name.endswith("hook_mlp_out"), lambda x, hook: x * 0.5)], max_new_tokens=2
    ),
    "halting": _halting,
    "plan": _plan,
    "logit lens": lambda m: lacscope.logit_lens(m, PROMPTS[:1]),
    "skipping": lambda m: lacscope.local_skip_influence(m, PROMPTS[:1], n_cuts=1),
    "current": lambda m: lacscope.current_skip_influence(m, PROMPTS[:1]),
    "erasure": lambda m: lacscope.residual_erasure(m, PROMPTS[:1], [[7, 8]], mean_over=PROMPTS),
    "gradients": lambda m: lacscope.integrated_gradients(m, PROMPTS[1:], [[7, 8]], steps=2),
    "ablation": lambda m: lacscope.causal_ablation(m, PROMPTS[:1]),
    "sleb": lambda m: lacscope.sleb(m, PROMPTS),
    "identity": lambda m: lacscope.identity_distance(m, PROMPTS[1:], n_probes=2),
    "influence": lambda m: lacscope.block_influence(m, PROMPTS),
    "updates": lambda m: lacscope.update_geometry(m, PROMPTS[:1], calibration=PROMPTS),
    "drawn": _drawn,
}


# --- faults ------------------------------------------------------------------------------------------------


class AtLine:
    """A trace function that counts lines of ours, and raises where one is reached for the n-th time."""

    def __init__(self, line: Line | None = None, nth: int = 1, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.reached: Counter[Line] = Counter()
        self._line, self._nth, self._error = line, nth, error
        self.raised = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._in_ours if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _in_ours(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            here = (frame.f_code.co_filename, frame.f_lineno)
            self.reached[here] += 1
            if here == self._line and self.reached[here] == self._nth:
                sys.settrace(None)
                self.raised = True
                raise self._error("here")
        return self._in_ours

    def run(self, job: Job, model: Any) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            job(model)
        except (Boom, KeyboardInterrupt):
            pass
        except lacscope.UnsupportedModelError as refused:
            # The self-check takes an ordinary exception for the model's own, says so, and remembers it.
            if "Boom" not in str(refused):
                raise
            forget(model)
        finally:
            sys.settrace(before)


def lines_of(model: Any, jobs: Collection[str]) -> dict[str, Counter[Line]]:
    """For each job the lines that it is the first to reach, and how often."""
    known: set[Line] = set()
    found = {}
    for name in jobs:
        counting = AtLine()
        counting.run(JOBS[name], model)
        found[name] = Counter({line: n for line, n in counting.reached.items() if line not in known})
        known |= set(counting.reached)
    return found


def faults_of(lines: dict[str, Counter[Line]]) -> list[tuple[str, Line, int, type[BaseException]]]:
    """Job, line, at which reaching, and what is raised: four faults a line of the machinery, one of any other."""
    found = []
    for job, reached in lines.items():
        for place, (line, n) in enumerate(sorted(reached.items())):
            later = max(1, n // 2)
            if any(part in line[0] for part in MACHINERY):
                found += [(job, line, nth, error) for nth in sorted({1, later}) for error in (KeyboardInterrupt, Boom)]
            else:
                found.append((job, line, (1, later)[place % 2], (KeyboardInterrupt, Boom)[place // 2 % 2]))
    return found
