"""A device that a test moves."""

from __future__ import annotations

from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Intent


class Scripted(Device):
    """Wants what the test says; with an error it is gone."""

    name = "scripted"

    def __init__(self, on_estop: object = None) -> None:
        self.intent = Intent()
        self.error = ""
        self.released = 0
        self.closed = False

    @property
    def help(self) -> tuple[str, ...]:
        return ()

    def read(self) -> Intent:
        if self.error:
            raise DeviceError(self.error)
        return self.intent

    def release(self) -> None:
        self.released += 1

    def close(self) -> None:
        self.closed = True
