"""The old name of ``lacscope.trace_analyses``, until 1.0."""

import sys

from lacscope.guards._old_paths import old_modules
from lacscope.reproduction import controls
from lacscope.trace_analyses import *  # noqa: F403

sys.modules[f"{__name__}.controls"] = controls
old_modules(
    __name__,
    trace_analyses="""agreement bootstrap depth effects group_usage groups norm_choices norms painters phase_matching
        phases statistics tell_tale tokens usage""",
    traces="voids",
    reproduction__scores="scores conditions comparisons norm_null verdicts",
)
old_modules(f"{__name__}.controls", reproduction__controls="drawn fixed")
