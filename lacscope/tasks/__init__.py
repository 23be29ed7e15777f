"""Benchmarks: one a file, prompts and answers, no model."""

from lacscope.tasks._arc import Arc as Arc
from lacscope.tasks._base import HubSource as HubSource
from lacscope.tasks._base import Question as Question
from lacscope.tasks._base import Task as Task
from lacscope.tasks._boolq import BoolQ as BoolQ
from lacscope.tasks._data import DataError as DataError
from lacscope.tasks._data import read_rows as read_rows
from lacscope.tasks._gpqa import Gpqa as Gpqa
from lacscope.tasks._gsm8k import Gsm8k as Gsm8k
from lacscope.tasks._hellaswag import HellaSwag as HellaSwag
from lacscope.tasks._lambada import Lambada as Lambada
from lacscope.tasks._mmlu import Mmlu as Mmlu
from lacscope.tasks._pocket_tasks import PocketBoolean as PocketBoolean
from lacscope.tasks._pocket_tasks import PocketOptions as PocketOptions
from lacscope.tasks._registry import TASKS as TASKS
from lacscope.tasks._registry import register as register
from lacscope.tasks._registry import task as task
from lacscope.tasks._twohop import TwoHop as TwoHop
from lacscope.tasks._winogrande import WinoGrande as WinoGrande
