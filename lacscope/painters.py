"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._painters import KINDS as KINDS
from lacscope.model_measures._painters import SCORES as SCORES
from lacscope.model_measures._painters import SINGLE as SINGLE
from lacscope.model_measures._painters import SUN_CURVES as SUN_CURVES
from lacscope.model_measures._painters import Variant as Variant
from lacscope.model_measures._painters import score_variants as score_variants
from lacscope.model_measures._painters import variants as variants
