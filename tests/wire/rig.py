"""A learner's end of the wire and edges that talk to it, in this process, over real sockets and files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.wire import messages, record, sockets
from robotlearn.wire.door import Credentials
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.messages import Hello, Welcome
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.sockets import Limits
from robotlearn.wire.uplink import Uplink
from robotlearn.wire.weights import WeightsClient
from tests.wire.make import make_segment

CONTRACT: dict[str, Any] = {"policy.horizon": 4, "policy.hidden": "64x64", "algorithm.gamma": 0.99}


class Learner:
    """Store, gate, publisher and server of one learner."""

    def __init__(
        self, folder: Path, *, bind: str = "tcp://127.0.0.1:*", episodes: int = 4, staleness: float = 0, **options: Any
    ) -> None:
        self.store = SegmentStore(folder, sync="process", files=options.pop("files", None))
        self.gate = StalenessGate(episodes, staleness)
        self.publisher = Publisher(chunk_bytes=options.pop("chunk_bytes", 64 << 10))
        try:
            self.server = LearnerServer(
                bind, self.store, self.gate, self.publisher, **({"contract": CONTRACT, "run": "test"} | options)
            )
        except BaseException:
            self.store.close()
            raise
        self.address = self.server.address
        self.server.start()

    def sequences(self) -> list[int]:
        return [segment.sequence for _, segment in self.store.scan()]

    def close(self) -> None:
        self.server.close()
        self.store.close()


@contextlib.contextmanager
def learner(folder: Path, **options: Any) -> Iterator[Learner]:
    rig = Learner(folder, **options)
    try:
        yield rig
        rig.server.check()
    finally:
        rig.close()


class Edge:
    """Spool and uplink of one edge."""

    def __init__(self, folder: Path, address: str, *, name: str = "edge-a", **options: Any) -> None:
        spool_options = {key: options.pop(key) for key in ("sync", "max_bytes") if key in options}
        self.spool = Spool(folder, edge=name, **spool_options)
        self.uplink = Uplink(address, self.spool, edge=name, **({"contract": CONTRACT} | options))
        self.uplink.start()

    def record(self, count: int, **fields: Any) -> None:
        for _ in range(count):
            self.spool.record(make_segment(edge=self.spool.edge, **fields))

    def balanced(self) -> bool:
        counts = self.spool.counts()
        return counts.recorded == counts.acknowledged + counts.evicted + counts.rejected + counts.pending

    def close(self) -> None:
        self.uplink.close()
        self.spool.close()


@contextlib.contextmanager
def edge(folder: Path, address: str, **options: Any) -> Iterator[Edge]:
    rig = Edge(folder, address, **options)
    try:
        yield rig
    finally:
        rig.close()


@contextlib.contextmanager
def weights_client(address: str, **options: Any) -> Iterator[WeightsClient]:
    client = WeightsClient(address, **({"edge": "edge-a", "session": 1, "contract": CONTRACT} | options))
    client.start()
    try:
        yield client
    finally:
        client.close()


class Bare:
    """A peer that says just what a test tells it to, honest or not."""

    def __init__(
        self,
        address: str,
        *,
        hello: bool = True,
        name: str = "bare",
        session: int = 5,
        keys: Credentials | None = None,
        identity: bytes | None = None,
        **fields: Any,
    ) -> None:
        self.context = zmq.Context()
        self.edge = name
        self.socket = sockets.dealer(self.context, Limits(), keys)
        if identity is not None:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(address)
        if hello:
            said = {"role": "data", "contract": CONTRACT, "running": 0, "next_sequence": 0} | fields
            self.say(Hello(record.SCHEMA, name, session, **said))
            assert isinstance(self.hear(), Welcome)

    def say(self, message: messages.Message) -> None:
        self.socket.send(messages.encode(message))

    def send(self, *parts: bytes | bytearray) -> None:
        self.socket.send_multipart(parts)

    def hear(self) -> messages.Message:
        assert self.socket.poll(20_000), "the learner says nothing"
        return messages.decode(self.socket.recv())[0]

    def __enter__(self) -> "Bare":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)
