"""lm-evaluation-harness under halting rules: any of its tasks, its own scores, usage beside them.

Needs the extra ``lacscope[lm-eval]``. Importing this module registers the model class ``lacscope`` with
lm-eval; :func:`evaluate` runs tasks on a model that is loaded already.

What is counted. Every token read in every pass counts: a context that is read again for each of four
choices counts four times (lm-eval reads it once for choices that differ in their last token alone). In a
log-likelihood request the context is prefill and the continuation decode; its last token is scored and
never read. In a generation the prompt is prefill, and what a row generates after its own stop sequence
does not count, although lm-eval keeps reading it until the whole batch stops.
"""

try:
    import lm_eval  # noqa: F401
except ImportError as error:
    raise ImportError('lm-evaluation-harness is not installed: pip install "lacscope[lm-eval]"') from error

from lacscope.harness._choose import find_tasks as find_tasks
from lacscope.harness._choose import resolve_rule as resolve_rule
from lacscope.harness._evaluation import evaluate as evaluate
from lacscope.harness._model import LacscopeLM as LacscopeLM
