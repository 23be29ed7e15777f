"""Models loaded, checked and described; what differs between TransformerLens's classes is in ``adapters``."""

from lacscope.models._checks import UnsupportedModelError as UnsupportedModelError
from lacscope.models._facts import ModelCost as ModelCost
from lacscope.models._facts import model_cost as model_cost
from lacscope.models._facts import quantization as quantization
from lacscope.models._facts import weights_digest as weights_digest
from lacscope.models._loading import DEMO_MODEL as DEMO_MODEL
from lacscope.models._loading import ModelLoadError as ModelLoadError
from lacscope.models._loading import load_model as load_model
from lacscope.models._model import Model as Model
from lacscope.models._restore import restore as restore
