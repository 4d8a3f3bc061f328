"""The policy server's process, its weights from a learner's end over the wire, its robots played by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import zmq

from policies.base import Policy
from robotlearn.config import Config, ExecutionConfig
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
        ends = {part: f"ipc://{tmp}/{part}" for part in ("server", "states")}
        self.station = local.local_socket(self.context, zmq.SUB)
        self.station.subscribe(b"")
        self.station.connect(ends["states"])
        source = LearnerWeights(end.address, config, edge=config.edges[0].name, session=3)
        edge = config.edges[0].model_copy(update={"explore": False})
        self.serving = Serving(config, edge, source, session=3, **ends)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.serving.run, args=(self.stop,))
        self.thread.start()
        self.policy = build_policy(config, Inputs(config))
        self.robots = [Robot(self.context, ends["server"], f"robot-{i}") for i in range(3)]

    def ask(
        self, robot: Robot, fields: dict[str, np.ndarray], plan: np.ndarray | None = None, delay: int = 0
    ) -> int:
        robot.requests += 1
        asked = local.ChunkRequest(robot.name, robot.requests, "reach", local.tensors(fields))
        if plan is not None:
            asked = msgspec.structs.replace(asked, plan=local.Tensor.of(plan), delay=delay)
        robot.socket.send(local.encode(asked))
        return robot.requests

    def state(self) -> local.ServerState:
        assert self.station.poll(20_000)
        return local.decode(self.station.recv())

    def state_when(self, wanted: Callable[[local.ServerState], bool]) -> local.ServerState:
        """The next state that is so."""
        while not wanted(state := self.state()):
            pass
        return state

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


def test_chunks_go_on_from_the_plans_of_their_robots_and_no_others(
    tmp_path: Path, config: Config, learners_end: LearnersEnd
) -> None:
    edge = config.edges[0].model_copy(update={"explore": False, "execution": ExecutionConfig(way="rtc", ahead=3)})
    guided = Bench(tmp_path, config.model_copy(update={"edges": (edge, *config.edges[1:])}), learners_end)
    try:
        policy, (with_plan, without, bad) = guided.policy, guided.robots
        calls, act_guided = [], guided.serving._policy.act_guided
        guided.serving._policy.act_guided = lambda *given: calls.append(given) or act_guided(*given)
        learners_end.publisher.publish(0, to_arrays(zeroed(policy, 0.0)))
        while guided.state().version < 0:
            pass
        assert len(calls) == 1, "done once before any robot waits for it"
        h, d = policy.horizon, policy.action_dim
        plan = np.full((h - 1, d), 3.0, np.float32)
        for shape, delay in (((h + 1, d), 1), ((2, d + 1), 1), ((2, d), 3)):
            guided.ask(bad, observation(policy, 0.1), np.zeros(shape, np.float32), delay)
        until(lambda: guided.serving._server.counts["malformed"] == 3, "the plans that are none to be counted")
        guided.ask(with_plan, observation(policy, 0.1), plan, 2)
        alone = with_plan.answer().path.array()
        assert (np.abs(alone[-1, :2] - 3.0) < 0.1 * np.abs(alone[0, :2] - 3.0)).all(), "it came over the socket"
        fields = local.tensors(observation(policy, 0.1))
        asked = local.ChunkRequest(with_plan.name, 9, "reach", fields, plan=local.Tensor.of(plan), delay=2)
        both = guided.serving._infer([asked, local.ChunkRequest(without.name, 9, "reach", fields)])
        path, free = (answer.path.array() for answer in both)
        np.testing.assert_allclose(free[-1], free[0], atol=1e-5)  # a velocity of 0
        # There x_0 is x_t: each step pulls, and the kept actions most.
        pulled = (path[-1] - path[0]) / (3.0 - path[0])
        assert (pulled[:2] > 0.9).all() and not pulled[h - 1 :].any()
        assert (pulled[2] < pulled[1]).all() and (pulled[2] > 0).all()
    finally:
        guided.close()


def test_its_latency_is_told_by_the_size_of_the_batch(bench: Bench, learners_end: LearnersEnd) -> None:
    learners_end.publisher.publish(0, to_arrays(bench.policy))
    assert bench.state_when(lambda state: state.version == 0).latencies == {}
    for robot in bench.robots:
        for _ in range(3):
            bench.ask(robot, observation(bench.policy, 0.1))
            robot.answer()
    state = bench.state_when(lambda state: state.requests == 9)
    assert sum(size * one.batches for size, one in state.latencies.items()) == 9
    assert all(0 < one.p50_ms <= one.p99_ms for one in state.latencies.values())


def serving_that_compiles(
    tmp: Path, config: Config, end: LearnersEnd, monkeypatch: pytest.MonkeyPatch, warm_up: Callable[..., None]
) -> Bench:
    monkeypatch.setattr(Policy, "serve", lambda self, *, compiled, images_again: None)
    monkeypatch.setattr("robotlearn.edge.serving.warm_up", warm_up)
    edge = config.edges[0].model_copy(update={"compile": "always"})
    return Bench(tmp, config.model_copy(update={"edges": (edge,)}), end)


def test_nothing_is_served_while_it_compiles(
    tmp_path: Path, config: Config, learners_end: LearnersEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = threading.Event()
    bench = serving_that_compiles(tmp_path, config, learners_end, monkeypatch, lambda *given: compiled.wait(20))
    try:
        learners_end.publisher.publish(0, to_arrays(bench.policy))
        bench.ask(bench.robots[0], observation(bench.policy, 0.1))
        for _ in range(3):
            state = bench.state()
            assert (state.busy, state.version) == ("compiling", -1)
        assert not bench.robots[0].socket.poll(0)
        compiled.set()
        assert bench.state_when(lambda state: state.version == 0).busy == ""
        bench.ask(bench.robots[0], observation(bench.policy, 0.1))
        assert bench.robots[0].answer().version == 0
    finally:
        compiled.set()
        bench.close()


def test_where_torch_can_not_compile_it_says_what_to_set(
    tmp_path: Path, config: Config, learners_end: LearnersEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(policy: Policy, guidance: float | None) -> None:
        raise RuntimeError("no C++ compiler\nmore of it")

    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(str(args.exc_value)))
    failures: list[str] = []
    bench = serving_that_compiles(tmp_path, config, learners_end, monkeypatch, fail)
    bench.thread.join(20)
    bench.close()
    name = config.edges[0].name
    assert failures == [
        f"edge {name}: torch can't compile the policy here (RuntimeError: no C++ compiler); set this edge's compile to "
        "never"
    ]
