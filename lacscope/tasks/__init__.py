"""Benchmarks: one a file, prompts and answers, no model."""

from lacscope.tasks.arc import Arc as Arc
from lacscope.tasks.base import HubSource as HubSource
from lacscope.tasks.base import Question as Question
from lacscope.tasks.base import Task as Task
from lacscope.tasks.boolq import BoolQ as BoolQ
from lacscope.tasks.data import DataError as DataError
from lacscope.tasks.data import read_rows as read_rows
from lacscope.tasks.gpqa import Gpqa as Gpqa
from lacscope.tasks.gsm8k import Gsm8k as Gsm8k
from lacscope.tasks.hellaswag import HellaSwag as HellaSwag
from lacscope.tasks.lambada import Lambada as Lambada
from lacscope.tasks.mmlu import Mmlu as Mmlu
from lacscope.tasks.pocket_tasks import PocketBoolean as PocketBoolean
from lacscope.tasks.pocket_tasks import PocketOptions as PocketOptions
from lacscope.tasks.registry import TASKS as TASKS
from lacscope.tasks.registry import task as task
from lacscope.tasks.twohop import TwoHop as TwoHop
from lacscope.tasks.winogrande import WinoGrande as WinoGrande
