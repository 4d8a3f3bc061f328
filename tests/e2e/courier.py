"""Sends records again that an edge has sent, or is about to send."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from robotlearn.errors import WireError
from robotlearn.wire import messages, record, sockets
from robotlearn.wire.messages import Ack, Hello
from robotlearn.wire.sockets import Limits


class Courier:
    """A peer of the learner that brings records of other edges, as an edge does whose folder was copied from theirs.

    Legal where there are no keys: the learner knows a record by what stands in it, whoever brings it. It comes under a
    name of its own, since an edge's own name would take that edge's place.
    """

    NAME = "courier"

    def __init__(self, address: str, contract: Mapping[str, Any], records: Iterable[bytes]) -> None:
        """Says HELLO and sends them; never waits, so all of it may come to nothing."""
        self._context = zmq.Context()
        self._socket = sockets.dealer(self._context, Limits())
        self._socket.setsockopt(zmq.IMMEDIATE, 0)  # what is sent waits for the connection
        self._socket.connect(address)
        hello = Hello(record.SCHEMA, self.NAME, secrets.randbits(63), "data", contract, 0, 0)
        for frame in (messages.encode(hello), *records):
            self._socket.send(frame, zmq.NOBLOCK)

    def close(self) -> int:
        """Hang up; returns for how many the learner has answered by now."""
        answered = 0
        while self._socket.poll(0):
            try:
                message, _ = messages.decode(self._socket.recv())
            except WireError:
                continue  # changed on the way
            if isinstance(message, Ack):
                answered += sum(count for _, _, count in message.ranges)
        self._context.destroy(linger=0)
        return answered
