"""The old name of ``lacscope.models``, until 1.0."""

from lacscope.models._facts import *  # noqa: F403
