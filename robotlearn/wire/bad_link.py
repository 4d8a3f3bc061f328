"""A link with the faults of a real one, to stand between an edge and its learner: what rehearses a bad network."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

_QUEUE = 256  # pieces of a direction that may be on their way
_PIECE = 16 << 10
_SMALL_S = 0.005  # a piece takes a slow line at most so long, so that delays stay what they are said to be


@dataclass(frozen=True)
class Faults:
    """What the link does to what goes over it, in each direction.

    Attributes:
        delay_ms: one way.
        jitter_ms: up to so much more, never out of order.
        mbit: megabits per second; None: as fast as it goes.
        drop_every_s: each connection is reset so often, on average; None: never.
        corrupt_every_bytes: one byte in so many is changed, on average; None: none.
        hole: nothing goes through, and nobody is told; connections stay, new ones are taken and lead nowhere.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    mbit: float | None = None
    drop_every_s: float | None = None
    corrupt_every_bytes: int | None = None
    hole: bool = False


class BadLink:
    """Listens on loopback and passes connections on to `target` (tcp://HOST:PORT, ipc://PATH), with faults that change.

    Runs on a thread of its own from the start until `close`. Everything may be called from any thread.
    """

    def __init__(self, target: str, faults: Faults | None = None, *, seed: int = 0) -> None:
        """Listens at once. The target need not be there; a connection that it refuses is closed."""
        self.target = target
        self.faults = faults or Faults()
        self.connections = self.resets = self.corrupted = 0
        self.up = self.down = 0  # bytes that were passed on, to the target and from it
        self.random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._thread.name = f"bad link to {target}"
        self._thread.start()

    def reset(self) -> None:
        """Reset all connections; new ones are taken."""
        self._call(self.sever)

    def half_open(self) -> None:
        """The target's ends are reset; the clients are told nothing, and what they send from now on is lost."""
        self._call(self._lose_targets)

    def close(self) -> None:
        """Reset everything and stop to listen. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> BadLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the thread

    def _call(self, what: Callable[[], None]) -> None:
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            what()
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result()

    async def open(self) -> None:
        """Wait until something goes through."""
        while self.faults.hole and not self._closing.is_set():
            await asyncio.sleep(0.02)

    def carry(self, data: bytes, *, up: bool) -> bytes:
        """What becomes of data on the way, to the target or from it."""
        every = self.faults.corrupt_every_bytes
        if every is None or self.random.random() >= len(data) / every:
            return data
        changed = bytearray(data)
        changed[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        self.corrupted += 1
        return bytes(changed)

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=_PIECE)
        await self._closing.wait()
        server.close()
        self.sever()
        # Each ends by itself now; asyncio complains of streams whose task is cancelled.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    def sever(self) -> None:
        """`reset`, on the link's own thread."""
        for pair in list(self._pairs):
            self.resets += 1
            pair.reset()

    def _lose_targets(self) -> None:
        for pair in list(self._pairs):
            pair.lose_target()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self.open()
        try:
            if self.target.startswith("ipc://"):
                path = self.target.removeprefix("ipc://")
                far_reader, far_writer = await asyncio.open_unix_connection(path, limit=_PIECE)
            else:
                host, _, port = self.target.removeprefix("tcp://").rpartition(":")
                far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=_PIECE)
        except OSError:
            _abort(writer)
            return
        pair = _Pair(self, reader, writer, far_reader, far_writer)
        self._pairs.add(pair)
        if self._closing.is_set():
            pair.reset()
        try:
            await pair.run()
        finally:
            self._pairs.discard(pair)


class _Pair:
    """One connection and the one behind it."""

    def __init__(
        self,
        link: BadLink,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._link = link
        self._reader, self._writer, self._far_writer = reader, writer, far_writer
        self._lines = [_Line(link, reader, far_writer, up=True), _Line(link, far_reader, writer, up=False)]
        self._gone, self._swallowing = asyncio.Event(), False

    async def run(self) -> None:
        """Until both ends have ended, or one was lost."""
        every, ageing = self._link.faults.drop_every_s, None
        if every is not None:
            ageing = asyncio.get_running_loop().call_later(self._link.random.expovariate(1 / every), self._age)
        carrying = asyncio.ensure_future(self._carry())
        lost = asyncio.ensure_future(self._gone.wait())
        await asyncio.wait({carrying, lost}, return_when=asyncio.FIRST_COMPLETED)
        if ageing is not None:
            ageing.cancel()
        orderly = carrying.done() and carrying.exception() is None
        carrying.cancel()
        lost.cancel()
        await asyncio.gather(carrying, lost, return_exceptions=True)
        with contextlib.suppress(OSError):
            while self._swallowing and await self._reader.read(_PIECE):
                pass
        if orderly:
            self._writer.close()
            self._far_writer.close()
        else:
            self.reset()

    async def _carry(self) -> bool:
        async with asyncio.TaskGroup() as group:
            for line in self._lines:
                group.create_task(line.run())
        return True

    def reset(self) -> None:
        self._swallowing = False
        _abort(self._writer)
        _abort(self._far_writer)
        self._gone.set()

    def lose_target(self) -> None:
        self._swallowing = True
        for line in self._lines:
            line.lost = True
        _abort(self._far_writer)
        self._gone.set()

    def _age(self) -> None:
        self._link.resets += 1
        self.reset()


class _Line:
    """One direction of a connection: a line of limited speed, a delay, then the other end; in order."""

    def __init__(
        self, link: BadLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        self._link, self._reader, self._writer, self._up = link, reader, writer, up
        self._way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
        self.lost = False  # its end isn't to be told of

    async def run(self) -> None:
        """Until there is no more to take, and the other end was told so. Raises OSError when either end is lost."""
        delivering = asyncio.ensure_future(self._deliver())
        taking = asyncio.ensure_future(self._take())
        try:
            await asyncio.wait([taking, delivering], return_when=asyncio.FIRST_COMPLETED)
            for done in (taking, delivering):
                if done.done():
                    done.result()
        finally:
            taking.cancel()
            delivering.cancel()
            await asyncio.gather(taking, delivering, return_exceptions=True)

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        free_at = arrives_at = 0.0
        while True:
            mbit = self._link.faults.mbit
            data = await self._reader.read(_PIECE if mbit is None else max(256, int(mbit * 125_000 * _SMALL_S)))
            if not data:
                await self._way.join()
                await self._link.open()
                if not self.lost:
                    self._writer.write_eof()
                return
            faults = self._link.faults
            if faults.mbit is not None:
                free_at = max(free_at, loop.time()) + len(data) / (faults.mbit * 125_000)
                await asyncio.sleep(free_at - loop.time())
            late_ms = faults.delay_ms + self._link.random.random() * faults.jitter_ms
            arrives_at = max(arrives_at, loop.time() + late_ms / 1000)
            await self._way.put((arrives_at, self._link.carry(data, up=self._up)))

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            at, data = await self._way.get()
            if (early := at - loop.time()) > 0:
                await asyncio.sleep(early)
            await self._link.open()
            if self._up:
                self._link.up += len(data)
            else:
                self._link.down += len(data)
            self._writer.write(data)
            await self._writer.drain()
            self._way.task_done()


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # a reset instead of an orderly end
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
