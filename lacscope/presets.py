"""The old name of ``lacscope.traces``, until 1.0."""

from lacscope.traces._provenance import *  # noqa: F403
