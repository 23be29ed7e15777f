"""The paper's experiment whole: settings and presets, the run, and what its shards show."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacscope.reproduction._run import reproduce as reproduce
    from lacscope.reproduction._settings import ReproductionSettings as ReproductionSettings
    from lacscope.reproduction._settings import load_questions as load_questions
    from lacscope.reproduction._studies import Findings as Findings
    from lacscope.reproduction._studies import open_studies as open_studies
    from lacscope.reproduction._write import write_reproduction as write_reproduction

_HOME_OF = {
    "Findings": "lacscope.reproduction._studies",
    "ReproductionSettings": "lacscope.reproduction._settings",
    "load_questions": "lacscope.reproduction._settings",
    "open_studies": "lacscope.reproduction._studies",
    "reproduce": "lacscope.reproduction._run",
    "write_reproduction": "lacscope.reproduction._write",
}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    # Settings are read, and studies opened, where no torch is wanted.
    if name not in _HOME_OF:
        raise AttributeError(f"{__name__} has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
