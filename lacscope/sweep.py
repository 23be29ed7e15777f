"""The old name of ``lacscope.reproduction.sweep``, until 1.0."""

import sys

from lacscope.reproduction.sweep import _conditions, _parts, _processes, _reduce, _runner, _scoring, _spec, _store

# Its modules can be imported by their old names too.
sys.modules.update(
    {
        f"{__name__}.conditions": _conditions,
        f"{__name__}.parts": _parts,
        f"{__name__}.processes": _processes,
        f"{__name__}.reduce": _reduce,
        f"{__name__}.runner": _runner,
        f"{__name__}.scoring": _scoring,
        f"{__name__}.spec": _spec,
        f"{__name__}.store": _store,
    }
)
