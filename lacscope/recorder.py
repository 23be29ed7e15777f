"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._recorder import NonFiniteStreamError as NonFiniteStreamError
from lacscope.tracing._recorder import PassRecord as PassRecord
from lacscope.tracing._recorder import Recorder as Recorder
from lacscope.tracing._recorder import Run as Run
from lacscope.tracing._recorder import assemble as assemble
from lacscope.tracing._recorder import going_on_under_plan as going_on_under_plan
from lacscope.tracing._recorder import run_attrs as run_attrs
from lacscope.tracing._recorder import under_plan as under_plan
