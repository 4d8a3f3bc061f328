"""The policy server's process, its weights from a learner's end over the wire, its robots played by the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from policies.base import Policy
from robotlearn.config import Config
from robotlearn.edge import local
from robotlearn.edge.serving import Serving
from robotlearn.edge.weights_source import LearnerWeights
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy, to_arrays
from tests.edge.conftest import LearnersEnd
from tests.edge.test_policy_server import Robot
from tests.waiting import until


def observation(policy: Policy, value: float) -> dict[str, np.ndarray]:
    return {key: np.full(shape, value, np.float32) for key, shape in policy.features.items()}


class Bench:
    def __init__(self, tmp: Path, config: Config, end: LearnersEnd) -> None:
        self.context = zmq.Context()
        self.station = local.local_socket(self.context, zmq.ROUTER)
        self.station.bind(f"ipc://{tmp}/station")
        ends = {part: f"ipc://{tmp}/{part}" for part in ("server", "station")}
        source = LearnerWeights(end.address, config, edge=config.edges[0].name, session=3)
        edge = config.edges[0].model_copy(update={"explore": False})
        self.serving = Serving(config, edge, source, session=3, **ends)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.serving.run, args=(self.stop,))
        self.thread.start()
        self.policy = build_policy(config, Inputs(config))
        self.robots = [Robot(self.context, ends["server"], f"robot-{i}") for i in range(3)]

    def ask(self, robot: Robot, fields: dict[str, np.ndarray]) -> int:
        robot.requests += 1
        robot.socket.send(local.encode(local.ChunkRequest(robot.name, robot.requests, "reach", local.tensors(fields))))
        return robot.requests

    def state(self) -> local.ServerState:
        assert self.station.poll(20_000)
        return local.decode(self.station.recv_multipart()[1])

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20)
        self.serving.close()
        for robot in self.robots:
            robot.close()
        self.station.close()
        self.context.term()


@pytest.fixture
def bench(tmp_path: Path, config: Config, learners_end: LearnersEnd) -> Iterator[Bench]:
    bench = Bench(tmp_path, config, learners_end)
    yield bench
    bench.close()


def zeroed(policy: Policy, bias: float) -> Policy:
    """A network that knows one velocity only: `bias` everywhere."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        list(policy.parameters())[-1].fill_(bias)
    return policy


def test_chunks_come_from_the_newest_weights_and_each_robot_has_noise_of_its_own(
    bench: Bench, learners_end: LearnersEnd
) -> None:
    policy, robots = bench.policy, bench.robots
    assert bench.state().version == -1
    bench.ask(robots[0], observation(policy, 0.1))
    until(lambda: bench.serving._server.counts["unanswered"], "the request to be left unanswered")
    for version, bias in ((4, 0.0), (9, -1.0)):
        learners_end.publisher.publish(version, to_arrays(zeroed(policy, bias)))
        while bench.state().version != version:
            pass
        noise = []
        for robot in robots:
            request = bench.ask(robot, observation(policy, 0.1))
            answer = robot.answer()
            assert (answer.request, answer.version) == (request, version)
            path = answer.path.array()
            np.testing.assert_allclose(path[-1], path[0] - bias, atol=1e-5)  # all of flow time along one velocity
            np.testing.assert_allclose(answer.actions.array(), path[-1], atol=1e-6)
            assert not answer.stochastic.array().any()
            noise.append(path[0])
        assert not any(np.allclose(noise[i], noise[j]) for i in range(3) for j in range(i))


def test_an_observation_that_does_not_fit_harms_no_other_robot(bench: Bench, learners_end: LearnersEnd) -> None:
    policy, (good, bad, odd) = bench.policy, bench.robots
    learners_end.publisher.publish(0, to_arrays(policy))
    while bench.state().version < 0:
        pass
    for _ in range(5):
        bench.ask(bad, {key: np.zeros((*value.shape, 2)) for key, value in observation(policy, 0).items()})
        bench.ask(odd, {"observation.images.front": np.zeros((4, 4, 3), np.uint8)})
        request = bench.ask(good, observation(policy, 0))
        assert good.answer().request == request
    until(lambda: bench.serving._server.counts["malformed"] == 10, "the misfits to be counted")
    assert not bad.socket.poll(0) and not odd.socket.poll(0)
    assert bench.thread.is_alive()
