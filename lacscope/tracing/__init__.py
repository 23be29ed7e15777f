"""The whole journey of a prompt: read, put into batches, run under a rule, recorded."""

from lacscope.tracing._from_cache import trace_from_cache as trace_from_cache
from lacscope.tracing._inputs import InputError as InputError
from lacscope.tracing._inputs import InputWarning as InputWarning
from lacscope.tracing._inputs import PaddingWarning as PaddingWarning
from lacscope.tracing._questions import read_questions as read_questions
from lacscope.tracing._recorder import NonFiniteStreamError as NonFiniteStreamError
from lacscope.tracing._recorder import Recorder as Recorder
from lacscope.tracing._run import trace as trace
from lacscope.tracing._session import RunWarning as RunWarning
from lacscope.tracing._session import TrainingModeWarning as TrainingModeWarning
from lacscope.tracing._session import halting as halting
from lacscope.tracing._session import halting_hooks as halting_hooks
