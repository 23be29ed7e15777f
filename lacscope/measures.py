"""``lacscope.model_measures`` by a shorter name."""

from lacscope.model_measures import *  # noqa: F403
