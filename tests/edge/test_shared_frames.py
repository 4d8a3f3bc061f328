"""Frames in shared memory: whole or not at all, gone with their processes, and nothing else gets opened."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from robotlearn.edge.shared_frames import FrameRing, Memory, NotShared, Overwritten, SharedFrames, Slot
from robotlearn.errors import WireError
from tests.waiting import pause

ROOT = Path(__file__).parents[2]
SHAPE = (480, 640, 3)
SIZE = 480 * 640 * 3

WRITER = """
import sys
import msgspec, numpy as np
from robotlearn.edge.shared_frames import FrameRing
ring = FrameRing(2, 480 * 640 * 3)
print(msgspec.json.encode(ring.memory).decode(), flush=True)
while True:
    ring.write([np.full((480, 640, 3), (ring.number + 1) % 251, np.uint8)])
"""


@contextlib.contextmanager
def writer() -> Iterator[tuple[subprocess.Popen[str], Memory]]:
    """A process that writes frame after frame as fast as it can; each byte of frame n is n modulo 251."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        yield child, msgspec.json.decode(child.stdout.readline(), type=Memory)
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def ring() -> Iterator[FrameRing]:
    made = FrameRing(3, SIZE)
    yield made
    made.close()


@pytest.fixture
def frames(ring: FrameRing) -> Iterator[SharedFrames]:
    opened = SharedFrames(ring.memory)
    yield opened
    opened.close()


def newest(frames: SharedFrames) -> int:
    """The number in the first slot; 0 while it is being written."""
    return int.from_bytes(os.pread(frames._file, 8, 0), "little")


def frame(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def test_frames_come_as_they_are_until_their_slot_is_used_again(ring: FrameRing, frames: SharedFrames) -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (2, 48, 64, 3), np.uint8) for _ in range(2))
    slots = ring.write([left, right[:, ::-1, ::2]])
    for slot, expected in zip(slots, (left, right[:, ::-1, ::2]), strict=True):
        data = frames.read(slot, expected.nbytes)
        np.testing.assert_array_equal(np.frombuffer(data, np.uint8).reshape(expected.shape), expected)
    for value in (1, 2):
        ring.write([frame(value)])
        assert frames.read(slots[0], left.nbytes) == left.tobytes()
    ring.write([frame(3)])
    with pytest.raises(Overwritten, match="frame 1 was read too late, its slot holds 4"):
        frames.read(slots[0], left.nbytes)


def test_no_frame_is_torn_though_its_writer_never_waits() -> None:
    whole = late = 0
    with writer() as (_, memory):
        frames = SharedFrames(memory)
        end = time.monotonic() + 120
        while whole < 100 or late < 100:
            assert time.monotonic() < end, f"{whole} whole frames, {late} late ones"
            if not (number := newest(frames)):
                continue
            try:
                data = frames.read(Slot(number, 0), SIZE)
            except Overwritten:
                late += 1
            else:
                assert data == bytes([number % 251]) * SIZE
                whole += 1
        frames.close()


def test_a_writer_stopped_in_the_middle_of_a_frame_shows_none(ring: FrameRing, frames: SharedFrames) -> None:
    """As if it were killed between two of its writes: the mark says what is there."""
    (slot,) = ring.write([frame(7)])
    os.pwrite(ring._file, bytes(8), ring.memory.at(slot.number))
    os.pwrite(ring._file, bytes(1000), ring.memory.at(slot.number) + 8)
    with pytest.raises(Overwritten, match="holds none by now"):
        frames.read(slot, SIZE)


def test_nothing_is_left_when_its_processes_are_killed() -> None:
    with writer() as (child, memory):
        frames = SharedFrames(memory)
        pause(child.pid)
        child.kill()
        child.wait()
        for index in range(2):  # who reads has what was there, whole or not at all
            number = int.from_bytes(os.pread(frames._file, 8, memory.at(index)), "little")
            if number:
                assert frames.read(Slot(number, 0), SIZE) == bytes([number % 251]) * SIZE
        with pytest.raises(NotShared, match=f"process {memory.pid} isn't there"):
            SharedFrames(memory)
        frames.close()
    assert not [name for name in os.listdir("/dev/shm") if "robotlearn" in name]
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    assert memory.link not in links


# ---- what a peer that lies can do


def altered(ring: FrameRing, **changes: object) -> Memory:
    return msgspec.structs.replace(ring.memory, **changes)


def test_nothing_but_such_a_memory_is_opened(ring: FrameRing, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    device, file = os.open("/dev/null", os.O_RDWR), os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    foreign = os.memfd_create("robotlearn-frames-" + "0" * 32)
    for descriptor in (reading, writing, device, file, foreign):
        with pytest.raises(NotShared, match="is another one here"):
            SharedFrames(altered(ring, descriptor=descriptor))
        os.close(descriptor)
    with pytest.raises(NotShared, match="isn't there"):
        SharedFrames(altered(ring, descriptor=2**20))
    with pytest.raises(NotShared, match="process 1 is"):
        SharedFrames(altered(ring, pid=1))


@pytest.mark.parametrize("name", ["../" * 8 + "etc/shadow", "", "x" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"])
def test_a_name_is_a_number_and_never_a_path(ring: FrameRing, name: str) -> None:
    forged = msgspec.msgpack.encode(altered(ring, name=name))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(forged, type=Memory)


def test_sizes_that_lie_read_nothing(ring: FrameRing, frames: SharedFrames) -> None:
    ring.write([frame(1)])
    for changes in ({"slots": 4}, {"slot_bytes": 2 * SIZE}, {"slots": 1, "slot_bytes": 1 << 30}):
        with pytest.raises(NotShared, match="bytes, not those that it told"):
            SharedFrames(altered(ring, **changes))
    for slot, size in ((Slot(1, 1), SIZE), (Slot(1, 0), SIZE + 1), (Slot(1, 0), 2**62), (Slot(1, 0), -1)):
        with pytest.raises(WireError, match="of a slot of"):
            frames.read(slot, size)
    for slot in (Slot(2, 0), Slot(2**62, 0)):
        with pytest.raises(Overwritten):
            frames.read(slot, SIZE)


def test_a_memory_that_is_cut_off_kills_no_reader(ring: FrameRing, frames: SharedFrames) -> None:
    (slot,) = ring.write([frame(1)])
    for left in (ring.memory.at(slot.number) + 100, 100):
        os.ftruncate(ring._file, left)
        with pytest.raises(Overwritten):
            frames.read(slot, SIZE)


def test_what_does_not_fit_is_refused(ring: FrameRing) -> None:
    with pytest.raises(NotShared, match="larger than the spec says"):
        ring.write([frame(1), frame(2)])


def in_another_user(what: Callable[[], str]) -> str:
    """What a process of the user 65534 makes of it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, what().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_reads_nothing(ring: FrameRing) -> None:
    def opened() -> str:
        try:
            SharedFrames(ring.memory)
        except NotShared as error:
            return str(error)
        return "opened"

    assert "is another user's" in in_another_user(opened)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_not_even_root_reads_another_users(ring: FrameRing, frames: SharedFrames) -> None:
    os.fchown(ring._file, 65534, 65534)
    with pytest.raises(NotShared, match=r"another user's \(65534\)"):
        SharedFrames(ring.memory)


def test_where_there_is_no_memfd_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(NotShared, match="only Linux"):
        FrameRing(2, SIZE)


def test_a_mark_lies_in_one_piece_whatever_the_size_of_an_image() -> None:
    ring = FrameRing(8, 3 * 7 * 5)
    try:
        assert not any(ring.memory.at(number) % 8 for number in range(8))
    finally:
        ring.close()
