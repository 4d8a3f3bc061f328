"""A served arm, in this process or one of its own, and who talks to it; shared by the tests of remote robots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer
import zmq
from typer.testing import CliRunner

import hal
from hal.control_loop import ControlLoop
from hal.owned_loop import owned_loop
from hal.ownership import Ownership
from hal.robot import Array
from robotlearn.commands.estop import estop as estop_command
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.arm_server import ArmServer
from robotlearn.edge.local import Tensor
from robotlearn.edge.remote import RemoteRobot
from robotlearn.wire import sockets
from robotlearn.wire.door import ServerKeys
from tests.waiting import until

CHILD = Path(__file__).with_name("arm_child.py")


class Rig:
    """An arm, served in this process."""

    def __init__(self, robot: hal.Robot, bind: str | None = None, keys: ServerKeys | None = None) -> None:
        self.owned = Ownership("bench").__enter__()
        self.loop = owned_loop(robot, self.owned, also=lambda: self.server.tick())
        assert self.loop.estop is not None and self.loop.leases is not None
        self.estop, self.leases = self.loop.estop, self.loop.leases
        self.server = ArmServer(self.loop, bind or f"ipc://{self.owned.folder}/arm", name="bench", keys=keys)
        self.loop.connect()
        self.server.start()
        self.address = self.server.address

    def close(self) -> None:
        self.server.close()
        self.loop.close()
        self.owned.close()
        self.server.check()


def near(robot: hal.Robot, offset: float = 0.02) -> Array:
    goal = robot.read().position
    goal[0] += offset
    return goal


def drive(robot: RemoteRobot, goal: Array) -> None:
    """Command `goal` once a period until the arm is there."""
    end = time.monotonic() + 30
    while not np.allclose(robot.read().position, goal, atol=1e-9):
        assert time.monotonic() < end, "the arm doesn't get there"
        robot.write(hal.Command(goal))
        robot.wait()


def ticks(loop: ControlLoop, count: int) -> None:
    done = loop.done
    until(lambda: loop.done > done + count, f"{count} ticks")


class Raw:
    """A client without manners: says what it is told to, and hears everything."""

    def __init__(self, address: str, spec: hal.RobotSpec, *, hello: bool = True) -> None:
        self.context = zmq.Context()
        self.socket = sockets.dealer(self.context, messages.FROM_ARM)
        sockets.connect(self.socket, address)
        self.sequence = 0
        self.dim = spec.dim
        if hello:
            agreed = messages.agreed(spec)
            assert isinstance(self.ask(messages.Hello(messages.SCHEMA, "raw", agreed, ())), messages.Welcome)

    def send(self, message: messages.ToArm) -> None:
        self.socket.send(messages.encode(message))

    def ask(self, message: messages.ToArm) -> Any:
        """The next message that isn't a State."""
        self.send(message)
        while True:
            assert self.socket.poll(20_000), "no answer"
            answer = messages.decode_from_arm(self.socket.recv())
            if not isinstance(answer, messages.State):
                return answer

    def next(self) -> int:
        self.sequence += 1
        return self.sequence

    def acquire(self, *, take: bool = False, ttl: float = 60.0) -> messages.Answer:
        return self.ask(messages.Acquire(self.next(), ttl, take))

    def point(
        self, token: int, target: Array, *, sequence: int | None = None, lasts: float = 10.0
    ) -> messages.SetPoint:
        number = self.next() if sequence is None else sequence
        return messages.SetPoint(number, token, Tensor.of(target), time.monotonic() + lasts)

    def rest(self, token: int) -> messages.Answer:
        return self.ask(messages.Rest(self.next(), token, time.monotonic() + 10))

    def close(self) -> None:
        self.socket.close()
        self.context.term()


class Process:
    """An arm process of its own."""

    def __init__(self, name: str = "bench", port: str = "", bind: str = "", hung_s: float = 10.0) -> None:
        self.child = subprocess.Popen(
            [sys.executable, str(CHILD), name, port, bind, str(hung_s)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(CHILD.parents[2])},
        )  # fmt: skip
        assert self.child.stdout is not None
        self.address = self.child.stdout.readline().strip()

    def stats(self) -> dict[str, Any]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        result: dict[str, Any] = json.loads(self.child.stdout.readline())
        return result

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said on stderr, once it has ended by itself."""
        _, errors = self.child.communicate(timeout=30)
        return self.child.returncode, errors

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()


def estop(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(estop_command)
    return CliRunner().invoke(app, list(arguments))
