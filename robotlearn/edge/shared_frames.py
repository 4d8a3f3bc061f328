"""Camera frames between two processes of one user on one machine: a ring in memory that one writes and others read.

The memory is a memfd: it has no name in any folder, and is gone with the last process that holds it, however that one
ends. A reader opens it under /proc by process and descriptor, and only where the link there bears the random name that
the writer told. Both copy with pread and pwrite. So whatever a peer says of numbers and sizes, the worst is a read that
comes back short: nothing is mapped that another could cut off.

A message then carries where a frame lies (`Slot`), not the frame. The ring's writer never waits: a slot that a reader
was too slow for holds another frame by then, and the reader is told so.
"""

import os
import secrets
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from robotlearn.errors import WireError

_PREFIX = "robotlearn-frames-"
_MARK = 8  # [bytes] at a slot's start: the number of what lies in it; 0 while that is being written
MAX_SLOTS, MAX_SLOT_BYTES = 1024, 1 << 30


class NotShared(WireError):
    """Raised when frames can't go through shared memory here; says why, in words that follow "because"."""


class Overwritten(WireError):
    """Raised when a frame is read too late: newer ones took its place."""


class Slot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where bytes lie: in the slot of the ring's write of that number (from 1), so many bytes behind its start."""

    number: Annotated[int, Meta(ge=1, le=2**62)]
    offset: Annotated[int, Meta(ge=0, le=MAX_SLOT_BYTES)]


class Memory(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a reader opens: a descriptor of the process `pid`, known by its random name."""

    pid: Annotated[int, Meta(ge=1, le=2**31)]
    descriptor: Annotated[int, Meta(ge=0, le=2**31)]
    name: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    slots: Annotated[int, Meta(ge=1, le=MAX_SLOTS)]
    slot_bytes: Annotated[int, Meta(ge=1, le=MAX_SLOT_BYTES)]

    @property
    def link(self) -> str:
        """Where the link of a process's descriptor to this memory leads, on Linux."""
        return f"/memfd:{_PREFIX}{self.name} (deleted)"

    def at(self, number: int) -> int:
        """The first byte of the slot of that write."""
        return number % self.slots * (_MARK + self.slot_bytes)


def machine() -> str:
    """What processes of one machine have in common until it starts again; "" where frames can't be shared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class FrameRing:
    """The writer's end. Takes memory as slots are used for the first time; `write` copies, and never waits.

    Used by one thread.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        """Raises NotShared where the system can't."""
        if not hasattr(os, "memfd_create"):
            raise NotShared("this system has no memfd, only Linux has")
        name = secrets.token_hex(16)
        slot_bytes += -slot_bytes % _MARK  # so that no mark lies across two pages, which are not written as one
        try:
            self._file = os.memfd_create(_PREFIX + name)
        except OSError as error:
            raise NotShared(f"no shared memory was given: {error}") from error
        os.fchmod(self._file, 0o600)
        self.memory = Memory(os.getpid(), self._file, name, slots, slot_bytes)
        os.ftruncate(self._file, slots * (_MARK + slot_bytes))
        self.number = 0
        """How many times it was written."""

    def write(self, frames: Sequence[np.ndarray]) -> list[Slot]:
        """Put these, at least one, in place of the oldest; where each lies. Raises NotShared: too large, no memory."""
        frames = [np.ascontiguousarray(frame) for frame in frames]
        ends = list(accumulate(frame.nbytes for frame in frames))
        if ends[-1] > self.memory.slot_bytes:
            raise NotShared(f"images of {ends[-1]} bytes are larger than the spec says, {self.memory.slot_bytes}")
        number = self.number + 1
        at = self.memory.at(number)
        try:
            os.pwrite(self._file, bytes(_MARK), at)
            done = os.pwritev(self._file, frames, at + _MARK)
            os.pwrite(self._file, number.to_bytes(_MARK, "little"), at)
        except OSError as error:
            raise NotShared(f"its memory can't be written: {error}") from error
        if done != ends[-1]:
            raise NotShared(f"its memory took {done} of {ends[-1]} bytes")
        self.number = number
        return [Slot(number, end - frame.nbytes) for frame, end in zip(frames, ends, strict=True)]

    def close(self) -> None:
        """Idempotent. Those who read go on holding the memory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class SharedFrames:
    """A reader's end. Used by one thread."""

    def __init__(self, memory: Memory) -> None:
        """Open what a peer offers, and only if it is such a memory of this user's. Raises NotShared."""
        self.memory = memory
        path = f"/proc/{memory.pid}/fd/{memory.descriptor}"
        try:
            # Before anything is opened: a descriptor of that number may be a device or a pipe.
            if os.readlink(path) != memory.link:
                raise NotShared(f"process {memory.pid} is another one here: it runs in another container")
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotShared(f"process {memory.pid} isn't there: it has ended, or runs in another container") from None
        except PermissionError:
            raise NotShared(f"process {memory.pid} is another user's, or keeps its descriptors to itself") from None
        except OSError as error:
            raise NotShared(f"its memory can't be opened: {error}") from None
        try:
            found = os.fstat(self._file)
            if os.readlink(f"/proc/self/fd/{self._file}") != memory.link:
                raise NotShared("another file took the place of its memory")
            if found.st_uid != os.geteuid():
                raise NotShared(f"its memory is another user's ({found.st_uid})")
            if found.st_size != memory.slots * (_MARK + memory.slot_bytes):
                raise NotShared(f"its memory has {found.st_size} bytes, not those that it told")
        except BaseException:
            os.close(self._file)
            raise

    def read(self, slot: Slot, size: int) -> bytes:
        """`size` bytes that lie there. Raises Overwritten when they are gone, WireError when they can't be there."""
        if not 0 <= size <= self.memory.slot_bytes - slot.offset:
            raise WireError(f"{size} bytes at {slot.offset} of a slot of {self.memory.slot_bytes}")
        at = self.memory.at(slot.number)
        data = os.pread(self._file, size, at + _MARK + slot.offset)
        # Looked at after the copy: a writer that came in between has changed it before it changed a byte of the frame.
        mark = int.from_bytes(os.pread(self._file, _MARK, at), "little")
        if len(data) != size or mark != slot.number:
            raise Overwritten(f"frame {slot.number} was read too late, its slot holds {mark or 'none'} by now")
        return data

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class FramesWay:
    """How frames go to one reader, as people are shown it. Used by one thread."""

    def __init__(self, otherwise: str) -> None:
        """`otherwise`: what messages go through, tcp or ipc."""
        self.shared = False
        self.why = ""
        """Why they don't go through shared memory, if they don't."""
        self._otherwise, self._bytes, self._many, self._since = otherwise, 0, 0, time.monotonic()

    def sent(self, size: int) -> None:
        """Frames of so many bytes went in a message."""
        self._bytes += size
        self._many += self.shared

    def told(self) -> str:
        """`shared memory` or `tcp (12.3 MB/s: another machine)`, the rate being that since the last call."""
        if self.shared:
            return "shared memory" + (f" ({self._many} in messages)" if self._many else "")
        now = time.monotonic()
        rate = self._bytes / max(now - self._since, 1e-3)
        self._bytes, self._since = 0, now
        return f"{self._otherwise} ({rate / 1e6:.1f} MB/s" + (f": {self.why})" if self.why else ")")
