"""The old name of ``lacscope.reproduction``, until 1.0."""

from lacscope.reproduction._studies import *  # noqa: F403
