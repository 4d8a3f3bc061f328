"""One arm by the wall clock, seen from its station: its two processes kept alive, its episodes started and followed.

Imports no torch.
"""

import math
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import zmq
from msgspec import structs

from robotlearn.edge import local
from robotlearn.edge.server_place import ServerPlace
from robotlearn.edge.shared_frames import Memory, NotShared, SharedFrames, Slot
from robotlearn.errors import ProcessError, WireError
from robotlearn.processes import REFUSED, Child, Keeper, stop_all

HUNG_S = 60.0
"""A process that says nothing for so long is killed and started again: it holds an episode."""


LOST_S = 3.0
"""A policy server that another station keeps is taken for gone after so long without a word."""

HAS_SAID_WHY = "and has said why"
"""How the error ends whose reason stands elsewhere: what the process printed."""

LEASE_S = 2.0
"""[s] The arm stops when its station is silent for so long."""

_COUNTED = ("steps", "starved", "missed", "clipped", "dropped_answers", "lost_lines")


class Listener(Protocol):
    """Who is told what the arm does; each episode that was started ends with its last line, a preview, or `broken`."""

    def hear(self, message: local.Begin | local.Line | local.Preview) -> None:
        """The next message of the running episode: none is missing before it. WireError, ValueError and KeyError mean
        that it makes no sense, and the episode is given up.
        """

    def broken(self, why: str) -> None:
        """The running episode ended in another way than its task says."""


class PacedArm:
    """Keeps an arm process and a policy server alive and their local sockets; starts one episode at a time.

    What arrives from the arm is a line per control step; a line that is missing (the arm never waits to send one) makes
    the rest of its episode worthless: it is given up. Used by one thread.
    """

    def __init__(
        self,
        name: str,
        listener: Listener,
        arguments: Callable[[str], list[str]],
        *,
        say: Callable[[str], object],
        logs: Path | None = None,
        place: ServerPlace | None = None,
    ) -> None:
        """Start both. `arguments(part)` is the command line of the child `part` ("arm", "policy-server") up to the
        endpoints. `say` is told in words what goes wrong. `logs`: a folder; what a child prints goes to PART.log in
        there, not to this process's own streams. `place`: of the policy server, closed with this; None: its own.
        """
        self.name = name
        self.arm: local.ArmState | None = None
        self.server: local.ServerState | None = None
        self.active: int | None = None
        """The episode that runs."""
        self.started = self.gaps = 0
        self._listener, self._say = listener, say
        self._counts_before: Counter[str] = Counter()
        self._next_step: int | None = None
        self._renew_at = 0.0
        self._memory: Memory | None = None
        self._frames: SharedFrames | None = None  # of that memory, if it could be opened; else why not
        self._no_frames = ""
        self._taken = 0
        self._fault = ""
        self._place = ServerPlace() if place is None else place
        # A short path: the name of a Unix socket has about 100 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
        station = f"ipc://{self._folder}/station"
        self._context = zmq.Context()
        self._socket = local.local_socket(self._context, zmq.ROUTER, queue=65536)
        # An arm process that was started again takes over the name of the one before.
        self._socket.router_handover = True
        self._socket.bind(station)
        self._states = local.local_socket(self._context, zmq.SUB)
        self._states.subscribe(b"")
        self._states.connect(self._place.states)
        self._poller = zmq.Poller()
        for each in (self._socket, self._states):
            self._poller.register(each, zmq.POLLIN)
        ends = {"arm": ["--station", station], "policy-server": ["--states", self._place.states]}

        def start(part: str) -> Child:
            line = [*arguments(part), "--server", self._place.server, *ends[part]]
            return Child(part, line, logs / f"{part}.log" if logs is not None else None)

        self._start = start
        self._heard: dict[str, float] = {}  # when each process last told how it is
        self._keepers = {"arm": Keeper(partial(start, "arm"))}
        self._keep_server()

    @property
    def version(self) -> int:
        """The version that the policy server serves, -1 before the first."""
        return self.server.version if self.server is not None else -1

    @property
    def counts(self) -> Counter[str]:
        """The counts of `ArmState`, over all arm processes there were; of one that was killed what it told last."""
        return self._counts_before + _counts(self.arm)

    @property
    def idle(self) -> bool:
        """The arm is there and rests: an episode may be started."""
        arm = self.arm
        ready = arm is not None and arm.state == "resting" and arm.token is not None
        return ready and self.active is None and arm.episode <= self.started

    def start(self) -> int:
        """Tell the idle arm to begin an episode; returns its number, 1 for the first."""
        self.started += 1
        self.active, self._next_step, self._fault = self.started, None, ""
        assert self.arm is not None and self.arm.token is not None
        self._send(local.Start(self.active, self.arm.token))
        return self.active

    def turn(self) -> None:
        """One turn of the caller's loop: look after the processes, hear what has come; 20 ms at most if nothing has.

        Raises ProcessError when a child ends for a fault that its user must mend.
        """
        self._keep_server()
        for name, keeper in self._keepers.items():
            if (silent := self._silence(name)) > HUNG_S:
                self._say(f"{self.name}: the {name} process says nothing for {silent:.0f} s and is killed")
                keeper.child.kill()
            status = keeper.tend()
            if status == REFUSED:
                raise ProcessError(f"edge {self.name}: its {name} process can't work, {HAS_SAID_WHY}")
            if status is not None:
                self._lost(name, status)
        if self.arm is not None and time.monotonic() > self._renew_at:
            self._renew_at = time.monotonic() + LEASE_S / 4
            frames = self._no_frames if self._frames is None else self._frames.memory.name
            self._send(local.Hold(f"{socket.gethostname()}:{os.getpid()}", LEASE_S, frames, self._taken))
        self._receive()

    def close(self) -> None:
        """End both processes, the arm stopped and what it said last heard. Idempotent."""
        if self._socket.closed:
            return
        stop_all([keeper.child for keeper in self._keepers.values()], patience_s=4.0)
        self._receive(timeout_ms=0)
        self._open(None)
        self._socket.close()
        self._states.close()
        self._context.term()
        self._place.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_server(self) -> None:
        if "policy-server" in self._keepers:
            return
        if self._place.keeps():
            self._keepers["policy-server"] = Keeper(partial(self._start, "policy-server"))
            self._heard.pop("policy-server", None)
        elif self._silence("policy-server") > LOST_S:
            self.server = None  # its keeper is gone, and nobody has taken over yet

    def _silence(self, part: str) -> float:
        """Seconds since it told how it is; below 0 where it never did."""
        return time.monotonic() - self._heard.get(part, math.inf)

    def _send(self, message: local.AnyMessage) -> None:
        self._socket.send_multipart([self.name.encode(), local.encode(message)])

    def _lost(self, name: str, status: int) -> None:
        self._say(f"{self.name}: the {name} process ended with status {status}; it is started again")
        self._heard.pop(name, None)
        if name == "arm":
            self._counts_before, self.arm = self.counts, None
            self._open(None)
            self._break("its arm process ended")
        else:
            self.server = None

    def _break(self, why: str) -> None:
        if self.active is not None:
            self.active = None
            self._listener.broken(why)

    def _receive(self, timeout_ms: int = 20) -> None:
        if not self._poller.poll(timeout_ms):
            return
        for end in (self._states, self._socket):
            self._drain(end)

    def _drain(self, end: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                self._take(local.decode(end.recv_multipart(zmq.NOBLOCK)[-1]))
            except zmq.Again:
                return
            except (WireError, ValueError, KeyError) as error:
                # Half of it may have been taken: what follows of this episode can't be trusted.
                self._next_step, self._fault = None, "a message of it made no sense"
                self._say(f"{self.name}: dropped a malformed local message: {error}")

    def _open(self, memory: Memory | None) -> None:
        """From now on the arm's images lie in this memory, if in any."""
        if memory == self._memory:
            return
        if self._frames is not None:
            self._frames.close()
        self._memory, self._frames, self._no_frames, self._taken = memory, None, "", 0
        try:
            self._frames = None if memory is None else SharedFrames(memory)
        except NotShared as error:
            self._no_frames = str(error)

    def _with_images[M: local.Begin | local.Line | local.Preview](self, message: M) -> M:
        """Raises WireError for images that can't be there, or aren't any more."""
        numbers = [value.data.number for value in message.observations.values() if isinstance(value.data, Slot)]
        if not numbers:
            return message
        message = structs.replace(message, observations=local.fetched(message.observations, self._frames))
        self._taken = max(self._taken, *numbers)
        return message

    def _take(self, message: local.AnyMessage) -> None:
        if isinstance(message, local.Begin | local.Line | local.Preview):
            message = self._with_images(message)
        match message:
            case local.Line() if message.episode == self.active and self._next_step is not None:
                self._take_line(message, self._next_step)
            case local.Begin() if message.episode == self.active:
                self._listener.hear(message)
                self._next_step = 0
            case local.Preview() if message.episode == self.active:
                self.active = None
                self._listener.hear(message)
            case local.ArmState():
                self.arm = message
                self._open(message.memory)
                self._heard["arm"] = time.monotonic()
                if message.state in ("resting", "e-stopped") and message.episode == self.active:
                    # At rest again without a last line: it was stopped in mid-episode, or a line was lost.
                    self._break(self._fault or "it was left unfinished")
            case local.ServerState():
                self.server = message
                self._heard["policy-server"] = time.monotonic()

    def _take_line(self, line: local.Line, expected: int) -> None:
        if line.step != expected:
            self.gaps += 1
            self._say(f"{self.name}: {line.step - expected} lines of episode {line.episode} are missing")
            self._next_step, self._fault = None, "lines of it are missing"
            return
        self._next_step = expected + 1
        if line.terminated or line.truncated:
            self.active = None  # before the listener is told, who may look whether the arm is at work
        try:
            self._listener.hear(line)
        except Exception:
            self.active = line.episode  # broken, as soon as the arm rests
            raise


def _counts(arm: local.ArmState | None) -> Counter[str]:
    return Counter() if arm is None else Counter({name: getattr(arm, name) for name in _COUNTED})
