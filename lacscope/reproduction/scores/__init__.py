"""Tables of scores: one row per condition, compared, and put into words. No torch."""

from lacscope.reproduction.scores._comparisons import PRIMARY_ALPHA as PRIMARY_ALPHA
from lacscope.reproduction.scores._comparisons import compare as compare
from lacscope.reproduction.scores._norm_null import null_share as null_share
from lacscope.reproduction.scores._norm_null import profile_left_over as profile_left_over
from lacscope.reproduction.scores._scores import summarise as summarise
from lacscope.reproduction.scores._scores import usage_by_layer as usage_by_layer
from lacscope.reproduction.scores._verdicts import verdict as verdict
