"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._tradeoff import *  # noqa: F403
