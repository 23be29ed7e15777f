"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._choices import ChoiceRows as ChoiceRows
from lacscope.model_measures._choices import choice_rows as choice_rows
from lacscope.model_measures._choices import score_choices as score_choices
