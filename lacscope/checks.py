"""The old name of ``lacscope.models``, until 1.0."""

from lacscope.models._checks import *  # noqa: F403
