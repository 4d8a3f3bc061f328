"""The arm's control loop over a simulated Panda in real time, with a policy server and a station of the test's own."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from envs import ArmEnv, EnvOptions, make_task
from envs.scene import build_scene
from hal import Command, RealTime, RobotFault, RobotSpec, load_spec, make_robot
from hal.control_loop import ControlLoop
from hal.estop import EStop
from hal.lease import Leases
from robotlearn.config.edge import ExecutionConfig
from robotlearn.edge import local
from robotlearn.edge.arm_loop import ArmLoop
from robotlearn.people.intent import Device, Intent
from robotlearn.people.intent import Event as Said
from robotlearn.people.person import Person
from tests.waiting import until

H, D, N = 4, 8, 2
EPISODE_STEPS = 30
Answer = Callable[[local.ChunkRequest], list[local.ChunkAnswer]]


def chunk(request: int, version: int = 0, actions: np.ndarray | None = None) -> local.ChunkAnswer:
    """Each action names its request and its place: in the first joint's delta, too small to move much."""
    if actions is None:
        actions = np.zeros((H, D), np.float32)
        actions[:, 0] = 1e-4 * (request + 1) + 1e-6 * np.arange(H)
        actions[:, -1] = 0.04
    path = np.zeros((N + 1, H, D), np.float32)
    path[-1] = actions
    return local.ChunkAnswer(
        request,
        version,
        local.Tensor.of(actions),
        local.Tensor.of(path),
        local.Tensor.of(np.ones(N, bool)),
        local.Tensor.of(np.zeros((N, H), np.float32)),
    )


class Bench:
    """An arm loop on a thread, between a station and a policy server that the test plays."""

    def __init__(
        self,
        tmp: Path,
        spec: RobotSpec,
        ahead: int,
        person: Person | None = None,
        real_time: type[RealTime] = RealTime,
        execution: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        ends = {part: f"ipc://{tmp}/{part}" for part in ("server", "station")}
        self.context = zmq.Context()
        self.server = local.local_socket(self.context, zmq.ROUTER)
        self.server.bind(ends["server"])
        self.station = local.local_socket(self.context, zmq.ROUTER, queue=65536)
        self.station.bind(ends["station"])
        task = make_task("reach", spec)
        self.robot = real_time(make_robot(spec, scene=build_scene(spec, task)))
        self.control = ControlLoop(self.robot, estop=EStop(tmp.name), leases=Leases(tmp / "token"))
        env = ArmEnv(self.control, task, EnvOptions(**{"episode_steps": EPISODE_STEPS} | options))
        env.reset(seed=0)
        self.env = env
        chosen = ExecutionConfig(**({"ahead": ahead} if execution is None else execution))
        self.loop = ArmLoop(env, self.control, "arm-1", horizon=H, execution=chosen, person=person, **ends)
        self.stop = threading.Event()
        self.answer: Answer = lambda request: [chunk(request.request)]
        self.requests: list[local.ChunkRequest] = []
        self.states: list[local.ArmState] = []
        self.reads: tuple[str, int] = ("", 0)  # the memory that this station reads, and the newest number it has taken
        self.episodes = itertools.count(1)
        self.threads = [
            threading.Thread(target=self.loop.run, args=(self.stop,), name="arm"),
            threading.Thread(target=self.serve, name="server"),
        ]
        for thread in self.threads:
            thread.start()

    def serve(self) -> None:
        while not self.stop.is_set():
            if not self.server.poll(10):
                continue
            peer, frame = self.server.recv_multipart()
            request = local.decode(frame)
            self.requests.append(request)
            for answer in self.answer(request):
                self.server.send_multipart([peer, local.encode(answer)])

    def start(self) -> int:
        until(lambda: self.receive() or self.lease() is not None, "the arm to be there, and its lease ours")
        episode = next(self.episodes)
        self.send(local.Start(episode, self.lease()))
        return episode

    def lease(self) -> int | None:
        """Asks for it, or to keep it."""
        if self.states:
            self.send(local.Hold("bench", 5.0, *self.reads))
        return self.states[-1].token if self.states else None

    def send(self, message: local.AnyMessage) -> None:
        self.station.send_multipart([b"arm-1", local.encode(message)])

    def receive(self) -> list:
        messages = []
        while self.station.poll(0):
            peer, frame = self.station.recv_multipart()
            assert peer == b"arm-1"
            message = local.decode(frame)
            self.states.append(message) if isinstance(message, local.ArmState) else messages.append(message)
        return messages

    def run_episode(self) -> tuple[local.Begin, list[local.Line]]:
        """Start one, wait until the arm rests again; what it sent, in order."""
        episode = self.start()
        messages: list = []
        until(
            lambda: (
                messages.extend(self.receive())
                or (
                    self.states[-1].state in ("resting", "stopped")
                    and self.states[-1].episode == episode
                    and (messages or self.stop.is_set())
                )
            ),
            "the episode to end",
        )
        messages.extend(self.receive())
        begin, *lines = messages
        assert isinstance(begin, local.Begin) and begin.episode == episode
        assert all(isinstance(line, local.Line) and line.episode == episode for line in lines)
        return begin, lines

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        self.receive()
        self.loop.close()
        self.server.close()
        self.station.close()
        self.context.term()


@pytest.fixture(scope="module")
def fast() -> RobotSpec:
    return RobotSpec.model_validate(load_spec("panda").model_dump() | {"control_hz": 50.0, "watchdog_s": 2.0})


@pytest.fixture
def make_bench(tmp_path: Path, fast: RobotSpec) -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def make(ahead: int = 2, person: Person | None = None, execution: dict[str, Any] | None = None) -> Bench:
        made.append(Bench(tmp_path, fast, ahead, person, execution=execution))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_an_episode_is_told_line_by_line(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    begin, lines = bench.run_episode()
    assert [line.step for line in lines] == list(range(EPISODE_STEPS))
    assert [line.truncated for line in lines] == [False] * (EPISODE_STEPS - 1) + [True]
    assert set(begin.observations) == {"observation.state", "observation.environment_state"}
    times = [line.monotonic for line in lines]
    assert times == sorted(times) and len(set(times)) == len(times)
    asked = {request.request: request for request in bench.requests}
    seen = [begin, *lines]
    running = None
    for line in lines:
        if line.chunk is not None:
            running, start = line.chunk, (line.step, line.first)
            # The chunk started from what was observed `lag` steps before.
            assert asked[running.request].observations == seen[line.step - line.lag].observations
        if line.from_chunk:
            index = start[1] + line.step - start[0]
            np.testing.assert_array_equal(line.proposed.array(), running.actions.array()[index])
        else:
            assert line.held and not line.proposed.array()[: D - 1].any()


def test_where_no_chunk_comes_in_time_steps_are_held_and_the_episode_goes_on(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(0)  # asked for only when the last chunk is done

    def too_late(request: local.ChunkRequest) -> list[local.ChunkAnswer]:
        if request.request:
            asked = bench.control.done
            until(lambda: bench.control.done > asked + 2, "the arm's own loop to go on without")
        return [chunk(request.request)]

    bench.answer = too_late
    _, lines = bench.run_episode()
    assert [line.step for line in lines] == list(range(EPISODE_STEPS))
    held = [line for line in lines if not line.from_chunk]
    assert held and all(line.held and line.chunk is None for line in held)
    chunks = [line for line in lines if line.chunk is not None]
    assert len(chunks) > 2 and all(line.first == 0 for line in chunks), "held ticks skip no action"
    assert all(line.lag >= 1 for line in chunks[1:])
    until(lambda: bench.receive() or bench.states[-1].starved >= len(held), "the starved ticks to be reported")


def test_an_answer_before_the_arm_looks_for_a_goal_is_in_time(tmp_path: Path) -> None:
    slow = RobotSpec.model_validate(load_spec("panda").model_dump() | {"control_hz": 4.0, "driver_hz": 4.0})
    bench = Bench(tmp_path, slow, 0, episode_steps=9)
    try:
        _, lines = bench.run_episode()
    finally:
        bench.close()
    assert len(lines) == 9 and all(line.from_chunk for line in lines)
    assert [line.step for line in lines if line.chunk is not None] == [0, 4, 8]
    assert all(line.lag == 0 for line in lines)


def test_an_answer_to_an_old_request_is_never_executed(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    poison = np.full((H, D), 0.19, np.float32)

    def answer(request: local.ChunkRequest) -> list[local.ChunkAnswer]:
        old = [chunk(number, actions=poison) for number in (request.request - 1, request.request + 1, 10**6)]
        return [*old, chunk(request.request), chunk(request.request, actions=poison)]

    bench.answer = answer
    _, lines = bench.run_episode()
    assert len(lines) == EPISODE_STEPS
    assert not any(np.array_equal(line.proposed.array(), poison[0]) for line in lines)
    until(lambda: bench.receive() or bench.states[-1].dropped_answers > 10, "the dropped answers to be reported")


def test_garbage_from_the_policy_server_is_dropped(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()

    def answer(request: local.ChunkRequest) -> list[local.ChunkAnswer]:
        good = chunk(request.request)
        misfits = [
            local.Tensor.of(np.full(shape, 0.19, np.float32)) for shape in ((H + 1, D), (H - 1, D), (H, D - 1), (0,))
        ]
        misfits.append(local.Tensor("float32", (H, D), b"1"))
        return [*(msgspec.structs.replace(good, actions=actions) for actions in misfits), good]

    bench.answer = answer
    _, lines = bench.run_episode()
    assert len(lines) == EPISODE_STEPS and any(line.from_chunk for line in lines)
    assert all(line.proposed.array()[0] < 0.1 for line in lines), "nothing of a misfit is executed"


def test_before_the_first_chunk_the_arm_rests_and_the_episode_has_not_begun(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.answer = lambda request: []
    bench.start()
    until(lambda: bench.requests, "a request, which comes after the reset")
    before = bench.env.robot.read().position
    messages: list = []
    until(
        lambda: messages.extend(bench.receive()) or bench.states[-1].state == "waiting for a chunk",
        "the arm to say that it waits",
    )
    assert not messages, "no Begin, no Line"
    np.testing.assert_allclose(bench.env.robot.read().position, before, atol=0.05)
    bench.answer = lambda request: [chunk(request.request)]  # the server is back: asked again, the episode begins
    until(lambda: messages.extend(bench.receive()) or messages, "the episode to begin")
    assert isinstance(messages[0], local.Begin)


def test_a_server_that_falls_silent_ends_the_episode_truncated_and_the_arm_stops(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    bench.answer = lambda request: [chunk(request.request)] if request.request < 2 else []
    stopped = threading.Event()
    stop_robot = bench.control.stop

    def stop() -> None:
        stopped.set()
        stop_robot()

    bench.control.stop = stop  # type: ignore[method-assign]
    bench.env._referee.episode_steps = 10**6
    _, lines = bench.run_episode()
    assert stopped.is_set()
    assert lines[-1].truncated and not lines[-1].terminated
    assert not any(line.stopped for line in lines[:-1]) and re.search(r"no action for [2-9]", lines[-1].stopped)
    last = max(line.step for line in lines if line.from_chunk)
    silent = lines[last + 1 :]
    assert silent and all(line.held and not line.from_chunk for line in silent)
    assert np.abs(lines[-1].executed.array()[: D - 1]).max() < 1e-3, "the arm does not move on"


def test_a_stop_in_mid_episode_leaves_it_unfinished(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.start()
    messages: list = []
    until(lambda: messages.extend(bench.receive()) or len(messages) > 5, "some lines")
    bench.stop.set()
    until(lambda: messages.extend(bench.receive()) or bench.states[-1].state == "stopped", "the arm to stop")
    assert not any(line.terminated or line.truncated for line in messages[1:])


TORCHLESS = """
import sys, threading
import numpy as np
from robotlearn.config import load_config
from robotlearn.edge.arm import run_arm
stop = threading.Event()
timer = threading.Timer(0.3, stop.set)
timer.start()
run_arm(load_config("smoke"), "station", server="ipc://{folder}/server", station="ipc://{folder}/station", stop=stop)
from robotlearn.edge.station import Station
from robotlearn.edge.drive import Drive
from robotlearn.edge.dry_run import DryRun
from robotlearn import cli, gl, processes, run_folder, train
print([name for name in sys.modules if name.split(".")[0] in ("torch", "tensorboard", "matplotlib")])
"""


def test_arm_process_and_station_import_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TORCHLESS.replace("{folder}", str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


class Scripted(Device):
    """Holds the enable switch from its `begin`-th reading to its `end`-th, lifting the tool; then says `mark`."""

    name = "scripted"
    help = ("",)

    def __init__(self, begin: int, end: int, mark: Said | None) -> None:
        self.begin, self.end, self.mark = begin, end, mark
        self.read_so_far = 0

    def read(self) -> Intent:
        self.read_so_far += 1
        held = self.begin <= self.read_so_far < self.end
        says = (self.mark,) if self.mark is not None and self.read_so_far == self.end + 5 else ()
        return Intent(linear=(0.0, 0.0, 0.2), enable=held, events=says)

    def close(self) -> None:
        pass


class Slow(Scripted):
    """Whose readings take a while, as those of a leader arm do."""

    def read(self) -> Intent:
        threading.Event().wait(0.05)
        return super().read()


def test_a_chunk_that_is_late_makes_no_person_late(tmp_path: Path) -> None:
    rates = {"control_hz": 5.0, "driver_hz": 5.0, "watchdog_s": 10.0}
    spec = RobotSpec.model_validate(load_spec("panda").model_dump() | rates)
    bench = Bench(tmp_path, spec, 0, Person(spec, Slow(10**6, 10**6, None), blend_s=0.1), episode_steps=14)
    bench.answer = lambda request: [chunk(0)] if request.request == 0 else []
    ages: list[float] = []
    write = bench.control.write

    def noted(command: Command) -> None:
        ages.append(time.monotonic() - bench.env.reading.monotonic)
        write(command)

    bench.control.write = noted  # type: ignore[method-assign]
    try:
        _, lines = bench.run_episode()
    finally:
        bench.close()
    late = [age > spec.dt for line, age in zip(lines, ages[-len(lines) :], strict=True) if not line.from_chunk]
    assert len(late) == 10 and sum(late) <= 2, f"written before the tick that follows what was seen: {ages}"


def test_a_person_takes_over_and_both_actions_are_kept(make_bench: Callable[..., Bench], fast: RobotSpec) -> None:
    bench = make_bench(person=Person(fast, Scripted(8, 18, None), blend_s=0.1))
    _, lines = bench.run_episode()
    taken = [line.intervention for line in lines]
    first, count = taken.index(True), sum(taken)
    assert count == 10 + 5 and all(taken[first : first + count]), "while the switch is held, and the blend after it"
    for line in lines:
        proposed, executed = line.proposed.array(), line.executed.array()
        small = np.abs(proposed[:-1]).max() < 0.01, np.abs(executed[:-1]).max() < 0.004
        assert small[0] and (line.intervention or small[1]) and not line.held
    heights = np.array([line.observations["observation.environment_state"].array()[2] for line in lines])
    assert heights[first + 9] > heights[first] + 0.005, "the arm does what the person wants"
    moves = np.abs(np.array([line.executed.array()[:-1] for line in lines])).max(axis=1)
    assert moves[first] < fast.acceleration.max() * fast.dt**2 * 1.01, "it begins from rest"


@pytest.mark.parametrize("mark", [Said.SUCCESS, Said.FAILURE])
def test_a_person_says_how_an_episode_ended(make_bench: Callable[..., Bench], fast: RobotSpec, mark: Said) -> None:
    bench = make_bench(person=Person(fast, Scripted(3, 4, mark)))
    _, lines = bench.run_episode()
    last = lines[-1]
    assert len(lines) < EPISODE_STEPS and last.terminated and not last.truncated
    assert last.success is (mark is Said.SUCCESS) and last.reward == float(last.success)


def test_an_estop_ends_the_episode_and_only_when_it_is_cleared_another_begins(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make_bench()
    bench.env._referee.episode_steps = 10**6
    bench.start()
    lines: list[local.Line] = []
    until(lambda: lines.extend(bench.receive()) or len(lines) > 10, "an episode under way")
    EStop(tmp_path.name).press("the test")
    until(lambda: lines.extend(bench.receive()) or bench.states[-1].state == "e-stopped", "the e-stop to be told")
    assert lines[-1].truncated and lines[-1].stopped
    at = bench.robot.read().position
    bench.send(local.Start(99, bench.lease() or 0))
    until(lambda: bench.receive() or bench.states[-1].episode == 99, "the start to be refused")
    np.testing.assert_allclose(bench.robot.read().position, at, atol=0.01)
    EStop(tmp_path.name).clear()
    until(lambda: bench.receive() or bench.states[-1].state == "resting", "it to be well again")
    bench.env._referee.episode_steps = EPISODE_STEPS
    bench.episodes = itertools.count(100)
    assert len(bench.run_episode()[1]) == EPISODE_STEPS


def test_a_fault_at_rest_ends_it(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench, ended = make_bench(), []
    monkeypatch.setattr(threading, "excepthook", lambda what: ended.append(what.exc_value))
    until(lambda: bench.receive() or bench.states, "the arm to rest")

    def silent() -> None:
        raise RobotFault("/joint_states is silent")

    monkeypatch.setattr(bench.robot, "read", silent)
    until(lambda: ended, "its end: whoever started it starts it again")
    assert isinstance(ended[0], RobotFault) and "/joint_states is silent" in str(ended[0])
