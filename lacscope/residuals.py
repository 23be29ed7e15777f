"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._residuals import *  # noqa: F403
