"""Robots over the wire with real processes: holders and arm processes that are stopped, killed, started anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hal
from hal.errors import LeaseError, Stopped
from hal.estop import EStop
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.remote import RemoteRobot
from tests.arms import fast_spec
from tests.edge.remote_rig import Process, Raw, drive, estop, near
from tests.fakes import write_spec
from tests.waiting import pause, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("runtime")


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    processes = []

    def started(*arguments: Any, **options: Any) -> Process:
        processes.append(Process(*arguments, **options))
        return processes[-1]

    yield started
    for process in processes:
        process.close()


HOLDER = """
import sys, time
import hal
from robotlearn.edge.remote import RemoteRobot
spec = hal.load_spec(sys.argv[1])
with RemoteRobot(spec, address=sys.argv[2], holder="child", ttl=1.0) as robot:
    goal = robot.read().position
    print(robot.token, flush=True)
    while True:
        goal[0] += 0.002
        try:
            robot.write(hal.Command(goal))
            robot.wait()
        except hal.HalError as error:
            print(type(error).__name__, error, flush=True)
            time.sleep(0.05)
"""


@contextlib.contextmanager
def holder(address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease and moves the arm, whatever it is told; its first line is the token."""
    spec = folder / "fast.yaml"
    write_spec(spec, fast_spec())
    command = [sys.executable, "-c", HOLDER, str(spec), address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_a_holder_that_is_stopped_moves_nothing_when_it_goes_on(start: Start, runtime: Path) -> None:
    process = start()
    with holder(process.address, runtime) as child:
        assert child.stdout is not None
        token = int(child.stdout.readline())
        until(lambda: process.stats()["writes"] > 5, "a motion")
        pause(child.pid)
        with RemoteRobot(fast_spec(), address=process.address, holder="next", ttl=5.0, take=True) as robot:
            assert robot.token is not None
            assert robot.token > token
            drive(robot, near(robot, -0.05))
            robot.rest()
            robot.wait()
            stays, writes = robot.read().position, process.stats()["writes"]
            child.send_signal(signal.SIGCONT)
            until(lambda: any("LeaseError" in child.stdout.readline() for _ in range(3)), "it to notice")  # type: ignore
            for _ in range(30):
                robot.rest()
                robot.wait()
            assert np.array_equal(robot.read().position, stays)
            assert process.stats()["writes"] == writes


@pytest.mark.slow
def test_set_points_of_a_stopped_holder_are_refused_and_counted(start: Start) -> None:
    """The same with a client that doesn't look at answers, and so goes on with the old token."""
    process = start()
    spec = fast_spec()
    rude = Raw(process.address, spec)
    token = rude.acquire(ttl=2.0).token
    assert token is not None
    rude.send(rude.point(token, spec.home + 0.01))
    with RemoteRobot(spec, address=process.address, take=True) as robot:
        before = process.stats()
        for n in range(20):
            rude.send(rude.point(token, spec.home + 0.01 * n))
        until(lambda: process.stats()["lease_refused"] >= before["lease_refused"] + 20, "the refusals")
        assert process.stats()["lease"] >= 20
        assert process.stats()["writes"] == before["writes"]
        robot.rest()
    rude.close()


@pytest.mark.slow
def test_killing_the_holder_stops_the_arm_and_frees_it(start: Start, runtime: Path) -> None:
    process = start()
    with holder(process.address, runtime) as child:
        assert child.stdout is not None
        token = int(child.stdout.readline())
        until(lambda: process.stats()["writes"] > 5, "a motion")
        child.kill()
        until(lambda: process.stats()["stops"] > 0, "the watchdog's stop")
        stopped = process.stats()
        until(lambda: _got(process.address), "the lease to be over", 10.0)
        assert process.stats()["writes"] == stopped["writes"]
        with RemoteRobot(fast_spec(), address=process.address) as robot:
            assert robot.token is not None
            assert robot.token > token
            drive(robot, near(robot))


def _got(address: str) -> bool:
    try:
        with RemoteRobot(fast_spec(), address=address):
            return True
    except LeaseError:
        return False


@pytest.mark.slow
def test_killing_the_arm_process_is_a_fault_and_old_tokens_stay_old(start: Start) -> None:
    process = start()
    robot = RemoteRobot(fast_spec(), address=process.address, ttl=20.0)
    with robot:
        drive(robot, near(robot))
        token = robot.token
        assert token is not None
        process.signal(signal.SIGKILL)
        until(lambda: robot.health().state == "fault", "the fault")
        assert "link lost" in robot.health().detail
        again = start()
        assert again.address == process.address
        until(lambda: "started anew" in robot.health().detail, "the new process to be known")
        with pytest.raises(hal.RobotFault, match="close, and connect anew"):
            robot.write(hal.Command(fast_spec().home))
        rude = Raw(again.address, fast_spec())
        assert rude.ask(rude.point(token, fast_spec().home)).verdict == "lease"
        assert again.stats()["lease_refused"] == 1
        granted = rude.acquire().token
        assert granted is not None
        assert granted > token
        rude.ask(messages.Release(rude.next(), granted))
        rude.close()
        robot.close()
        robot.connect()
        assert robot.token is not None
        assert robot.token > granted
        drive(robot, near(robot))
        state = json.loads((Path(os.environ["ROBOTLEARN_RUNTIME_DIR"]) / "robots/bench/state.json").read_text())
        assert (state["name"], state["driver"], state["address"]) == ("bench", "recording", again.address)


@pytest.mark.slow
def test_an_arm_process_that_hangs_is_killed_by_the_next(start: Start, runtime: Path) -> None:
    port = runtime / "ttyACM0"
    port.touch()
    hung = start("one", str(port))
    lock = runtime / "robots/one/lock"
    until(lambda: lock.stat().st_mtime <= time.time(), "its first beat")  # until then it counts as connecting
    pause(hung.child.pid)
    early = start("two", str(port))  # it may just be slow
    assert early.end()[0] == 2
    taken = start("two", str(port), hung_s=0.2)
    assert taken.address == f"ipc://{runtime}/robots/two/arm"
    assert hung.child.wait(10) == -signal.SIGKILL


@pytest.mark.slow
def test_two_arm_processes_for_one_port(start: Start, runtime: Path) -> None:
    port, link = runtime / "ttyACM0", runtime / "by-id"
    port.touch()
    link.symlink_to(port)
    first = start("one", str(port))
    status, errors = start("two", str(link)).end()
    assert status == 2
    assert f"belongs to process {first.child.pid}" in errors
    assert "Traceback" not in errors
    status, errors = start("one", str(runtime / "other")).end()
    assert status == 2
    assert f"robot 'one' belongs to process {first.child.pid}" in errors
    first.signal(signal.SIGTERM)
    assert first.end() == (0, "")
    assert start("two", str(link)).address


@pytest.mark.slow
def test_an_estop_outlives_the_arm_process(start: Start) -> None:
    process = start()
    EStop("bench").press("a test", "by its file")
    process.signal(signal.SIGKILL)
    again = start()
    with RemoteRobot(fast_spec(), address=again.address) as robot:
        until(lambda: "e-stop by a test: by its file" in robot.health().detail, "the e-stop")
        with pytest.raises(Stopped, match="by its file"):
            robot.write(hal.Command(fast_spec().home))
        assert estop("bench", "--clear").exit_code == 0
        until(lambda: not robot._state.estopped, "the release")  # type: ignore[union-attr]
        with pytest.raises(Stopped):
            robot.write(hal.Command(fast_spec().home))
        assert again.stats()["writes"] == 0
        robot.rest()
        drive(robot, near(robot))




SERVE = """
import sys, typer
from robotlearn import cli
from robotlearn.commands.estop import estop
from robotlearn.commands.serve import serve
if "serve" not in {command.callback.__name__ for command in cli.app.registered_commands}:
    cli.app.command()(serve)
cli.main()
"""


@pytest.mark.slow
def test_the_command_serves_a_simulated_arm_until_it_is_told_to_end(runtime: Path) -> None:
    def run(*arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SERVE, "serve", *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    # A watchdog that a machine which hangs for a second doesn't wake.
    spec = hal.load_spec(str(write_spec(runtime / "panda.yaml", hal.load_spec("panda"), watchdog_s=10.0)))
    served = run(str(runtime / "panda.yaml"), "--name", "left", "--bind", "tcp://127.0.0.1:*")
    try:
        assert served.stdout is not None
        address = served.stdout.readline().strip()
        file = runtime / "robots" / "left" / "state.json"
        with RemoteRobot(spec, address=address, holder="me", ttl=20.0) as robot:
            for _ in range(8):
                robot.write(hal.Command(near(robot)))
                robot.wait()
            until(lambda: json.loads(file.read_text())["holder"] == "me", "the state file")
        state = json.loads(file.read_text())
        assert {"name": "left", "robot": "panda", "driver": "mujoco", "address": address}.items() <= state.items()
        assert state["pid"] == served.pid
        second = run("panda", "--name", "left")
        _, errors = second.communicate(timeout=30)
        assert second.returncode == 2
        assert errors.strip() == (
            f"robotlearn: robot 'left' belongs to process {served.pid} (robot left, -c serve): "
            "end that one first, or use another robot"
        )
        for arguments, why in (
            (("panda", "--name", "right", "--bind", "tcp://0.0.0.0:*"), "there is no key"),
            (("panda", "--name", "right", "--option", "prot=1"), "prot"),
            (("panda", "--driver", "mujocco"), "did you mean 'mujoco'"),
        ):
            wrong = run(*arguments)
            _, errors = wrong.communicate(timeout=30)
            assert (wrong.returncode, why in errors, "Traceback" in errors) == (2, True, False), errors
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) == 0
        assert json.loads(file.read_text())["state"] == "offline"
    finally:
        served.kill()
        served.communicate()
