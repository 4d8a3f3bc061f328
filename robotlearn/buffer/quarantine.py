"""The folder of records that the learner refused for good: kept for a person to look at and send again."""

from __future__ import annotations

import json
import re
from collections.abc import Buffer, Iterator
from dataclasses import dataclass
from pathlib import Path

from robotlearn.durable import write_atomic
from robotlearn.errors import LogError, WireError
from robotlearn.wire import record as records
from robotlearn.wire.record import RecordHeader

_NAME = re.compile(r"([0-9a-f]{16})-(\d{10,})\.record")


@dataclass(frozen=True)
class Quarantined:
    """One record there. `header` is None where it can't be read; `at` is in seconds since 1970."""

    path: Path
    session: int
    sequence: int
    nbytes: int
    at: float
    reason: str
    header: RecordHeader | None


class Quarantine:
    """`SESSION-SEQUENCE.record`, beside each a `.json` with the reason. Beyond `max_bytes` the oldest are deleted."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.dropped = 0  # deleted because of the bound, since opening
        self._max_bytes = max_bytes
        self._keys = {key for key, _ in _files(path)}

    def put(self, session: int, sequence: int, record: Buffer, reason: str) -> Path:
        """Keep one record, durable; putting it again replaces it. Raises LogError when the disk fails."""
        target = self._file(session, sequence)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._make_room(len(memoryview(record)))
            write_atomic(target.with_suffix(".json"), json.dumps({"reason": reason}).encode())
            write_atomic(target, bytes(record))
        except OSError as error:
            raise LogError(f"quarantine {self.path}: {error.strerror or error}") from error
        self._keys.add((session, sequence))
        return target

    def get(self, session: int, sequence: int) -> memoryview:
        """The bytes of a record, undamaged. Raises LogError when it isn't there or is damaged."""
        path = self._file(session, sequence)
        try:
            data = memoryview(path.read_bytes())
            records.check(data)
        except OSError as error:
            raise LogError(f"{path}: {error.strerror or error}") from error
        except WireError as error:
            raise LogError(f"{path} is damaged: {error}") from error
        return data

    def remove(self, session: int, sequence: int) -> None:
        """Delete one, if it is there."""
        path = self._file(session, sequence)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        self._keys.discard((session, sequence))

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(session, sequence) of each."""
        return iter(sorted(self._keys))

    def _file(self, session: int, sequence: int) -> Path:
        return self.path / f"{session:016x}-{sequence:010d}.record"

    def _make_room(self, needed: int) -> None:
        kept = sorted((stat.st_mtime_ns, stat.st_size, key) for key, path in _files(self.path) if (stat := path.stat()))
        size = sum(item[1] for item in kept)
        for _, length, key in kept:
            if size + needed <= self._max_bytes:
                return
            self.remove(*key)
            size -= length
            self.dropped += 1


def look(path: Path) -> list[Quarantined]:
    """What lies in a quarantine folder, the oldest first; also beside an edge that runs."""
    found = []
    for (session, sequence), file in _files(path):
        try:
            stat, data = file.stat(), memoryview(file.read_bytes())
            reason = str(json.loads(file.with_suffix(".json").read_bytes())["reason"])
        except (OSError, ValueError, KeyError, TypeError):  # gone, or being put there at this moment
            continue
        try:
            header = records.header_of(data, records.check(data))
        except WireError:
            header = None
        found.append(Quarantined(file, session, sequence, stat.st_size, stat.st_mtime, reason, header))
    return sorted(found, key=lambda one: (one.at, one.session, one.sequence))


def _files(path: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    for file in path.glob("*.record"):
        if match := _NAME.fullmatch(file.name):
            yield (int(match[1], 16), int(match[2])), file
