"""lacscope: which layers of a language model do the work, for which tokens, in which phase.

Begin here:

    model = lacscope.load_model("smollm2-135m-instruct")    # a hub id, a folder, a .gguf, a model of yours
    t = lacscope.trace(model, "The capital of France is", max_new_tokens=8)    # an xarray.Dataset
    void = lacscope.voids(t, alpha=0.8)                      # which layers are voids, for which tokens
    lacscope.plots.plot_void_map(t, void)
    with lacscope.halting(model, lacscope.L2AdaptiveComputation(0.8), "bypass"):    # take the voids out
        model.generate("The capital of France is", max_new_tokens=8)

Where things are:

    lacscope.rules       what picks the voids          lacscope.plans     the blocks in another order
    lacscope.analyses    from a trace to a result      lacscope.measures  from a model and prompts to a result
    lacscope.plots       results drawn                 lacscope.tasks     benchmarks: prompts and scoring
    lacscope.reproduce   the paper's experiment        lacscope.testing   tiny models and traces to test against

``dir(lacscope)`` lists every public name, ``help(lacscope.trace)`` says what one does, ``lacscope --help`` is the
command line. Names are resolved when first used: opening and plotting a trace does not import torch.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lazy_loader

from lacscope.guards._arguments import did_you_mean
from lacscope.guards._old_paths import keep_old_paths

keep_old_paths()
_resolve, _, _names = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("lacscope")
except PackageNotFoundError:
    __version__ = "not installed"


def __getattr__(name: str) -> Any:
    if name not in _names:
        raise AttributeError(f"lacscope has no {name!r}; dir(lacscope) lists what it has.{did_you_mean(name, _names)}")
    return _resolve(name)


# No __all__: help(lacscope) would print the whole documentation of every name in it.
def __dir__() -> list[str]:
    return sorted(_names)
