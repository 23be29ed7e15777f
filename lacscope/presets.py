"""The old name of ``lacscope.traces``, until 1.0."""

from lacscope.traces._provenance import Preset as Preset
from lacscope.traces._provenance import result_attrs as result_attrs
from lacscope.traces._provenance import with_samples as with_samples
