"""How an arm process tells everyone on its machine how its robot is: a file in the robot's runtime folder."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from hal.control_loop import ControlLoop
from hal.ownership import Ownership
from hal.runtime import write_json

PERIOD_S = 0.5
"""A state that is older than four of these is of a process that hangs."""


class ArmStateFile:
    """Writes `state.json` twice a second, from `with` to the end of it; what ended it stays there as its reason.

    Its keys: name, robot (the spec's name), driver, address, pid; state: offline, idle, leased, running, fault or
    e-stopped; reason; holder of the lease, or null; rate_hz and missed of its ticks; temperature [degrees C], current
    [A] and voltage [V] by joint, where the driver knows them; realtime: it has real-time priority; frames: how camera
    images go to who reads them; seen (wall time).
    """

    def __init__(self, owned: Ownership, *, robot: str, driver: str, address: str = "") -> None:
        self._owned, self._control = owned, None
        self._fixed = {"name": owned.name, "robot": robot, "driver": driver, "address": address, "pid": os.getpid()}
        self._before = (time.monotonic(), 0)
        self.frames: Callable[[], str] = str
        """Tells how images go; called on this one's thread."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arm state", daemon=True)

    def watch(self, control: ControlLoop) -> None:
        """From now on it is about this one."""
        self._control: ControlLoop | None = control

    def __enter__(self) -> Self:
        self._write("offline", "starts")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()
        self._write("fault" if error is not None else "offline", " ".join(str(error or "").split()))

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            if (control := self._control) is None:
                continue
            state, reason = _state(control)
            try:
                measured = self._measured(control)
            except Exception as error:  # a driver's telemetry may be anything; its arm works all the same
                measured, reason = {}, f"{reason}; its telemetry can't be told: {error!r}".removeprefix("; ")
            self._write(state, reason, **measured)

    def _measured(self, control: ControlLoop) -> dict[str, Any]:
        (then, before), done = self._before, control.done
        self._before = (now := time.monotonic(), done)
        spec, telemetry = control.spec, control.health().telemetry
        return {
            "holder": control.leases.holder if control.leases is not None else None,
            "rate_hz": round((done - before) / (now - then), 1),
            "missed": control.missed,
            "realtime": control.realtime,
            "frames": self.frames(),
            **{
                what: {name: float(x) for name, x in zip(spec.names, values, strict=True) if math.isfinite(x)}
                for what, values in telemetry.items()
            },
        }

    def _write(self, state: str, reason: str, **more: Any) -> None:
        # A disk that is full must not end the process that stops the arm; a file that grows old says enough.
        with contextlib.suppress(OSError):
            write_json(
                self._owned.folder / "state.json",
                {**self._fixed, "state": state, "reason": reason, "holder": None, **more, "seen": time.time()},
            )


def _state(control: ControlLoop) -> tuple[str, str]:
    health = control.health()
    if health.state in ("fault", "disconnected"):
        return ("fault" if health.state == "fault" else "offline"), health.detail
    if control.estopped:
        return "e-stopped", health.detail
    if control.activity == "running":
        return "running", health.detail
    holder = control.leases.holder if control.leases is not None else None
    return ("leased" if holder is not None else "idle"), health.detail
