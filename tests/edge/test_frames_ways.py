"""Which way camera images go between the processes of a workstation, and that they arrive whatever that is."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import hal
from robotlearn.edge import arm_messages as messages
from robotlearn.edge import arm_server, remote
from robotlearn.edge.arm_state import ArmStateFile
from robotlearn.edge.remote import RemoteRobot
from robotlearn.edge.shared_frames import FrameRing, SharedFrames, Slot
from robotlearn.robots.states import robot_state, robot_states, states_table, wide_console
from tests.arms import RecordingArm, fast_spec
from tests.edge.remote_rig import Process, Raw, Rig, drive, near, ticks
from tests.fakes import write_spec
from tests.waiting import pause, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("runtime")


class Filming(RecordingArm):
    """Each byte of an image is the number of the reading, modulo 251, which is also its effort."""

    readings = 0
    shape = (128, 128, 3)

    def read(self) -> hal.Reading:
        reading = super().read()
        self.readings += 1
        front = np.full(self.shape, self.readings % 251, np.uint8)
        return replace(reading, images={"front": front}, effort=np.full(self.spec.dim, float(self.readings)))


@pytest.fixture(params=["ipc", "tcp"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(Filming(fast_spec()), "tcp://127.0.0.1:*" if request.param == "tcp" else None)
    yield made
    made.close()


def see(robot: RemoteRobot, images: int = 10) -> None:
    """So many new images, each whole and of its own reading."""
    seen: set[float] = set()
    end = time.monotonic() + 30
    while len(seen) < images:
        assert time.monotonic() < end, f"{len(seen)} images came"
        reading = robot.read()
        assert reading.effort is not None
        assert (reading.images["front"] == reading.effort[0] % 251).all()
        assert reading.images["front"].shape == (128, 128, 3)
        seen.add(reading.effort[0])
        robot.wait()


def scheme(rig: Rig) -> str:
    return rig.address.partition(":")[0]


def test_on_one_machine_images_go_through_memory_and_that_is_shown(rig: Rig) -> None:
    with (
        ArmStateFile(rig.owned, robot="so101", driver="fake") as state,
        RemoteRobot(rig.loop.spec, address=rig.address, holder="ada", cameras=("front",)) as robot,
        RemoteRobot(rig.loop.spec, address=rig.address, holder="bob", take=True) as blind,
    ):
        state.watch(rig.loop)
        state.frames = lambda: rig.server.frames
        until(lambda: robot.link.frames == "shared memory", "the agreement")
        see(robot)
        assert blind.link.frames == "" and blind.read().images == {}
        until(lambda: rig.server.frames == "ada: shared memory", "the server's word")
        until(lambda: (told := robot_state("bench")) and told.frames == "ada: shared memory", "the state file")
        console = wide_console()
        with console.capture() as shown:
            console.print(states_table(robot_states()))
        assert "frames" in shown.get() and "ada: shared memory" in shown.get()
    until(lambda: rig.server.frames == "", "it to be forgotten")


def test_messages_between_them_hold_no_image(rig: Rig) -> None:
    raw = Raw(rig.address, rig.loop.spec, hello=False)
    raw.ask(messages.Hello(messages.SCHEMA, "raw", messages.agreed(rig.loop.spec), ("front",)))
    offer = raw.ask(messages.Share(remote.machine()))
    raw.send(messages.Opened(offer.memory.name, ""))
    frames = SharedFrames(offer.memory)

    def next_state() -> tuple[messages.State, int]:
        while True:
            assert raw.socket.poll(20_000)
            frame = raw.socket.recv()
            message = messages.decode_from_arm(frame)
            if isinstance(message, messages.State):
                raw.send(messages.Heard(message.number))
                return message, len(frame)

    until(lambda: isinstance(next_state()[0].images["front"].data, Slot), "an image in memory")
    state, size = next_state()
    assert size < 2000
    image = state.images["front"]
    assert state.effort is not None
    assert frames.read(image.data, image.size) == bytes([int(state.effort.array()[0]) % 251]) * 128 * 128 * 3
    frames.close()
    raw.close()


def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "machine", lambda: "elsewhere")


def other_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")


def other_container(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ring(FrameRing):
        def __init__(self, slots: int, slot_bytes: int) -> None:
            super().__init__(slots, slot_bytes)
            self.memory = msgspec.structs.replace(self.memory, pid=2**30)

    monkeypatch.setattr(arm_server, "FrameRing", Ring)


@pytest.mark.parametrize(
    ("elsewhere", "why"),
    [
        (other_machine, "another machine"),
        (other_system, "this system has no memfd, only Linux has"),
        (other_container, "process 1073741824 isn't there: it has ended, or runs in another container"),
    ],
    ids=["machine", "system", "container"],
)
def test_where_memory_cannot_be_shared_messages_bring_them_and_why_is_shown(
    rig: Rig, elsewhere: Callable[[pytest.MonkeyPatch], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    with RemoteRobot(rig.loop.spec, address=rig.address, holder="ada", cameras=("front",)) as robot:
        until(lambda: robot.link.frames == f"{scheme(rig)} ({why})", "the reason")
        see(robot)
        told = rf"ada: {scheme(rig)} \(\d+\.\d MB/s: {why}\)"
        until(lambda: re.fullmatch(told, rig.server.frames), "the server's word")


def test_a_client_that_pretends_gets_no_more_than_numbers(rig: Rig) -> None:
    raw = Raw(rig.address, rig.loop.spec, hello=False)
    raw.ask(messages.Hello(messages.SCHEMA, "raw", messages.agreed(rig.loop.spec), ("front",)))
    assert raw.ask(messages.Share("elsewhere")).memory == "another machine"
    raw.send(messages.Opened("0" * 32, ""))  # of no memory
    tensor = messages.Tensor("float64", (rig.loop.spec.dim,), Slot(1, 0))
    lease = raw.acquire()
    assert lease.token is not None
    raw.send(messages.SetPoint(raw.next(), lease.token, tensor, time.monotonic() + 10))
    until(lambda: rig.server.counters["bad_frames"] == 1, "a set-point in memory to be refused")
    with RemoteRobot(rig.loop.spec, address=rig.address, take=True, cameras=("front",)) as robot:
        see(robot)
    raw.close()


def test_who_asks_for_no_camera_shares_nothing_and_ends_nothing(rig: Rig) -> None:
    raw = Raw(rig.address, rig.loop.spec)
    assert raw.ask(messages.Share(remote.machine())).memory == "no camera was asked for"
    raw.send(messages.Opened("\x1b[2J", "\x1b[2J"))
    assert raw.acquire().verdict == "done"
    raw.close()


def test_images_larger_than_the_spec_says_do_not_end_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Filming(fast_spec())
    made = Rig(arm)
    try:
        with RemoteRobot(arm.spec, address=made.address, cameras=("front",)) as robot:
            until(lambda: robot.link.frames == "shared memory", "the agreement")
            monkeypatch.setattr(arm, "shape", (512, 512, 3))
            until(lambda: "aren't its spec's" in robot.health().detail, "the client to say so")
        until(lambda: "larger than the spec says" in made.server.frames or not made.server.frames, "the reason")
        monkeypatch.undo()
        with RemoteRobot(arm.spec, address=made.address, cameras=("front",)) as robot:
            see(robot)
    finally:
        made.close()


# ---- processes that are stopped and killed

VIEWER = """
import sys, time
import hal
from robotlearn.edge.remote import RemoteRobot
robot = RemoteRobot(hal.load_spec(sys.argv[1]), address=sys.argv[2], holder="child", ttl=60.0, cameras=("front",))
robot.connect()
while robot.link.frames != "shared memory":
    time.sleep(0.01)
while True:
    reading = robot.read()
    whole = (reading.images["front"] == reading.effort[0] % 251).all()
    print(int(whole), int(reading.effort[0]), robot.link.images_late, flush=True)
    time.sleep(0.02)
"""


@contextlib.contextmanager
def viewer(address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that looks at the images; a line each: whole or not, the number, how many came too late."""
    spec = write_spec(folder / "fast.yaml", fast_spec())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", VIEWER, str(spec), address]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> tuple[int, int, int]:
    assert child.stdout is not None
    whole, number, late = map(int, child.stdout.readline().split())
    assert whole
    return whole, number, late


def test_a_stopped_reader_stalls_neither_the_loop_nor_another_reader(tmp_path: Path) -> None:
    made = Rig(Filming(fast_spec()))
    try:
        with viewer(made.address, tmp_path) as child:
            line(child)
            pause(child.pid)
            dropped = made.server.counters["states_dropped"]
            ticks(made.loop, 30)
            until(lambda: made.server.counters["states_dropped"] > dropped, "states that aren't sent")
            with RemoteRobot(made.loop.spec, address=made.address, take=True, cameras=("front",)) as robot:
                until(lambda: robot.link.frames == "shared memory", "the agreement")
                see(robot, 20)
                number = robot.read().effort[0]  # type: ignore[index]
            os.kill(child.pid, signal.SIGCONT)
            until(lambda: line(child)[1] > number, "the newest images")
            until(lambda: line(child)[2] > 0, "those that were overwritten to be counted")
    finally:
        made.close()


@pytest.mark.slow
def test_what_is_killed_leaves_nothing_and_the_next_shares_again(tmp_path: Path, runtime: Path) -> None:
    def left() -> list[str]:
        found = [str(path.relative_to(runtime)) for path in runtime.rglob("*")]
        return sorted(found + [name for name in os.listdir("/dev/shm") if "robotlearn" in name])

    spec, before = fast_spec(), None
    for _ in range(2):
        served = Process()
        try:
            robot = RemoteRobot(spec, address=served.address, cameras=("front",))
            robot.connect()
            until(lambda r=robot: r.link.frames == "shared memory", "the agreement")
            drive(robot, near(robot))
            assert robot.read().images["front"].any()
            with pytest.raises(hal.RobotFault):
                served.signal(signal.SIGKILL)
                while True:
                    robot.wait()
            robot.close()
        finally:
            served.close()
        before = before or left()
        assert left() == before
    assert not [name for name in before or [] if "frames" in name]


def test_a_killed_reader_is_forgotten_and_another_shares(tmp_path: Path) -> None:
    made = Rig(Filming(fast_spec()))
    try:
        with viewer(made.address, tmp_path) as child:
            line(child)
            child.kill()
            child.wait()
        with RemoteRobot(made.loop.spec, address=made.address, take=True, cameras=("front",)) as robot:
            until(lambda: robot.link.frames == "shared memory", "the agreement")
            see(robot)
        until(lambda: made.server.stats()["clients"] == 0, "both to be forgotten")
    finally:
        made.close()
