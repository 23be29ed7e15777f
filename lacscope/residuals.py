"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._residuals import Hook as Hook
from lacscope.model_measures._residuals import Residuals as Residuals
from lacscope.model_measures._residuals import Visit as Visit
from lacscope.model_measures._residuals import read_residuals as read_residuals
from lacscope.model_measures._residuals import rerun as rerun
