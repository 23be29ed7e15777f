"""The old name of ``lacscope.models``, until 1.0."""

from lacscope.models._facts import ModelCost as ModelCost
from lacscope.models._facts import model_attrs as model_attrs
from lacscope.models._facts import model_cost as model_cost
from lacscope.models._facts import quantization as quantization
from lacscope.models._facts import weight_processing as weight_processing
from lacscope.models._facts import weights_digest as weights_digest
