"""The old name of ``lacscope.trace_analyses``, until 1.0."""

import sys

from lacscope.guards._old_paths import old_modules
from lacscope.reproduction import controls
from lacscope.trace_analyses import *  # noqa: F403

sys.modules[f"{__name__}.controls"] = controls
old_modules(
    __name__,
    {
        "lacscope.trace_analyses": """
            agreement bootstrap depth effects group_usage groups norm_choices norms painters
            phase_matching phases statistics tell_tale tokens usage
        """,
        "lacscope.traces": "voids",
        "lacscope.reproduction.scores": "scores conditions comparisons norm_null verdicts",
    },
)
old_modules(f"{__name__}.controls", {"lacscope.reproduction.controls": "drawn fixed"})
