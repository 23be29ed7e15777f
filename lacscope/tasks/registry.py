"""The old name of ``lacscope.tasks``, until 1.0."""

from lacscope.tasks._registry import TASKS as TASKS
from lacscope.tasks._registry import task as task
