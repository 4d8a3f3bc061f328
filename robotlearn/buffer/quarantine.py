"""The folder of records that the learner refused for good: kept for a person to look at, within a bound."""

from __future__ import annotations

import json
from collections.abc import Buffer
from pathlib import Path

from robotlearn.errors import LogError


class Quarantine:
    """`SESSION-SEQUENCE.record`, beside each a `.json` with the reason. Beyond `max_bytes` the oldest are deleted."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.dropped = 0  # deleted because of the bound, since opening
        self._max_bytes = max_bytes

    def put(self, session: int, sequence: int, record: Buffer, reason: str) -> Path:
        """Keep one record; putting it again replaces it. Raises LogError when the disk fails."""
        target = self.path / f"{session:016x}-{sequence:010d}.record"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._make_room(len(memoryview(record)))
            new = target.with_suffix(".new")
            new.write_bytes(record)
            new.replace(target)
            target.with_suffix(".json").write_text(json.dumps({"reason": reason}))
        except OSError as error:
            raise LogError(f"quarantine {self.path}: {error.strerror or error}") from error
        return target

    def _make_room(self, needed: int) -> None:
        kept = sorted(
            (stat.st_mtime_ns, stat.st_size, path) for path in self.path.glob("*.record") if (stat := path.stat())
        )
        size = sum(item[1] for item in kept)
        for _, length, path in kept:
            if size + needed <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            size -= length
            self.dropped += 1
