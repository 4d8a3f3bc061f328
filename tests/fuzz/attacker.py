"""Who speaks the protocol and means harm: raw sockets, malformed frames, as fast as they go."""

from __future__ import annotations

import random
from collections.abc import Sequence

import zmq

from robotlearn.wire import messages, record, sockets
from robotlearn.wire.messages import Hello, Refuse, Welcome
from robotlearn.wire.sockets import Limits
from tests.fuzz import malformed as kinds
from tests.fuzz.malformed import Kind, malformed
from tests.fuzz.samples import CHUNK, SEGMENTS, TO_EDGE, TO_LEARNER
from tests.wire.rig import CONTRACT

AT_A_LEARNER = (kinds.message([*map(messages.encode, TO_LEARNER)]), kinds.records(SEGMENTS))
# Not those that a learner may end its business with an edge by.
_LASTING = [one for one in TO_EDGE if not isinstance(one, Welcome | Refuse)]
AT_AN_EDGE = (kinds.message([*map(messages.encode, _LASTING), CHUNK]),)


def rounds(attack: Sequence[Kind], rng: random.Random, count: int) -> list[bytes]:
    """So many frames."""
    return [malformed(rng.choice(attack), rng) for _ in range(count)]


class Attacker:
    """One connection to a learner; it reads what it is answered and forgets it."""

    def __init__(self, address: str, rng: random.Random, *, hello: str | None, role: str = "data") -> None:
        """`hello`: under which edge's name, None for none."""
        self._rng = rng
        self._context = zmq.Context()
        self.socket = sockets.dealer(self._context, Limits(messages=256))
        self.socket.setsockopt(zmq.SNDTIMEO, 30_000)
        self.socket.connect(address)
        if hello is not None:
            self.socket.send(messages.encode(Hello(record.SCHEMA, hello, rng.getrandbits(40), role, CONTRACT, 1, 0)))

    def throw(self, frames: Sequence[bytes]) -> None:
        """Send them, now and then as one message of several parts; waits while the learner takes nothing in."""
        send, several = self.socket.send, self._rng.random() < 0.01
        for index, frame in enumerate(frames):
            send(frame, zmq.SNDMORE if several and index + 1 < len(frames) else 0, copy=True)
        while self.socket.poll(0):
            self.socket.recv_multipart(copy=False)

    def close(self) -> None:
        self._context.destroy(linger=0)
