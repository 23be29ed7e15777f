"""The old name of ``lacscope.tasks``, until 1.0."""

from lacscope.tasks._base import *  # noqa: F403
