"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._questions import *  # noqa: F403
