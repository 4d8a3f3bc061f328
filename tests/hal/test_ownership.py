"""One robot, one process: by its name and by its port, whatever becomes of who owned it before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hal import RobotSpec, load_spec, make_robot, ownership
from hal.errors import OwnershipError
from hal.ownership import Ownership, owner_of
from tests.waiting import pause, until

OWNER = """
import sys, time
from hal.ownership import Ownership
with Ownership(sys.argv[1], *filter(None, sys.argv[2:])) as owned:
    print("owns", flush=True)
    while True:
        owned.beat()
        time.sleep(0.01)
"""

Own = Callable[[str, str], subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rl-"))
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def own() -> Iterator[Own]:
    """Starts another process that owns a robot."""
    children = []

    def start(name: str, address: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", OWNER, name, address]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "owns\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_another_process_owns_it_until_it_is_killed(own: Own, runtime: Path) -> None:
    port, alias = runtime / "tty", runtime / "by-id"
    port.touch()
    alias.symlink_to(port)
    child = own("bench", str(port))
    assert owner_of("bench") == child.pid
    with pytest.raises(OwnershipError, match=f"robot 'bench' belongs to process {child.pid} .robot bench, .*: end"):
        Ownership("bench").__enter__()
    with pytest.raises(OwnershipError, match=f"{alias} belongs to process {child.pid}"):
        Ownership("other", str(alias)).__enter__()
    assert owner_of("other") is None  # of two that it needs it keeps none
    child.kill()
    child.wait()
    assert owner_of("bench") is None
    with Ownership("bench", str(alias)) as owned:
        assert owned.folder == runtime / "robots" / "bench"
        assert owner_of("bench") == os.getpid()


def test_one_that_hangs_is_killed_and_one_that_goes_on_is_not(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "HUNG_S", 0.3)
    child = own("bench", "")
    end = time.monotonic() + 0.6  # longer than that, and it goes on
    while time.monotonic() < end:
        with pytest.raises(OwnershipError, match="belongs to process"):
            Ownership("bench").__enter__()
    pause(child.pid)
    lock = Path(os.environ["ROBOTLEARN_RUNTIME_DIR"]) / "robots/bench/lock"
    until(lambda: time.time() - lock.stat().st_mtime > 0.3, "it to hang")
    with Ownership("bench"):
        assert child.wait(10) == -signal.SIGKILL
        assert owner_of("bench") == os.getpid()


def test_one_that_still_connects_has_a_minute(runtime: Path) -> None:
    with Ownership("bench") as owned:
        lock = runtime / "robots/bench/lock"
        assert lock.stat().st_mtime + ownership.HUNG_S > time.time() + 50
        owned.beat()
        until(lambda: lock.stat().st_mtime <= time.time(), "the beat to be passed on")


def test_a_process_that_took_the_number_of_a_dead_owner_is_let_live(
    own: Own, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HUNG_S", 0.0)
    bystander = subprocess.Popen(["sleep", "60"])
    child = own("bench", "")
    pause(child.pid)
    lock = runtime / "robots/bench/lock"
    lock.write_text(f"{bystander.pid} 1")  # as if that number had been given anew
    with pytest.raises(OwnershipError, match="a process that just starts"):
        Ownership("bench").__enter__()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_it_is_given_back_at_the_end_and_within_one_process(runtime: Path) -> None:
    with Ownership("bench", "tcp://robot:50000") as owned:
        with pytest.raises(OwnershipError, match=f"belongs to process {os.getpid()}"):
            Ownership("bench").__enter__()
        with pytest.raises(OwnershipError, match="tcp://robot:50000 belongs to"):
            Ownership("bench2", "tcp://robot:50000").__enter__()
        owned.close()
        owned.close()
        owned.beat()
        with Ownership("bench", "tcp://robot:50000"):
            pass
    with Ownership("left"), Ownership("right"):
        pass


def test_each_driver_tells_what_moves_its_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert make_robot(load_spec("panda")).addresses() == ()
    so101 = load_spec("so101")
    assert make_robot(so101, "lerobot", port="/dev/ttyACM0").addresses() == ("/dev/ttyACM0",)
    assert so101.lerobot is not None
    in_spec = so101.model_dump() | {"lerobot": so101.lerobot.model_dump() | {"options": {"port": "/dev/ttyACM1"}}}
    assert make_robot(RobotSpec.model_validate(in_spec), "lerobot").addresses() == ("/dev/ttyACM1",)
    topic = "joint_trajectory_controller/joint_trajectory"
    assert make_robot(load_spec("ur5e"), "dds").addresses() == (f"ros:7/{topic}",)
    gripper = {"command": "/gripper/command", "type": "joint_trajectory"}
    named = make_robot(load_spec("ur5e"), "dds", command=f"/{topic}", domain=3, gripper=gripper)
    assert named.addresses() == (f"ros:3/{topic}", "ros:3/gripper/command")
