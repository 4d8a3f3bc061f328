"""`FeetechBus`: a half-duplex bus of STS3215 servos at the far end of a pseudo-terminal.

Packets and registers are those of Feetech's STS/SMS series: 0xFF 0xFF id length instruction|status parameters checksum,
with the memory table of the STS3215 manual. What the servos do with their registers is `Servos`' business.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from hal.errors import DriverError
from hal.priority import EMULATOR, ask_for_priority

_HEADER = b"\xff\xff"
_BROADCAST = 0xFE
_PING, _READ, _WRITE, _SYNC_READ, _SYNC_WRITE = 1, 2, 3, 0x82, 0x83
_LONGEST = 250  # bytes that a length field can announce here
MEMORY = 128
"""Bytes of a servo's memory table."""


class Register(NamedTuple):
    """Where a value is in the memory table; `sign` is the bit that makes it negative, 0 when it can't be."""

    address: int
    size: int
    sign: int = 0

    def get(self, memory: bytes | bytearray) -> int:
        raw = int.from_bytes(memory[self.address : self.address + self.size], "little")
        if self.sign and raw >> self.sign & 1:
            return -(raw & ~(1 << self.sign))
        return raw

    def set(self, memory: bytearray, value: int) -> None:
        raw = abs(value) | 1 << self.sign if self.sign and value < 0 else value
        memory[self.address : self.address + self.size] = raw.to_bytes(self.size, "little")


FIRMWARE = Register(0, 2)
MODEL = Register(3, 2)
ID = Register(5, 1)
REPLIES = Register(8, 1)
LOWER, UPPER = Register(9, 2), Register(11, 2)
MAX_TORQUE = Register(16, 2)
OFFSET = Register(31, 2, 11)
MODE = Register(33, 1)
PROTECTIVE_TORQUE, PROTECTION_TIME, OVERLOAD_TORQUE = Register(34, 1), Register(35, 1), Register(36, 1)
TORQUE_ENABLE = Register(40, 1)
ACCELERATION = Register(41, 1)
GOAL = Register(42, 2, 15)
GOAL_VELOCITY = Register(46, 2, 15)
TORQUE_LIMIT = Register(48, 2)
POSITION, VELOCITY, LOAD = Register(56, 2, 15), Register(58, 2, 15), Register(60, 2, 10)
VOLTAGE, TEMPERATURE = Register(62, 1), Register(63, 1)
STATUS, MOVING = Register(65, 1), Register(66, 1)
CURRENT = Register(69, 2)
OVERLOAD = 0x20
"""The bit of `STATUS`, and of the error byte of every reply, that says so."""


class Servos(Protocol):
    """What the bus reads and writes: memory tables by id, and those who keep them true. Called by the bus's thread."""

    @property
    def memory(self) -> Mapping[int, bytearray]: ...

    def refresh(self) -> None:
        """Brings what is measured up to date: something is about to be read."""

    def written(self, servo: int, address: int, size: int) -> None:
        """So many bytes from `address` on were just written."""


class FeetechBus:
    """Serves the servos on a serial port that is a link at `path`, from `plug_in` to `close`.

    Answers come at once, those to a sync read in one piece; a real bus at 1 Mbaud takes 10 microseconds a byte.

    What may go wrong on a real bus can be made to: `dead` holds ids that don't answer; `torn` is how many bytes the end
    of the next reply loses, `corrupt` how many of the next replies have a wrong checksum, `late` by how many seconds
    the next answer is late; `unplug` takes the port away, with an I/O error for who has it open, and `plug_in` brings
    it back under the same path.
    """

    def __init__(self, servos: Servos, path: Path) -> None:
        self._servos, self._path = servos, path
        self.dead: set[int] = set()
        self.torn = self.corrupt = 0
        self.late = 0.0
        self._thread: threading.Thread | None = None
        self._end = -1

    def plug_in(self) -> None:
        """The port appears. Does nothing while it is there.

        Raises DriverError when something that is no link has its path.
        """
        if self._thread is not None:
            return
        if self._path.exists() and not self._path.is_symlink():
            raise DriverError(f"{self._path} is in the way: an emulated port is a link, and this is none")
        port, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(port, False)  # a host that sends and never reads must not hold the bus up
        link = self._path.with_name(f"{self._path.name}.new")
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(slave))
        link.rename(self._path)
        ending, self._end = os.pipe()
        # The slave's end stays open here, so that a host may close and open the port as often as it likes.
        self._thread = threading.Thread(target=self._serve, args=(port, slave, ending), name="feetech-bus", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """The port is gone. Does nothing while there is none."""
        if self._thread is None:
            return
        self._path.unlink(missing_ok=True)
        os.close(self._end)
        self._thread.join()
        self._thread = None

    close = unplug

    def _serve(self, port: int, slave: int, ending: int) -> None:
        ask_for_priority(EMULATOR)
        buffer = bytearray()
        try:
            while True:
                ready = select.select([port, ending], [], [])[0]
                if ending in ready:
                    return
                buffer += os.read(port, 4096)
                for packet in _packets(buffer):
                    if not (answer := b"".join(self._answer(packet))):
                        continue
                    if self.late:
                        time.sleep(self.late)
                        self.late = 0.0
                    with contextlib.suppress(OSError):  # the host is gone or doesn't read: so it is for a servo
                        os.write(port, answer)
        finally:
            for descriptor in (port, slave, ending):
                os.close(descriptor)

    def _answer(self, packet: bytes) -> Iterator[bytes]:
        """Does what the packet says; the replies to it."""
        servo, instruction, parameters = packet[0], packet[2], packet[3:]
        there = [each for each in self._servos.memory if each not in self.dead]
        asked = there if servo == _BROADCAST else [servo] if servo in there else []
        if instruction == _PING:
            for each in asked:
                yield self._reply(each)
        elif instruction == _READ and servo != _BROADCAST and len(parameters) == 2 and parameters[1] <= MEMORY:
            self._servos.refresh()
            for each in asked:
                yield self._reply(each, *parameters)
        elif instruction == _WRITE and len(parameters) >= 2:
            for each in asked:
                self._write(each, parameters[0], parameters[1:])
                if servo != _BROADCAST:
                    yield self._reply(each)
        elif instruction == _SYNC_READ and len(parameters) > 2 and parameters[1] <= MEMORY:
            self._servos.refresh()
            for each in parameters[2:]:
                if each in there:
                    yield self._reply(each, *parameters[:2])
        elif instruction == _SYNC_WRITE and len(parameters) > 2:
            size = parameters[1]
            for start in range(2, len(parameters) - size, size + 1):
                if parameters[start] in there:
                    self._write(parameters[start], parameters[0], parameters[start + 1 : start + 1 + size])

    def _write(self, servo: int, address: int, data: bytes) -> None:
        if address + len(data) <= MEMORY:
            self._servos.memory[servo][address : address + len(data)] = data
            self._servos.written(servo, address, len(data))

    def _reply(self, servo: int, address: int = 0, size: int = 0) -> bytes:
        memory = self._servos.memory[servo]
        body = bytes([servo, size + 2, STATUS.get(memory)]) + memory[address : address + size]
        checksum = _checksum(body)
        if self.corrupt:
            self.corrupt -= 1
            checksum ^= 0xFF
        packet = _HEADER + body + bytes([checksum])
        packet, self.torn = packet[: len(packet) - min(self.torn, len(packet))], 0
        return packet


def _packets(buffer: bytearray) -> list[bytes]:
    """Takes the whole packets off the buffer: id, length, instruction, parameters. Damaged ones are dropped."""
    found = []
    while (start := buffer.find(_HEADER)) >= 0 and len(buffer) - start >= 4:
        del buffer[:start]
        length = buffer[3]
        if buffer[2] == 0xFF or not 2 <= length <= _LONGEST:
            del buffer[:1]
            continue
        if len(buffer) < length + 4:
            break
        body, checksum = bytes(buffer[2 : length + 3]), buffer[length + 3]
        if _checksum(body) == checksum:
            found.append(body)
            del buffer[: length + 4]
        else:
            del buffer[:1]
    return found


def _checksum(body: bytes) -> int:
    return ~sum(body) & 0xFF
