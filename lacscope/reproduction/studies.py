"""The old name of ``lacscope.reproduction``, until 1.0."""

from lacscope.reproduction._studies import PARTS as PARTS
from lacscope.reproduction._studies import Findings as Findings
from lacscope.reproduction._studies import Study as Study
from lacscope.reproduction._studies import open_studies as open_studies
from lacscope.reproduction._studies import shards_on_disk as shards_on_disk
