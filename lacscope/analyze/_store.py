"""Where results stand: one netCDF a result with its figure, and the parts of what is not finished yet.

A result's id is a hash of all that changes it. Writing replaces a result with another id in the same place;
:meth:`ResultStore.in_its_place` tells of it first. Parts lie in a folder named by the id, so they never mix.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from lacscope.guards._withheld import holds_text, is_withheld, without_text
from lacscope.traces._sealed import DamagedFileError, read_sealed, write_sealed
from lacscope.traces._spread import spread_of_old


@dataclass(frozen=True)
class ResultStore:
    """The results of one model in one folder.

    Args:
        folder: ``<out>/<model>``.
        withhold: texts and token ids are written nowhere, in results or parts; what was written with them before is
            written anew without.
    """

    folder: Path
    withhold: bool = False

    def path(self, what: str, suffix: str = ".nc") -> Path:
        return self.folder / f"{what}{suffix}"

    def finished(self, what: str, result_id: str) -> xr.Dataset | None:
        """The result, where it is there whole and is this very one; None otherwise."""
        found = self._read_as_wanted(self.path(what))
        return found if found is not None and found.attrs.get("result_id") == result_id else None

    def in_its_place(self, what: str, result_id: str) -> xr.Dataset | None:
        """Another result, which this one would replace; None where there is none."""
        found = _read(self.path(what))
        return found if found is not None and found.attrs.get("result_id") != result_id else None

    def part(self, what: str, result_id: str, index: int) -> xr.Dataset | None:
        """A part that was written before; None where there is none, or it is damaged."""
        return self._read_as_wanted(self._part_path(what, result_id, index))

    def parts(self, what: str = "*", result_id: str = "*") -> list[Path]:
        """The parts that are there, of one result or of all."""
        return sorted(self.folder.glob(f"parts/{what}-{result_id}/part-*.nc"))

    def write_part(self, what: str, result_id: str, index: int, result: xr.Dataset) -> None:
        """Write one part, whole or not at all."""
        self._write(result, self._part_path(what, result_id, index))

    def write(self, what: str, result_id: str, result: xr.Dataset) -> Path:
        """Write the finished result and drop its parts."""
        path = self._write(result.assign_attrs(result_id=result_id), self.path(what))
        parts = self._part_path(what, result_id, 0).parent
        if parts.exists():
            for part in parts.glob("part-*.nc"):
                part.unlink()
            with suppress(OSError):  # something else lies there
                parts.rmdir()
                parts.parent.rmdir()
        return path

    def _write(self, result: xr.Dataset, path: Path) -> Path:
        """The one way to a file of this store."""
        return write_sealed(without_text(result) if self.withhold else result, path)

    def _read_as_wanted(self, path: Path) -> xr.Dataset | None:
        """With its texts, or without: a file that lacks wanted ones is as good as none."""
        found = _read(path)
        if found is None or (is_withheld(found) and not self.withhold):
            return None
        if self.withhold and holds_text(found):
            self._write(found, path)
            return without_text(found)
        return found

    def _part_path(self, what: str, result_id: str, index: int) -> Path:
        return self.folder / "parts" / f"{what}-{result_id}" / f"part-{index:05d}.nc"


def result_id(what: str, weights: str, settings: Mapping[str, Any], tokens: Any, versions: Mapping[str, str]) -> str:
    """Hash of all that changes a result: 16 hexadecimal digits.

    >>> result_id("lim", "w", {}, [[1, 2]], {}) == result_id("lim", "w", {}, [[1, 3]], {})
    False
    """
    said = [what, weights, dict(settings), tokens, dict(versions)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> xr.Dataset | None:
    try:
        return spread_of_old(read_sealed(path))
    except (FileNotFoundError, DamagedFileError):
        return None
