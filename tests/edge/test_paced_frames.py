"""Camera images within a paced edge: the arm puts them into memory once, station and policy server take them there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

import hal
from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config import Config, load_config
from robotlearn.contract import contract
from robotlearn.edge import local
from robotlearn.edge import paced_arm as paced_arm_module
from robotlearn.edge.policy_server import PolicyServer
from robotlearn.edge.shared_frames import FrameRing, Memory, SharedFrames, Slot
from robotlearn.processes import Keeper
from tests.edge import test_arm, test_station
from tests.edge.conftest import LearnersEnd
from tests.waiting import until

FRONT = "observation.images.front"
SIZE = (32, 32)
SHAPE = (*SIZE, 3)


class Seeing(hal.RealTime):
    """With two cameras; each byte of an image is the number of the reading."""

    readings = 0

    def read(self) -> hal.Reading:
        self.readings += 1
        image = np.full((128, 128, 3), self.readings % 251, np.uint8)
        return replace(super().read(), images={"front": image, "wrist": image})


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[test_arm.Bench]:
    panda = hal.load_spec("panda").model_dump()
    spec = hal.RobotSpec.model_validate(panda | {"control_hz": 50.0, "watchdog_s": 5.0})
    bench = test_arm.Bench(tmp_path, spec, 2, real_time=Seeing, cameras=("front",), image_size=SIZE)
    yield bench
    bench.close()


def memory(bench: test_arm.Bench) -> Memory:
    until(lambda: bench.receive() or bench.states, "the arm to tell of itself")
    offered = bench.states[0].memory
    assert offered is not None
    return offered


def images(message: local.Begin | local.Line | local.ChunkRequest, frames: SharedFrames) -> np.ndarray:
    return local.arrays(local.fetched(message.observations, frames))[FRONT]


def test_images_are_written_once_and_none_is_lost_on_a_station_that_is_behind(arm: test_arm.Bench) -> None:
    offered = memory(arm)
    frames = SharedFrames(offered)
    arm.reads = (offered.name, 0)  # it takes nothing: whatever was written must stay as it is
    begin, lines = arm.run_episode()
    seen = [begin, *lines]
    while sum(isinstance(one.observations[FRONT].data, Slot) for one in seen) < offered.slots:
        begin, lines = arm.run_episode()
        seen += [begin, *lines]
    begin, lines = arm.run_episode()
    assert all(isinstance(one.observations[FRONT].data, bytes) for one in (begin, *lines)), "written over"
    assert "in messages" in arm.states[-1].frames and arm.states[-1].frames.startswith("shared memory")
    numbers = [one.observations[FRONT].data.number for one in seen if isinstance(one.observations[FRONT].data, Slot)]
    assert numbers == list(range(1, offered.slots + 1)), "one write for each moment"
    asked = [request for request in arm.requests if isinstance(request.observations[FRONT].data, Slot)]
    assert asked and {one.observations[FRONT].data.number for one in asked} < set(numbers), "the same for the server"
    pictures = [images(one, frames) for one in (*seen, begin, *lines)]
    assert all((picture == picture[0, 0, 0]).all() and picture.shape == SHAPE for picture in pictures)
    assert sum((a != b).any() for a, b in itertools.pairwise(pictures)) > len(pictures) // 2
    arm.reads = (offered.name, offered.slots)  # now it has taken them
    begin, lines = arm.run_episode()
    assert all(isinstance(one.observations[FRONT].data, Slot) for one in (begin, *lines))
    frames.close()


def test_nothing_but_what_the_run_observes_goes_on(arm: test_arm.Bench) -> None:
    """Neither the other camera's images, nor those of full size, nor effort and velocity."""
    begin, lines = arm.run_episode()
    for one in (begin, *lines, *arm.requests):
        assert {key: value.shape for key, value in one.observations.items()} == {
            "observation.state": (test_arm.D,),
            "observation.environment_state": one.observations["observation.environment_state"].shape,
            FRONT: SHAPE,
        }
    until(lambda: arm.receive() or arm.states[-1].frames.startswith("ipc ("), "the way to be told")


def test_what_the_server_leaves_unanswered_it_gets_in_a_message(arm: test_arm.Bench) -> None:
    offered = memory(arm)
    arm.reads = (offered.name, 0)

    def answer(request: local.ChunkRequest) -> list[local.ChunkAnswer]:
        """As a server that can't open the memory."""
        shared = isinstance(request.observations[FRONT].data, Slot)
        return [] if shared else [test_arm.chunk(request.request)]

    arm.answer = answer
    _, lines = arm.run_episode()
    assert lines
    ways = [isinstance(request.observations[FRONT].data, Slot) for request in arm.requests]
    assert ways[:2] == [True, False]


# ---- the policy server


class Server:
    """A policy server on a thread, which answers each picture with its first byte."""

    def __init__(self, endpoint: str) -> None:
        self.context, self.stop, self.gate = zmq.Context(), threading.Event(), threading.Event()
        self.waits = threading.Event()  # at the closed gate
        self.gate.set()
        self.server = PolicyServer(endpoint, self.infer)
        self.robot = local.local_socket(self.context, zmq.DEALER)
        self.robot.connect(endpoint)
        self.thread = threading.Thread(target=self.server.serve, args=(self.stop, self.between))
        self.thread.start()

    def between(self) -> None:
        if not self.gate.is_set():
            self.waits.set()
            self.gate.wait(20)

    def infer(self, requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        pictures = [local.arrays(request.observations)[FRONT] for request in requests]
        assert all((picture == picture[0, 0, 0]).all() for picture in pictures)
        return [
            test_arm.chunk(request.request, int(picture[0, 0, 0]))
            for request, picture in zip(requests, pictures, strict=True)
        ]

    def ask(self, number: int, observations: dict[str, local.Tensor], memory: Memory) -> None:
        self.robot.send(local.encode(local.ChunkRequest("arm", number, "reach", observations, memory)))

    def answer(self) -> local.ChunkAnswer:
        assert self.robot.poll(20_000), "no answer"
        return local.decode(self.robot.recv())

    def close(self) -> None:
        self.gate.set()
        self.stop.set()
        self.thread.join(20)
        self.server.close()
        self.robot.close()
        self.context.term()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(f"ipc://{tmp_path}/s")
    yield made
    made.close()


@pytest.fixture
def ring() -> Iterator[FrameRing]:
    made = FrameRing(4, SIZE[0] * SIZE[1] * 3)
    yield made
    made.close()


def picture(value: int, ring: FrameRing) -> dict[str, local.Tensor]:
    return local.shared({FRONT: np.full(SHAPE, value, np.uint8)}, ring)


def test_a_policy_server_takes_pictures_from_memory_of_whoever_asks(server: Server, ring: FrameRing) -> None:
    other = FrameRing(4, 2 * ring.memory.slot_bytes)  # its arm process was started anew
    for number, (value, theirs) in enumerate(((1, ring), (2, ring), (3, other), (4, ring))):
        server.ask(number, picture(value, theirs), theirs.memory)
        assert server.answer().version == value
    other.close()
    until(lambda: not server.server._frames, "the memory of who asks no more to be let go")


def test_a_picture_that_is_gone_or_never_was_is_dropped_and_counted(server: Server, ring: FrameRing) -> None:
    server.gate.clear()
    server.robot.send(b"wake up")
    assert server.waits.wait(20), "else it could look at the picture before that is gone"
    server.ask(1, picture(1, ring), ring.memory)
    newest = [picture(value, ring) for value in range(2, 6)][-1]
    server.gate.set()
    until(lambda: server.server.counts["late"] == 1, "the late one to be counted")
    forged = [
        ({FRONT: local.Tensor("uint8", SHAPE, Slot(5, 1))}, ring.memory),
        ({FRONT: local.Tensor("uint8", (2**20, 2**20), Slot(5, 0))}, ring.memory),
        ({FRONT: local.Tensor("uint8", (-1, 3), Slot(5, 0))}, ring.memory),
        (newest, msgspec.structs.replace(ring.memory, descriptor=0)),
        (newest, msgspec.structs.replace(ring.memory, slots=1000)),
    ]
    for number, (observations, memory) in enumerate(forged):
        server.ask(10 + number, observations, memory)
    until(lambda: server.server.counts["malformed"] == 1 + len(forged), "the forged ones to be counted")
    server.ask(20, newest, ring.memory)
    assert (answer := server.answer()).request == 20 and answer.version == 5


# ---- the station


@pytest.fixture
def seeing() -> Config:
    return load_config(
        "smoke",
        ["policy.hidden=[8]", "edges.1.arms=4", "learner.episodes_per_update=4",
         "observations={environment_state: false, cameras: [front], image_size: [32, 32]}"],
    )  # fmt: skip


@pytest.fixture
def station(tmp_path: Path, seeing: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[test_station.Bench]:
    test_station.Sleeper.started = []
    monkeypatch.setattr(paced_arm_module, "Child", test_station.Sleeper)
    monkeypatch.setattr(paced_arm_module, "Keeper", lambda start: Keeper(start, first_delay_s=0.01))
    end = LearnersEnd(tmp_path / "learner", contract(seeing))
    bench = test_station.Bench(tmp_path, seeing, end)
    yield bench
    bench.close()
    end.close()


def tell(bench: test_station.Bench, memory: Memory, *, episode: int = -1, token: int | None = None) -> None:
    """How the arm is; with a token it may be started."""
    way = "shared memory"
    bench.send(local.ArmState("resting", episode, "ok", "me", token, 0, 0, 0, 0, 0, 0, memory=memory, frames=way))


def hold(bench: test_station.Bench, wanted: Callable[[local.Hold], bool]) -> None:
    """Wait for one like that."""

    def came() -> bool:
        message = local.decode(bench.arm.recv()) if bench.arm.poll(100) else None
        return isinstance(message, local.Hold) and wanted(message)

    until(came, "the station to say so")


def observed(step: int, ring: FrameRing) -> dict[str, local.Tensor]:
    state = {"observation.state": np.full(test_station.D, step, np.float32)}
    return local.shared({**state, FRONT: np.full(SHAPE, step, np.uint8)}, ring)


def test_what_lies_in_memory_is_recorded_as_if_it_were_in_messages(
    station: test_station.Bench, seeing: Config
) -> None:
    ring = FrameRing(16, SIZE[0] * SIZE[1] * 3)
    tell(station, ring.memory)
    hold(station, lambda said: said.frames == ring.memory.name)
    tell(station, ring.memory, token=7)
    episode = station.started()
    steps = 8
    for step in range(steps + 1):
        observations = observed(step, ring)
        if step == 0:
            station.send(local.Begin(episode, "reach for the green ball", observations))
        else:
            last = step == steps
            station.send(test_station.line(episode, step - 1, last, observations=observations))
    hold(station, lambda said: said.taken == ring.number)
    until(lambda: station.end.store.stored == 1, "the segment in the learner's store")
    ((_, segment),) = station.end.store.scan()
    shapes = observation_shapes(cells_of(seeing)[0], env_options(seeing))
    assert {key: value.shape[1:] for key, value in segment.observations.items()} == shapes
    assert (segment.observations[FRONT][:, 0, 0, 0] == np.arange(steps + 1)).all()
    assert all((picture == picture[0, 0, 0]).all() for picture in segment.observations[FRONT])
    until(lambda: "frames: shared memory" in station.end.server.peers()[0].state, "the way to be shown at the learner")
    ring.close()


def test_a_station_that_cannot_open_it_says_why(station: test_station.Bench, ring: FrameRing) -> None:
    tell(station, msgspec.structs.replace(ring.memory, pid=2**30))
    hold(station, lambda said: "runs in another container" in said.frames)
    tell(station, ring.memory)  # an arm process that was started anew
    hold(station, lambda said: said.frames == ring.memory.name)


def test_pictures_that_are_gone_break_an_episode_and_nothing_else(
    station: test_station.Bench, ring: FrameRing
) -> None:
    tell(station, ring.memory)
    hold(station, lambda said: said.frames == ring.memory.name)
    tell(station, ring.memory, token=7)
    episode = station.started()
    gone = observed(0, ring)
    for step in range(4):
        observed(step, ring)
    station.send(local.Begin(episode, "reach for the green ball", gone))
    tell(station, ring.memory, episode=episode, token=7)
    again = station.started()
    assert again == episode + 1
