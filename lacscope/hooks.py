"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._session import *  # noqa: F403
