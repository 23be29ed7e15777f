"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._session import HaltingSession as HaltingSession
from lacscope.tracing._session import Hook as Hook
from lacscope.tracing._session import PaddingWarning as PaddingWarning
from lacscope.tracing._session import RunWarning as RunWarning
from lacscope.tracing._session import TrainingModeWarning as TrainingModeWarning
from lacscope.tracing._session import halting as halting
from lacscope.tracing._session import halting_hooks as halting_hooks
from lacscope.tracing._session import run_session as run_session
