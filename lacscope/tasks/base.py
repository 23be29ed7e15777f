"""The old name of ``lacscope.tasks``, until 1.0."""

from lacscope.tasks._base import BooleanAnswers as BooleanAnswers
from lacscope.tasks._base import HubSource as HubSource
from lacscope.tasks._base import LetterAnswers as LetterAnswers
from lacscope.tasks._base import OptionAnswers as OptionAnswers
from lacscope.tasks._base import Packaged as Packaged
from lacscope.tasks._base import Question as Question
from lacscope.tasks._base import Row as Row
from lacscope.tasks._base import Task as Task
from lacscope.tasks._base import asked_with as asked_with
from lacscope.tasks._base import check_request as check_request
from lacscope.tasks._base import numbered as numbered
from lacscope.tasks._base import prompt_format as prompt_format
