"""`Pedal`: a key of an input device as enable switch, where there is no terminal: a foot pedal, a button."""

from __future__ import annotations

from hal.errors import DriverError
from hal.estop_input import KeyContact
from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Intent


class Pedal(Device):
    """Enabled while the key is held; it moves nothing.

    device: such as /dev/input/by-id/...-event-kbd. key: its name or number, as `KeyContact` has it; by default any.

    Raises DeviceError when it can't be read.
    """

    def __init__(self, on_estop: object = None, *, device: str, key: str | int | None = None) -> None:
        """`on_estop` is never called: a pedal has none."""
        try:
            self._key = KeyContact(device, key)
            self._key.open()
        except (OSError, DriverError) as error:
            raise DeviceError(f"pedal {device}: {' '.join(str(error).split())}") from error

    @property
    def help(self) -> tuple[str, ...]:
        return (f"hold the key of {self._key.device} to enable",)

    def read(self) -> Intent:
        try:
            return Intent(enable=self._key.pressed())
        except OSError as error:
            raise DeviceError(f"pedal {self._key.device} is gone") from error

    def close(self) -> None:
        self._key.close()
