"""The station: what an arm process tells it becomes segments in the learner's store, and nothing half does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from robotlearn.algorithms.chunks import join
from robotlearn.config import Config
from robotlearn.edge import local
from robotlearn.edge import paced_arm as paced_arm_module
from robotlearn.edge.station import Station
from robotlearn.processes import Child, Keeper
from tests.edge.conftest import LearnersEnd
from tests.edge.test_arm import chunk
from tests.waiting import until

D = 8


class Sleeper(Child):
    """Stands for an arm process or policy server: a process that can be killed, while the test speaks in its place."""

    started: list[Sleeper]

    def __init__(self, name: str, arguments: list[str], log: Path | None = None) -> None:
        self.name, self.arguments, self._writing = name, arguments, -1
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        self.started.append(self)

    def option(self, name: str) -> str:
        return self.arguments[self.arguments.index(name) + 1]


def observation(step: int) -> dict[str, local.Tensor]:
    return local.tensors(
        {
            "observation.state": np.full(D, step, np.float32),
            "observation.environment_state": np.full(6, -step, np.float32),
        }
    )


def begin(episode: int) -> local.Begin:
    return local.Begin(episode, "reach for the green ball", observation(0))


def line(episode: int, step: int, last: bool = False, **changes: Any) -> local.Line:
    begins = step % 4 == 0
    fields: dict[str, Any] = dict(
        episode=episode,
        step=step,
        observations=observation(step + 1),
        proposed=local.Tensor.of(np.full(D, step, np.float32)),
        executed=local.Tensor.of(np.full(D, step + 0.5, np.float32)),
        from_chunk=True,
        held=False,
        intervention=False,
        reward=float(last),
        terminated=last,
        truncated=False,
        success=last,
        monotonic=float(step),
        wall=float(step),
        chunk=chunk(step, version=2) if begins else None,
        first=0,
        lag=0,
    )
    return local.Line(**fields | changes)


class Bench:
    def __init__(self, tmp: Path, config: Config, end: LearnersEnd) -> None:
        self.end = end
        self.station = Station(config, config.edges[0], end.address, tmp / "edge", lambda part: [part])
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.station.run, args=(self.stop,))
        self.thread.start()
        self.arm_process, self.server_process = Sleeper.started
        self.context = zmq.Context()
        self.sockets: list[zmq.Socket] = []
        self.server = local.local_socket(self.context, zmq.PUB)
        self.server.bind(self.server_process.option("--states"))
        self.sockets.append(self.server)
        self.arm = self.dial(self.arm_process, "station")
        until(self._served, "the station to hear of its policy server")
        # Else its first episode might be one of those that it starts while it is cut off.
        until(lambda: self.station._uplink.state == "connected", "the learner's answer")

    def _served(self) -> bool:
        self.server.send(local.encode(local.ServerState(2, 1, 0, 0, {})))
        return self.station.version == 2

    def dial(self, child: Sleeper, identity: str = "") -> zmq.Socket:
        socket = local.local_socket(self.context, zmq.DEALER)
        if identity:
            socket.identity = identity.encode()
        socket.connect(child.option("--station"))
        self.sockets.append(socket)
        return socket

    def send(self, *messages: local.AnyMessage) -> None:
        for message in messages:
            self.arm.send(local.encode(message))

    def rest(self, episode: int) -> None:
        self.send(local.ArmState("resting", episode, "ok", "me", 7, 0, 0, 0, 0, 0, 0))

    def started(self) -> int:
        while True:
            assert self.arm.poll(20_000), "the station starts no episode"
            message = local.decode(self.arm.recv())
            if isinstance(message, local.Start):
                assert message.token == 7
                return message.episode
            assert isinstance(message, local.Hold)

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20)
        self.station.close()
        for socket in self.sockets:
            socket.close()
        self.context.term()


@pytest.fixture
def bench(
    tmp_path: Path, config: Config, learners_end: LearnersEnd, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    Sleeper.started = []
    monkeypatch.setattr(paced_arm_module, "Child", Sleeper)
    monkeypatch.setattr(paced_arm_module, "Keeper", lambda start: Keeper(start, first_delay_s=0.01))
    bench = Bench(tmp_path, config, learners_end)
    yield bench
    bench.close()
    assert all(child.process.returncode is not None for child in Sleeper.started), "no process is left behind"


def test_an_episode_arrives_at_the_learner_as_the_arm_told_it(bench: Bench) -> None:
    bench.rest(-1)
    episode = bench.started()
    steps = 21
    bench.send(begin(episode))
    bench.send(*(line(episode, step, step == steps - 1) for step in range(steps)))
    until(lambda: bench.end.store.stored == 2, "two segments in the learner's store")
    segments = [segment for _, segment in bench.end.store.scan()]
    assert [segment.steps for segment in segments] == [16, 5]
    assert {(s.edge, s.robot, s.embodiment) for s in segments} == {("station", "station/arm", "panda")}
    whole = join(segments)
    np.testing.assert_array_equal(whole.observations["observation.state"][:, 0], np.arange(steps + 1))
    np.testing.assert_array_equal(whole.action_executed[:, 0], np.arange(steps) + 0.5)
    assert whole.version.tolist() == [2] * 6 and whole.start.tolist() == list(range(0, steps, 4))
    assert whole.executed.tolist() == [4, 4, 4, 4, 4, 1]
    assert whole.success[-1] and whole.terminated[-1]
    bench.rest(episode)
    assert bench.started() == episode + 1


@pytest.mark.parametrize(
    "fault", ["a line is missing", "the beginning is missing", "a line can't be read", "wrong shape"]
)
def test_an_episode_with_a_fault_is_dropped_and_the_next_one_begins(bench: Bench, fault: str) -> None:
    bench.rest(-1)
    episode = bench.started()
    lines = [line(episode, step, step == 5) for step in range(6)]
    if fault != "the beginning is missing":
        bench.send(begin(episode))
    if fault == "a line is missing":
        del lines[3]
    elif fault == "a line can't be read":
        lines[3] = line(episode, 3, proposed=local.Tensor("float32", (D,), b"1"))
    elif fault == "wrong shape":
        lines[3] = line(episode, 3, executed=local.Tensor.of(np.zeros(D + 1, np.float32)))
    bench.send(*lines)
    bench.arm.send(b"\xff\xff")
    bench.rest(episode)
    again = bench.started()
    assert again == episode + 1
    until(lambda: bench.end.gate.running_at("station") == 1, "the learner to know that only the new one runs")
    bench.send(begin(again), *(line(again, step, step == 3) for step in range(4)))
    until(lambda: bench.end.store.stored == 1, "the whole episode to be stored")
    ((_, segment),) = bench.end.store.scan()
    assert segment.steps == 4 and segment.last


def test_a_dead_arm_process_is_started_again_and_its_episode_given_up(bench: Bench) -> None:
    bench.rest(-1)
    episode = bench.started()
    bench.send(begin(episode), line(episode, 0))
    bench.arm_process.process.kill()
    until(lambda: len(Sleeper.started) == 3, "another arm process")
    successor = Sleeper.started[2]
    assert successor.name == "arm" and successor.arguments == bench.arm_process.arguments
    bench.arm.close()
    bench.arm = bench.dial(successor, "station")
    bench.rest(-1)
    again = bench.started()
    assert again > episode
    bench.send(begin(again), line(again, 0, last=True))
    until(lambda: bench.end.store.stored == 1, "the whole episode to be stored")
    bench.rest(again)
    assert bench.started() == again + 1
    until(lambda: bench.end.gate.running_at("station") == 1, "the learner to know that only the last one runs")


def test_an_arm_process_that_hangs_is_killed_and_its_episode_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.rest(-1)
    bench.started()
    hung = bench.arm_process
    hung._writing = os.open(os.devnull, os.O_WRONLY)  # what makes `kill` kill
    until(lambda: "arm" in bench.station._arm._heard, "what the arm said")
    monkeypatch.setattr(paced_arm_module, "HUNG_S", 0.2)
    until(lambda: any(child.name == "arm" for child in Sleeper.started[2:]), "another arm process")
    assert hung.process.returncode == -signal.SIGKILL
    until(lambda: bench.end.gate.running_at("station") == 0, "the learner to know that nothing runs")


def test_until_the_policy_server_has_weights_the_arm_rests(bench: Bench) -> None:
    bench.server.send(local.encode(local.ServerState(-1, 1, 0, 0, {})))
    until(lambda: bench.station.version == -1, "the station to hear it")
    bench.rest(-1)
    until(lambda: bench.end.gate.running_at("station") == 1, "the learner's grant")
    heard = []
    while bench.arm.poll(200):
        heard.append(local.decode(bench.arm.recv()))
    assert all(isinstance(message, local.Hold) for message in heard), "it started an episode"
    bench.server.send(local.encode(local.ServerState(-1, 1, 0, 0, {}, "compiling")))
    compiling = "the policy server, which is compiling"
    until(lambda: bench.end.server.peers()[0].waits_for == compiling, "the learner to know why the arm rests")
    bench.server.send(local.encode(local.ServerState(0, 1, 0, 0, {1: local.Latency(9, 2.5, 4.0)})))
    assert bench.started() == 1
    until(lambda: "; inference 2.5 ms (p99 4.0))" in bench.end.server.peers()[0].state, "the latency to be shown there")
