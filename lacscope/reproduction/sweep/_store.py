"""Where a sweep's shards stand: tables in Parquet, each shard whole or absent.

A shard's tables are written under temporary names, synced and renamed; its marker, a JSON with their
sha256, comes last. What has no marker, or a marker that its files do not match, counts as not done.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd

from lacscope.reproduction.sweep._spec import SweepSpec
from lacscope.traces._atomic import write_atomically

Tables = Mapping[str, pd.DataFrame]


# What reading a JSON of ours can raise where it is truncated, binary, edited or of other types.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class StoreError(ValueError):
    """A folder of shards that is not what its specification says."""


class Store:
    """The shards of one sweep in one folder.

    Args:
        folder: a folder, made if it is not there; it holds ``spec.json`` and the shards.
        spec: the specification of the work. A folder that holds another specification is refused; one whose
            ``spec.json`` is damaged gets it anew, and its shards are kept, whose markers say by themselves what they
            are of.

    Raises:
        StoreError: the folder belongs to another specification.
    """

    def __init__(self, folder: Path, spec: SweepSpec) -> None:
        self.folder, self.spec = Path(folder), spec
        self.folder.mkdir(parents=True, exist_ok=True)
        others = self._ids_found() - {spec.id}
        if others:
            raise StoreError(
                f"{self.folder} holds run {min(others)}, not {spec.id}: its specification differs. Use another folder."
            )
        with suppress(StoreError):
            read_spec(self.folder)
            return
        write_atomically(self.folder / "spec.json", spec.to_json().encode())

    def _ids_found(self) -> set[str]:
        """Of the specification that is there; where it is missing or damaged, of the shards."""
        with suppress(StoreError):
            return {read_spec(self.folder).id}
        found = set()
        for marker in self.folder.glob("shard-*.json"):
            with suppress(*_UNREADABLE):
                found.add(str(json.loads(marker.read_text(encoding="utf-8"))["id"]))
        return found

    def done(self) -> set[int]:
        """Shards that are whole."""
        return {index for index in range(self.spec.n_shards) if self._is_whole(index)}

    def _marker(self, index: int) -> Path:
        return self.folder / f"shard-{index:05d}.json"

    def _is_whole(self, index: int) -> bool:
        try:
            marker = json.loads(self._marker(index).read_text(encoding="utf-8"))
            return marker["id"] == self.spec.id and all(
                hashlib.sha256((self.folder / name).read_bytes()).hexdigest() == digest
                for name, digest in marker["files"].items()
            )
        except _UNREADABLE:
            return False

    def write(self, index: int, tables: Tables) -> None:
        """Write a shard's tables, its marker last."""
        files = {}
        for name, table in tables.items():
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False, compression="zstd")
            path = self.folder / f"shard-{index:05d}.{name}.parquet"
            write_atomically(path, buffer.getvalue())
            files[path.name] = hashlib.sha256(buffer.getvalue()).hexdigest()
        marker = {"id": self.spec.id, "files": files}
        write_atomically(self._marker(index), (json.dumps(marker, indent=1, sort_keys=True) + "\n").encode())

    def read(self, name: str) -> pd.DataFrame:
        """One table over all shards that are whole, in the order of the shards; empty where there is none."""
        parts = list(self._parts(name))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _parts(self, name: str) -> Iterator[pd.DataFrame]:
        for index in sorted(self.done()):
            path = self.folder / f"shard-{index:05d}.{name}.parquet"
            if path.exists():
                yield pd.read_parquet(path)


def read_spec(folder: Path) -> SweepSpec:
    """The specification of a folder of shards. Raises StoreError where it cannot be read."""
    path = Path(folder) / "spec.json"
    try:
        return SweepSpec.from_json(path.read_text(encoding="utf-8"))
    except _UNREADABLE as error:
        raise StoreError(
            f"{path} is not a sweep's specification ({type(error).__name__}: {str(error)[:200]}): it is missing or "
            "damaged. Run the `lacscope reproduce` command that made it again: it writes it anew and keeps the shards."
        ) from error
