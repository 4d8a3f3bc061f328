"""What a learner does to its store besides writing to it: the index for those who look, and its largest size."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robotlearn import checkpoint
from robotlearn.buffer.compact import Evicted, Needs, evict
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import CheckpointError, LogError
from robotlearn.run_folder import RunFolder

log = logging.getLogger(__name__)

EVERY_S, INDEX_TAKES_S, EVICTION_TAKES_S = 5.0, 0.2, 0.5


class Upkeep:
    """Of one learner, used by its thread, between updates. Where the disk fails, that is said and tried again later."""

    def __init__(self, store: SegmentStore, folder: RunFolder, max_bytes: int | None, newest: int) -> None:
        """`max_bytes`: of the store; None: without a bound. `newest`: checkpoints that a run may be resumed from."""
        self._store, self._folder, self._max_bytes, self._newest = store, folder, max_bytes, newest
        self._index: SegmentIndex | None = None
        self._at = 0.0
        self._complained = False

    def look(self, facts: Callable[[], Mapping[str, Any]], every_s: float = EVERY_S) -> Evicted:
        """Bring the index up to date, and take out what is too much; what the feed's `facts` name, and those of the
        checkpoints, stays. Nothing happens when the last time is less than `every_s` ago.
        """
        if (now := time.monotonic()) - self._at < every_s:
            return Evicted()
        self._at = now
        try:
            if self._index is None:
                self._index = SegmentIndex(self._folder.segments, self._store.records, keep=True)
            self._index.update(INDEX_TAKES_S)
            return self._evict(self._index, facts)
        except LogError as error:
            log.warning("%s", error)
            return Evicted()

    def close(self) -> None:
        """Idempotent."""
        if self._index is not None:
            self._index.close()

    def _evict(self, index: SegmentIndex, facts: Callable[[], Mapping[str, Any]]) -> Evicted:
        if self._max_bytes is None or self._store.bytes <= self._max_bytes:
            return Evicted()
        needs = Needs.of([facts(), *_kept(self._folder.checkpoints, self._newest)])
        evicted = evict(self._store, index, self._max_bytes, needs=needs, limit_s=EVICTION_TAKES_S)
        if evicted.segments:
            log.info(
                "%d stored episodes (%d segments, %.0f MB) are deleted: learner.max_stored_bytes is %d",
                evicted.episodes, evicted.segments, evicted.nbytes / 1e6, self._max_bytes,
            )  # fmt: skip
        elif not self._complained:
            self._complained = True
            log.warning(
                "%.0f MB are stored, above learner.max_stored_bytes, and nothing may go: it is newer than the oldest "
                "checkpoint that is kept, or a person intervened",
                self._store.bytes / 1e6,
            )
        return evicted


def _kept(checkpoints: Path, newest: int) -> Sequence[Mapping[str, Any]]:
    """Facts of the newest ones, from which a run may be resumed; of older ones only the weights are used again."""
    found = []
    for path in checkpoint.list_versions(checkpoints)[-newest:]:
        try:
            found.append(checkpoint.describe(path).facts)
        except CheckpointError:  # a resume passes over it, too
            continue
    return found
