"""Serves chunks to every robot of a workstation, many robots in one forward pass."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event

import zmq
from msgspec import structs

from robotlearn.edge import local
from robotlearn.edge.shared_frames import Overwritten, SharedFrames
from robotlearn.errors import WireError

log = logging.getLogger(__name__)

Infer = Callable[[Sequence[local.ChunkRequest]], Sequence[local.ChunkAnswer]]
"""Answers a batch of requests, in their order; an empty list where there is nothing to answer with yet (the robots ask
again). Another robot's request in the batch never changes an answer."""


Check = Callable[[local.ChunkRequest], None]
"""Raises WireError for a request that `Infer` could not answer; it is counted and dropped, and harms no other robot."""


class PolicyServer:
    """A ROUTER that gathers the requests of the robots it knows and answers them from one call of `infer`.

    An answer goes to the connection its request came from and carries the request's number, so no robot can get
    another's chunk. A robot that asks anew before its answer replaces its old request. Runs on the caller's thread.
    """

    def __init__(
        self,
        endpoint: str,
        infer: Infer,
        check: Check = lambda request: None,
        *,
        gather_s: float = 0.002,
        max_batch: int = 64,
    ) -> None:
        """Bind `endpoint`. A batch is run once every robot that asked within the last second has asked again, after
        `gather_s` at the latest, or when `max_batch` requests wait.
        """
        self._check = check
        self._infer, self._gather_s, self._max_batch = infer, gather_s, max_batch
        self._context = zmq.Context()
        self._socket = local.local_socket(self._context, zmq.ROUTER)
        self._socket.bind(endpoint)
        self._last_asked: dict[bytes, float] = {}
        self._pending: dict[bytes, local.ChunkRequest] = {}
        self._frames: dict[bytes, SharedFrames] = {}  # of those that asked within the last second
        self.counts: Counter[str] = Counter()

    def serve(self, stop: Event, between: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; `between` runs before each batch (swap weights there) and at least every 0.1 s."""
        while not stop.is_set():
            between()
            self._forget_silent(time.monotonic())
            if not self._pending and not self._socket.poll(100):
                continue
            self._gather()
            if self._pending:
                self._answer()

    def close(self) -> None:
        for frames in self._frames.values():
            frames.close()
        self._socket.close()
        self._context.term()

    @property
    def robots(self) -> int:
        """Robots that asked within the last second."""
        return len(self._last_asked)

    def _gather(self) -> None:
        deadline = time.monotonic() + self._gather_s
        while True:
            self._drain()
            now = time.monotonic()
            self._forget_silent(now)
            if len(self._pending) >= min(len(self._last_asked), self._max_batch) or now >= deadline:
                return
            # Rounded up: a poll of 0 ms would spin.
            self._socket.poll(max(1, int((deadline - now) * 1000)))

    def _forget_silent(self, now: float) -> None:
        self._last_asked = {peer: asked for peer, asked in self._last_asked.items() if now - asked < 1.0}
        for peer in self._frames.keys() - self._last_asked.keys():
            self._frames.pop(peer).close()

    def _drain(self) -> None:
        while len(self._pending) < self._max_batch:
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                request = local.decode(frames[0]) if len(frames) == 1 else None
                if not isinstance(request, local.ChunkRequest):
                    raise WireError("not a chunk request")
                request = self._with_images(peer, request)
                self._check(request)
            except Overwritten:
                self.counts["late"] += 1
                continue
            except WireError as error:
                self.counts["malformed"] += 1
                if self.counts["malformed"] == 1:
                    log.warning("dropped a malformed request: %s", error)
                continue
            if peer in self._pending:
                self.counts["replaced"] += 1
            self._pending[peer] = request
            self._last_asked[peer] = time.monotonic()

    def _with_images(self, peer: bytes, request: local.ChunkRequest) -> local.ChunkRequest:
        """The request with the images that lie in its robot's memory. Raises WireError as that and as they are read."""
        if request.memory is None:
            return request
        frames = self._frames.get(peer)
        if frames is None or frames.memory != request.memory:
            if frames is not None:
                self._frames.pop(peer).close()
            frames = self._frames[peer] = SharedFrames(request.memory)
        return structs.replace(request, observations=local.fetched(request.observations, frames))

    def _answer(self) -> None:
        batch, self._pending = self._pending, {}
        answers = self._infer(list(batch.values()))
        if not answers:
            self.counts["unanswered"] += len(batch)
            return
        # Before the answers go out: who has one may look at the counts.
        self.counts["batches"] += 1
        self.counts["requests"] += len(batch)
        for peer, answer in zip(batch, answers, strict=True):
            try:
                self._socket.send_multipart([peer, local.encode(answer)], zmq.NOBLOCK)
            except zmq.Again:
                self.counts["unsent"] += 1
