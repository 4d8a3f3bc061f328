"""`Taken`: a robot that this process has for itself, with its control loop, its lease and its e-stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from hal.control_loop import ControlLoop
from hal.errors import LeaseError
from hal.estop import EStop
from hal.lease import Leases
from hal.ownership import Ownership
from hal.realtime import RealTime
from hal.registry import make_robot
from hal.robot import Robot, Steppable
from hal.spec import RobotSpec

TTL_S = 2.0


class Taken:
    """From `with` to the end of it; the arm then stops and is given back.

    A simulator runs by the wall clock. robot: one that isn't connected, made already; else `driver` makes it.

    Raises OwnershipError when another process has robot or port; what drivers raise.
    """

    def __init__(
        self,
        spec: RobotSpec,
        *,
        holder: str,
        name: str | None = None,
        driver: str | None = None,
        options: Mapping[str, Any] | None = None,
        robot: Robot | None = None,
    ) -> None:
        options = dict(options or {})
        made = make_robot(spec, driver, **options) if robot is None else robot
        if made.capability(Steppable) is not None:  # type: ignore[type-abstract]
            made = RealTime(made)
        self.spec, self.name = spec, name or spec.name
        self.estop = EStop(self.name)
        address = str(options.get("port") or options.get("command") or options.get("address") or "")
        self._owned = Ownership(self.name, address)
        self._leases = Leases(self._owned.folder / "token")
        self.loop = ControlLoop(made, estop=self.estop, leases=self._leases, beat=self._owned.beat)
        self._holder = holder
        self._closing = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def press(self, by: str) -> None:
        """The e-stop, from any thread, as `ControlLoop.press_estop`."""
        self.loop.press_estop(by)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._owned)
            self.loop.token = self._leases.acquire(self._holder, TTL_S).token
            stack.enter_context(self.loop)
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
