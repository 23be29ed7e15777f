"""The old name of ``lacscope.models``, until 1.0."""

from lacscope.models._checks import StreamReport as StreamReport
from lacscope.models._checks import UnsupportedModelError as UnsupportedModelError
from lacscope.models._checks import check_blocks as check_blocks
from lacscope.models._checks import check_points as check_points
from lacscope.models._checks import check_stream as check_stream
from lacscope.models._checks import divides_rows as divides_rows
from lacscope.models._checks import require_decode as require_decode
from lacscope.models._checks import require_derivatives as require_derivatives
from lacscope.models._checks import require_full as require_full
from lacscope.models._checks import require_head as require_head
from lacscope.models._checks import require_one_run as require_one_run
from lacscope.models._checks import require_sublayers as require_sublayers
from lacscope.models._checks import rows_at_once as rows_at_once
