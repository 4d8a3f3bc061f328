"""`Taken`: a robot that this process has for itself, with its control loop, its lease and its e-stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hal.errors import DriverError, LeaseError
from hal.estop import ALL, EStop
from hal.estop_input import Contact
from hal.owned_loop import owned_loop
from hal.ownership import Ownership
from hal.robot import Robot

TTL_S = 2.0


class Taken:
    """From `with` to the end of it; the arm then stops and is given back.

    A simulator runs by the wall clock. robot: one that isn't connected. button: its hardware e-stop.

    Raises OwnershipError when another process has robot or port; what drivers raise.
    """

    def __init__(self, robot: Robot, *, holder: str, name: str | None = None, button: Contact | None = None) -> None:
        self.spec, self.name = robot.spec, name or robot.spec.name
        self._owned = Ownership(self.name, *robot.addresses())
        self.loop = owned_loop(robot, self._owned, button=button)
        assert self.loop.estop is not None and self.loop.leases is not None
        self.estop, self._leases = self.loop.estop, self.loop.leases
        self._holder = holder
        self._closing = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def remedy(self) -> str:
        """What a person at the keys does after a stop."""
        return "type CLEAR, in capitals, to clear it" if self.estop.pressed else "press Enter to go on"

    def clear(self, say: Callable[[str], object]) -> bool:
        """Clears a latched e-stop; whether it was latched and isn't any more. Where it is so still, says why."""
        if not self.estop.pressed:
            return False
        try:
            self.loop.clear_estop()
        except DriverError as error:
            say(str(error))
        if self.estop.pressed:
            every = ", for all robots: robotlearn estop --clear --all" if EStop(ALL).pressed else ""
            say(f"still pressed: {self.estop.reason()}{every}")
        return not self.estop.pressed

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._owned)
            stack.enter_context(self.loop)  # which may take longer than a lease lasts
            self.loop.token = self._leases.acquire(self._holder, TTL_S).token
            self._renewal.start()
            stack.callback(self._closing.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _renew(self) -> None:
        while not self._closing.wait(TTL_S / 3):
            token = self.loop.token
            assert token is not None
            try:
                self._leases.renew(token)
            except LeaseError:  # somebody took it: the loop stops the arm, and says so
                return
