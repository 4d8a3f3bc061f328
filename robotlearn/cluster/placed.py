"""A process that runs under a Ray actor, seen from the driver like a `Child` of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from robotlearn.cluster.host import Host, Part, Report

SAY_AFTER_S = 5.0
ACTOR_DIED = -9


class PlacedChild:
    """Creates the actor at once, without waiting for it, and takes what it reports whenever `status` is asked."""

    def __init__(
        self,
        name: str,
        part: Part,
        options: dict[str, Any],
        waits_for: Callable[[], str],
        began: Callable[[Report], None],
        say: Callable[[str], None],
    ) -> None:
        """`options` tell Ray where the actor goes; `waits_for()` says what for while it isn't there, `began` takes its
        first report, `say` shows a line.
        """
        self.name = name
        self.last: Report | None = None
        self.said: list[str] = []
        """The last few lines of its output."""
        self._waits_for, self._began, self._say, self._forward = waits_for, began, say, not part.edge
        # The supervision is the driver's: it knows with which arguments a process goes on. So no restart by Ray.
        self._actor: Any = ray.remote(Host).options(**options, max_restarts=0, max_concurrency=2).remote(part)
        self._next = self._actor.start.remote()
        self._status: int | None = None
        self._since: float | None = time.monotonic()
        self._gone = False

    @property
    def status(self) -> int | None:
        """The exit status, `ACTOR_DIED` when the actor was killed or its node lost, or None while it runs."""
        while self._status is None and ray.wait([self._next], timeout=0)[0]:
            self._take()
        if self.last is None and self._since is not None and time.monotonic() - self._since > SAY_AFTER_S:
            self._since = None
            self._say(f"{self.name} waits for {self._waits_for()}")
        return self._status

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.status is None and self.last is not None:
            self._actor.terminate.remote()
        elif self.status is None:
            self.kill()  # it has not begun

    def wait(self, timeout: float) -> None:
        """Wait until it has ended, at most so many seconds."""
        deadline = time.monotonic() + timeout
        while not self._gone and self.status is None and time.monotonic() < deadline:
            ray.wait([self._next], timeout=max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End actor and process at once, if they still run; the actor's place is free afterwards. Idempotent."""
        if not self._gone:
            self._gone = True
            ray.kill(self._actor)

    def _take(self) -> None:
        try:
            report: Report = ray.get(self._next)
        except RayActorError as error:
            self._status = ACTOR_DIED
            # Before its first report it never ran: robotlearn is not installed on that node, say.
            reason = "" if self.last is not None else f": {str(error).strip().splitlines()[-1]}"
            self._say(f"the Ray actor of {self.name} died{reason}")
            return
        except RayTaskError as error:
            self._status = 1
            self._say(f"{self.name} can't be started: {error.cause}")
            return
        if self.last is None:
            self._began(report)
        self.last, self._status = report, report.status
        self.said = [*self.said, *report.output.splitlines()][-3:]
        if self._forward and report.output:
            print(report.output, end="", file=sys.stdout, flush=True)
        if report.status is None:
            self._next = self._actor.report.remote()
