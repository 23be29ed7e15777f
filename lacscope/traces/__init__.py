"""What is handed out and kept: the trace and its file, its voids, and what every result says of itself. No torch."""

from lacscope.traces._joining import join_traces as join_traces
from lacscope.traces._lac import lac_thresholds as lac_thresholds
from lacscope.traces._masks import VoidMask as VoidMask
from lacscope.traces._provenance import Preset as Preset
from lacscope.traces._provenance import installed_versions as installed_versions
from lacscope.traces._provenance import result_attrs as result_attrs
from lacscope.traces._provenance import with_samples as with_samples
from lacscope.traces._results import open as open
from lacscope.traces._results import save as save
from lacscope.traces._schema import TraceError as TraceError
from lacscope.traces._schema import find_sinks as find_sinks
from lacscope.traces._schema import open_trace as open_trace
from lacscope.traces._schema import save_trace as save_trace
from lacscope.traces._schema import validate as validate
from lacscope.traces._sealed import DamagedFileError as DamagedFileError
from lacscope.traces._spread import with_spread as with_spread
from lacscope.traces._voids import recorded_voids as recorded_voids
from lacscope.traces._voids import voids as voids
