"""A layer of system calls that ends the process, or fails, at a chosen one of them."""

import contextlib
import errno
import multiprocessing
import os
import signal
from collections.abc import Buffer, Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from robotlearn.buffer.files import Files

When = Literal["before", "half"]  # after a call is before the next one


class KillingFiles(Files):
    """Kills its process with SIGKILL at the call number `at` (from 0): before it, or half-way through a write."""

    def __init__(self, at: int, when: When) -> None:
        self.at, self.when, self.calls = at, when, 0

    def _now(self, when: When) -> None:
        if self.calls == self.at and self.when == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def create(self, path: Path) -> int:
        self._now("before")
        result = super().create(path)
        self._done()
        return result

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
        self._now("before")
        if self.calls == self.at and self.when == "half":
            data = b"".join(buffers)
            os.write(descriptor, data[: len(data) // 2])
            self._now("half")
        result = super().write(descriptor, buffers)
        self._done()
        return result

    def truncate(self, descriptor: int, length: int) -> None:
        self._now("before")
        super().truncate(descriptor, length)
        self._done()

    def sync(self, descriptor: int) -> None:
        self._now("before")
        super().sync(descriptor)
        self._done()

    def sync_directory(self, path: Path) -> None:
        self._now("before")
        super().sync_directory(path)
        self._done()

    def replace(self, source: Path, target: Path) -> None:
        self._now("before")
        super().replace(source, target)
        self._done()

    def remove(self, path: Path) -> None:
        self._now("before")
        super().remove(path)
        self._done()

    def _done(self) -> None:
        self.calls += 1


class FullFiles(Files):
    """A disk with room for `room` more bytes; a write that goes beyond is cut short, the next one fails."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written


# Forked from a process without threads; that process imports once what each child needs.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.buffer.victims"])


def run_until_killed(work: Callable[..., None], *args: Any) -> tuple[str, bool]:
    """Run `work(say, *args)` in a child; returns the lines that it said, and whether it was killed.

    `work` must be a function of a module. AssertionError when it failed otherwise.
    """
    reading, writing = _processes.Pipe(duplex=False)
    child = _processes.Process(target=_work, args=(writing, work, args))
    child.start()
    writing.close()
    said = ""
    with contextlib.suppress(EOFError):
        while True:
            said += reading.recv_bytes().decode() + "\n"
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), f"the child failed with status {child.exitcode}"
    return said, child.exitcode != 0


def _work(writing: Connection, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    work(lambda *words: writing.send_bytes(" ".join(map(str, words)).encode()), *args)
