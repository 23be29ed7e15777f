"""Labelled results as netCDF files with a sha256 at their end: written whole or not at all, never read damaged."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lacscope.traces._atomic import write_atomically

# The last bytes of a file: this, the sha256 of all before it, a newline. HDF5 readers ignore them.
_SEAL = b"\nlacscope sha256 "
SEAL_LENGTH = len(_SEAL) + 64 + 1


class DamagedFileError(ValueError):
    """A file that is not what was written."""


def write_sealed(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a Dataset as netCDF (h5netcdf), checksummed, whole or not at all; any netCDF reader opens it.

    Raises OSError with the path in the text where writing fails; the old file is then as it was.
    """
    target = Path(path)
    encoding = {str(name): _encoding(variable) for name, variable in result.variables.items() if variable.ndim}
    # In memory first: HDF5 may crash the process, not raise, where a disk is full.
    body = bytes(result.to_netcdf(None, engine="h5netcdf", encoding=encoding))
    seal = _SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"could not write the file ({reason}); nothing was changed", str(target)) from error
    write_atomically(target, body + seal)
    return target


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    """Checksummed chunks for every variable: without one, most single flipped bits are read silently."""
    if variable.dtype.kind in "OU":
        # Fixed-width characters: variable-length strings live in a heap that no checksum covers.
        return {"dtype": "S1", "fletcher32": True, "zlib": True}
    return {"chunksizes": variable.shape, "fletcher32": True, "zlib": True, "complevel": 4, "shuffle": True}


def read_sealed(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read such a file into memory.

    Raises:
        FileNotFoundError: no such file.
        DamagedFileError: a foreign, damaged or truncated one.
    """
    source = Path(path)
    return _parsed(source, _unsealed(source))


def read_result(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a file of :func:`write_sealed`, or one that xarray's ``to_netcdf`` wrote, which has no sha256.

    Raises as :func:`read_sealed`. A file without sha256 must end where its HDF5 ends, so that what is left of a
    sealed one is never taken for it.
    """
    source = Path(path)
    body = source.read_bytes()
    return _parsed(source, body) if hdf5_length(body) == len(body) else read_sealed(source)


def hdf5_length(body: bytes) -> int | None:
    """Where an HDF5 file says that it ends, in bytes from its beginning; None where it is no HDF5 that we read."""
    if not body.startswith(b"\x89HDF\r\n\x1a\n") or len(body) < 52:
        return None
    # The superblock: version, then, with 8-byte addresses, the end of the file behind the other addresses.
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(body[8])
    wide = body[13] if body[8] < 2 else body[9]
    return None if at is None or wide != 8 else int.from_bytes(body[at : at + 8], "little")


def _parsed(source: Path, body: bytes) -> xr.Dataset:
    try:
        with xr.open_dataset(io.BytesIO(body), engine="h5netcdf") as opened:
            result = opened.load()
    except Exception as error:
        raise DamagedFileError(f"{source} cannot be read as netCDF ({type(error).__name__}: {error}).") from error
    for name in list(result.variables):
        if result[name].dtype.kind in "OSU":
            result[name] = result[name].astype(object)
        result[name].encoding = {}
    labelled: list[xr.Dataset | xr.Variable] = [result, *result.variables.values()]
    for kept in labelled:
        kept.attrs = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in kept.attrs.items()
        }
    return result


def _unsealed(source: Path) -> bytes:
    """The file's netCDF, once its sha256 is known to be right: damaged HDF5 is never parsed."""
    raw = source.read_bytes()
    body, seal = raw[:-SEAL_LENGTH], raw[-SEAL_LENGTH:]
    if not seal.startswith(_SEAL):
        raise DamagedFileError(
            f"{source} is not a whole file of lacscope's: its end is missing. It is truncated, or was not written by "
            "lacscope."
        )
    if seal != _SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise DamagedFileError(
            f"{source} is damaged: its content is not what was written (sha256 differs). Make it again, or take "
            "another copy."
        )
    return body
