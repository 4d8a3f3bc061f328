"""The learner's intake: checks, stores and syncs what the edges send, in batches, on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from robotlearn.buffer.log import LogFull
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import Outcome, SegmentStore
from robotlearn.errors import LogError
from robotlearn.wire.peers import Edge
from robotlearn.wire.record import RecordHeader
from robotlearn.wire.segment import Segment

logger = logging.getLogger("robotlearn.wire")

_BATCH_BYTES = 32 << 20
_RETRY_S = 1.0
_PACE_S = 0.004  # batches begin at least this far apart, so that one sync serves many records


class StoredSegment:
    """A segment that has just been stored, for the training loop.

    Attributes:
        position: where the store can read it again, in this run or a later one.
        header: what can be known without its arrays.
    """

    __slots__ = ("_segment", "_store", "header", "position")

    def __init__(self, position: Position, header: RecordHeader, store: SegmentStore) -> None:
        self.position = position
        self.header = header
        self._store = store
        self._segment: Segment | None = None

    @property
    def edge(self) -> str:
        """Name of the edge that recorded it."""
        return self.header.edge

    @property
    def segment(self) -> Segment:
        """The arrays, read from the store when first asked for. Raises LogError when it doesn't have it any more."""
        if self._segment is None:
            self._segment = self._store.read(self.position)
        return self._segment


class Arrival(msgspec.Struct, gc=False):
    """A record as it came, and from whom: by which connection, and whose key that proved, if there are keys."""

    identity: bytes
    data: memoryview
    sender: Edge
    edge: str | None


class Intake:
    """Takes records in, and tells what became of each, on its thread once per batch: `count`, then `answer`.

    Between the two it hands what is stored to the training loop, so that all is counted before it can be used.

    Its inbox is bounded by the server, which counts each peer's unanswered bytes. What is stored waits for `take`, at
    most `max_waiting` segments; when nobody takes them, the intake waits, the edges are not answered, and their spools
    grow. When the disk is full it tries again, and nothing is answered meanwhile.
    """

    def __init__(
        self,
        store: SegmentStore,
        count: Callable[[list[Arrival], list[Outcome]], None],
        answer: Callable[[list[Arrival], list[Outcome]], None],
        *,
        max_waiting: int,
    ) -> None:
        self.failure: BaseException | None = None
        self.disk_full = ""  # why nothing can be stored now, empty while it can
        self._store = store
        self._count = count
        self._answer = answer
        self._max_waiting = max_waiting
        self._inbox: queue.SimpleQueue[list[Arrival] | None] = queue.SimpleQueue()
        self._queues: dict[bytes, deque[Arrival]] = {}  # by connection: taken from the inbox, and not yet in a batch
        self._waiting: deque[StoredSegment] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._batch_at = 0.0
        self._thread = threading.Thread(target=self._run, name="robotlearn-intake", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, leaving what is in the inbox unanswered. Idempotent."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def put(self, arrivals: list[Arrival]) -> None:
        """Hand in records; never blocks. The list is the intake's from now on."""
        self._inbox.put(arrivals)

    def take(self, timeout: float, limit: int | None = None) -> list[StoredSegment]:
        """What was stored since the last call, in the order of storing; waits up to `timeout` seconds for the first."""
        with self._condition:
            if not self._waiting and timeout > 0:
                self._condition.wait_for(lambda: self._waiting or self._stopping, timeout)
            count = len(self._waiting) if limit is None else min(limit, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            self._condition.notify_all()
        return taken

    @property
    def waiting(self) -> int:
        """Segments that are stored and not taken."""
        return len(self._waiting)

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                batch = self._next_batch()
                if batch:
                    self._process(batch)
        except BaseException as error:
            if not isinstance(error, LogError):
                logger.exception("the intake ends")
            self.failure = error
            with self._condition:
                self._condition.notify_all()

    def _next_batch(self) -> list[Arrival]:
        """What has come, at least one record (none when stopping), up to what one sync should serve.

        Connections that sent more than that share it evenly: who sends little never waits for who sends much.
        """
        if not self._queues:
            self._sort_in(self._inbox.get())
        early = self._batch_at + _PACE_S - time.monotonic()
        if early > 0:
            time.sleep(early)
        self._batch_at = time.monotonic()
        with contextlib.suppress(queue.Empty):
            while not self._stopping:
                self._sort_in(self._inbox.get_nowait())
        batch: list[Arrival] = []
        left = _BATCH_BYTES
        while self._queues and left > 0:
            share = left // len(self._queues)
            for identity, waiting in list(self._queues.items()):
                size = 0
                while waiting and size <= share:
                    arrival = waiting.popleft()
                    batch.append(arrival)
                    size += len(arrival.data)
                left -= size
                if not waiting:
                    del self._queues[identity]
        return batch

    def _sort_in(self, arrived: list[Arrival] | None) -> None:
        for arrival in arrived or ():
            waiting = self._queues.get(arrival.identity)
            if waiting is None:
                waiting = self._queues[arrival.identity] = deque()
            waiting.append(arrival)

    def _process(self, batch: list[Arrival]) -> None:
        while not self._stopping:
            self._wait_for_room(len(batch))
            if self._stopping:
                return
            try:
                records, edges = [arrival.data for arrival in batch], [arrival.edge for arrival in batch]
                outcomes = self._store.append(records, edges)
                break
            except LogFull as error:
                if not self.disk_full:
                    logger.error("the learner can't store segments and answers none; the edges keep theirs: %s", error)
                self.disk_full = str(error)
                with self._condition:  # which `take` notifies, many times a second
                    self._condition.wait_for(lambda: self._stopping, _RETRY_S)
        else:
            return
        if self.disk_full:
            logger.warning("the learner stores segments again")
            self.disk_full = ""
        self._count(batch, outcomes)
        with self._condition:
            self._waiting.extend(
                StoredSegment(outcome.position, outcome.header, self._store)
                for outcome in outcomes
                if outcome.position is not None and outcome.header is not None
            )
            self._condition.notify_all()
        self._answer(batch, outcomes)

    def _wait_for_room(self, count: int) -> None:
        with self._condition:
            if len(self._waiting) + count <= self._max_waiting or not self._waiting:
                return
            since = time.monotonic()
            complained = False
            while self._waiting and len(self._waiting) + count > self._max_waiting and not self._stopping:
                if not self._condition.wait(5.0) and not complained:
                    complained = True
                    logger.warning(
                        "%d stored segments wait for the training loop, which took none for %.0f s; the edges' spools "
                        "grow meanwhile",
                        len(self._waiting), time.monotonic() - since,
                    )  # fmt: skip
