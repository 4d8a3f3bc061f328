"""Several stores put into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robotlearn.buffer.log_files import LogReader
from robotlearn.buffer.store import SegmentStore

_BYTES, _COUNT = 8 << 20, 256  # stored at once, and synced once


@dataclass
class Merged:
    """What became of the segments of one store. `duplicates`: the other one had them. `damaged` ones are left out."""

    path: Path
    segments: int = 0
    nbytes: int = 0
    duplicates: int = 0
    damaged: int = 0


def merge(
    folders: Sequence[Path], store: SegmentStore, progress: Callable[[int, int], None] = lambda done, of: None
) -> list[Merged]:
    """Store what these stores hold, in their order of storing, one store after the other; each segment once.

    The folders are only read, as they are now: a learner may write to them meanwhile. Broken off, it goes on when it
    is called again, since what was stored is known. `progress(bytes read, of how many)` is told on the way.

    Raises LogFull or LogError; what was stored by then is.
    """
    logs = [LogReader(folder / "records") for folder in folders]
    total = sum(sum(log.file_sizes().values()) for log in logs)
    done, all_merged = 0, []
    for folder, log in zip(folders, logs, strict=True):
        merged = Merged(folder)
        all_merged.append(merged)
        batch: list[memoryview] = []
        nbytes = 0
        for position, view in log.scan():
            batch.append(view)
            nbytes += position.length
            if nbytes >= _BYTES or len(batch) == _COUNT:
                _store(batch, store, merged)
                done += nbytes
                batch, nbytes = [], 0
                progress(done, total)
        _store(batch, store, merged)
        done += nbytes
        merged.damaged += log.corrupt
        progress(done, total)
    progress(total, total)
    return all_merged


def _store(batch: Sequence[memoryview], store: SegmentStore, merged: Merged) -> None:
    for view, outcome in zip(batch, store.append(batch), strict=True):
        if outcome.kind == "stored":
            merged.segments += 1
            merged.nbytes += len(view)
        elif outcome.kind == "duplicate":
            merged.duplicates += 1
        else:
            merged.damaged += 1
