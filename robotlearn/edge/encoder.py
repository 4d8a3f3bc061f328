"""Segments are encoded and recorded on a thread of its own: who follows an arm must not wait for an image's codec."""

import logging
import queue
import threading
from collections.abc import Callable

from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)

WAITING = 4
"""So many batches of segments wait at most; then `put` waits too, for none may be lost."""


class Encoder:
    """Passes segments on to `record`, in their order, on its thread. `put`, `check` and `close` are for one thread."""

    def __init__(self, record: Callable[[list[Segment]], object]) -> None:
        self._record = record
        self._batches: queue.Queue[list[Segment] | None] = queue.Queue(WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def put(self, segments: list[Segment]) -> None:
        """Have them recorded soon. Raises as `check` does."""
        self.check()
        self._batches.put(segments)

    def check(self) -> None:
        """Raise what `record` raised; nothing is recorded after that."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Return when all is recorded. Idempotent."""
        if self._thread.is_alive():
            self._batches.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (segments := self._batches.get()) is not None:
            if self._failure is not None:
                log.error("%d segments are lost: recording has failed", len(segments))
                continue
            try:
                self._record(segments)
            except BaseException as error:
                log.error("%d segments are lost: %s", len(segments), error)
                self._failure = error
