"""The old name of ``lacscope.tracing``, until 1.0."""

from lacscope.tracing._questions import ReadQuestion as ReadQuestion
from lacscope.tracing._questions import WrittenAnswer as WrittenAnswer
from lacscope.tracing._questions import check_context as check_context
from lacscope.tracing._questions import digest as digest
from lacscope.tracing._questions import read_answers as read_answers
from lacscope.tracing._questions import read_questions as read_questions
from lacscope.tracing._questions import single_token as single_token
