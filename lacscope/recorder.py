"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._recorder import *  # noqa: F403
