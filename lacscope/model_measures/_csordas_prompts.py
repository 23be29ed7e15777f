"""How Csordás, Manning and Potts put their prompts: the form of GSM8K's, and the two questions of their maps."""

from types import MappingProxyType

from lacscope.tasks._base import prompt_format
from lacscope.tasks._gsm8k import CSORDAS

CSORDAS_PROMPT_FORMAT = prompt_format(chat=False, style=CSORDAS)

# (prompt, answer), as published: of integrated gradients and of residual erasure.
CSORDAS_QUESTIONS = MappingProxyType(
    {
        "math": ("5 + 7 + 5 + 3 + 1 + 7 = ", "28"),
        "question": ("The spouse of the performer of Imagine is", " Yoko Ono"),
    }
)
CSORDAS_QUESTIONS_DATA = "the paper's two questions"
