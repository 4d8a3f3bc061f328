"""The policy server over real sockets: eight robots, each gets its own chunks, whatever the others do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import zmq

from robotlearn.edge import local
from robotlearn.edge.policy_server import PolicyServer
from robotlearn.errors import WireError

H, D = 4, 2
ROBOTS = [f"robot-{i}" for i in range(8)]


def deadline(seconds: float = 20.0) -> Callable[[], None]:
    """Raises when what a test waits for does not come."""
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            pytest.fail("waited too long")

    return check


def chunk_of(observation: np.ndarray) -> np.ndarray:
    """The chunk says which observation it was made from."""
    return np.arange(H, dtype=np.float32)[:, None] + observation


def infer(requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
    observations = [request.observations["observation.state"].array() for request in requests]
    nothing = local.Tensor.of(np.zeros(0, np.float32))
    return [
        local.ChunkAnswer(request.request, 7, local.Tensor.of(chunk_of(o)), nothing, nothing, nothing)
        for request, o in zip(requests, observations, strict=True)
    ]


def check(request: local.ChunkRequest) -> None:
    if request.observations["observation.state"].array().shape != (D,):
        raise WireError("wrong shape")


class Robot:
    """A client as an arm process is one."""

    def __init__(self, context: zmq.Context, endpoint: str, name: str) -> None:
        self.name = name
        self.socket = local.local_socket(context, zmq.DEALER)
        self.socket.connect(endpoint)
        self.requests = 0

    def ask(self, observation: np.ndarray) -> int:
        self.requests += 1
        fields = local.tensors({"observation.state": np.asarray(observation, np.float32)})
        self.socket.send(local.encode(local.ChunkRequest(self.name, self.requests, "reach", fields)))
        return self.requests

    def answer(self, patience_ms: int = 20_000) -> local.ChunkAnswer:
        assert self.socket.poll(patience_ms), f"{self.name} got no answer"
        answer = local.decode(self.socket.recv())
        assert isinstance(answer, local.ChunkAnswer)
        return answer

    def close(self) -> None:
        self.socket.close()


class Running:
    """A policy server on a thread, and the sizes of the batches it ran."""

    def __init__(self, endpoint: str, **options: float) -> None:
        self.batches: list[list[str]] = []
        self.endpoint = endpoint
        self.stop = threading.Event()
        self.gate, self.held = threading.Event(), threading.Event()
        self.gate.set()
        self.server = PolicyServer(endpoint, self.infer, check, **options)
        self.thread = threading.Thread(target=self.server.serve, args=(self.stop, self.between))

    def between(self) -> None:
        if not self.gate.is_set():
            self.held.set()
            self.gate.wait(20)

    def infer(self, requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        self.batches.append([request.robot for request in requests])
        return infer(requests)

    def close(self) -> None:
        self.gate.set()
        self.stop.set()
        self.thread.join(20)
        self.server.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(f"ipc://{tmp_path}/s")
    running.thread.start()
    yield running
    running.close()


@pytest.fixture
def robots(running: Running) -> Iterator[list[Robot]]:
    context = zmq.Context()
    robots = [Robot(context, running.endpoint, name) for name in ROBOTS]
    yield robots
    for robot in robots:
        robot.close()
    context.term()


def test_eight_robots_each_get_the_chunks_of_their_own_observations(running: Running, robots: list[Robot]) -> None:
    rng = np.random.default_rng(0)
    failures: list[str] = []

    def live(robot: Robot, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            observation = rng.standard_normal(D).astype(np.float32)
            request = robot.ask(observation)
            answer = robot.answer()
            if answer.request != request or not np.array_equal(answer.actions.array(), chunk_of(observation)):
                failures.append(f"{robot.name}: request {request} got {answer.request}: {answer.actions.array()[0]}")

    threads = [
        threading.Thread(target=live, args=(robot, int(rng.integers(2**32))), name=robot.name) for robot in robots
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    assert running.server.counts["requests"] == 8 * 50
    assert running.server.counts["batches"] < 8 * 50, "they were batched"


def test_what_waits_is_answered_from_one_call(running: Running, robots: list[Robot]) -> None:
    for robot in robots:  # known to the server from here on
        robot.ask(np.zeros(D))
        robot.answer()
    waited_long = deadline()
    # The server is held before its next batch. It may still look before the last of what was asked has come to it.
    while not running.batches or len(running.batches[-1]) < 8:
        waited_long()
        running.batches.clear()
        running.held.clear()
        running.gate.clear()
        assert running.held.wait(20)
        for i, robot in enumerate(robots):
            robot.ask(np.full(D, i))
        running.gate.set()
        for i, robot in enumerate(robots):
            assert robot.answer().actions.array()[0, 0] == i


def test_slow_dead_and_babbling_robots_harm_no_other(running: Running, robots: list[Robot]) -> None:
    *honest, slow, dead, babbler = robots
    slow.ask(np.full(D, 50))  # takes its answer only at the end
    dead.ask(np.full(D, 60))
    dead.socket.close()
    wrong = {"observation.state": local.Tensor.of(np.zeros(D + 1, np.float32))}
    lying = {"observation.state": local.Tensor("float32", (2**40, 2**40), b"")}
    short = {"observation.state": local.Tensor("float32", (D,), b"1234")}
    garbage = [
        [b""],
        [b"\xff" * 100],
        [b"two", b"parts"],
        [local.encode(local.Start(1, 7))],
        *([local.encode(local.ChunkRequest("babbler", 1, "reach", fields))] for fields in (wrong, lying, short)),
    ]
    for round_ in range(10):
        for parts in garbage:
            babbler.socket.send_multipart(parts)
        for i, robot in enumerate(honest):
            robot.ask(np.full(D, 100 * round_ + i))
        for i, robot in enumerate(honest):
            answer = robot.answer()
            assert answer.request == robot.requests
            assert answer.actions.array()[0, 0] == 100 * round_ + i
    assert slow.answer().actions.array()[0, 0] == 50
    wait = deadline()
    while running.server.counts["malformed"] < 10 * len(garbage):
        wait()
    assert not babbler.socket.poll(0), "what can't be read is not answered"
    babbler.ask(np.full(D, 9))
    assert babbler.answer().actions.array()[0, 0] == 9, "it is served again once it makes sense"


def test_a_robot_that_asks_anew_gets_the_answer_to_its_newest_request_alone(
    running: Running, robots: list[Robot]
) -> None:
    robot = robots[0]
    robot.ask(np.zeros(D))
    robot.answer()
    running.gate.clear()
    robot.socket.send(b"wake up")
    for i in range(1, 4):
        newest = robot.ask(np.full(D, i))
    running.gate.set()
    answer = robot.answer()
    while answer.request != newest:  # the server may have looked in between
        answer = robot.answer()
    assert answer.actions.array()[0, 0] == 3
    assert not robot.socket.poll(50)


def test_weights_are_swapped_only_between_batches(tmp_path: Path) -> None:
    weights = {"version": 0}
    seen: list[tuple[int, int]] = []

    def slow_infer(requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        before = weights["version"]
        answers = infer(requests)
        seen.append((before, weights["version"]))
        return answers

    def between() -> None:
        weights["version"] += 1

    stop = threading.Event()
    server = PolicyServer(f"ipc://{tmp_path}/s", slow_infer)
    thread = threading.Thread(target=server.serve, args=(stop, between))
    context = zmq.Context()
    robot = Robot(context, f"ipc://{tmp_path}/s", "robot")
    thread.start()
    for _ in range(5):
        robot.ask(np.zeros(D))
        robot.answer()
    stop.set()
    thread.join(20)
    robot.close()
    context.term()
    server.close()
    assert [before for before, _ in seen] == sorted({before for before, _ in seen}), "`between` ran before each batch"
    assert all(before == after for before, after in seen)


def test_with_nothing_to_answer_with_robots_are_not_answered_and_may_ask_again(tmp_path: Path) -> None:
    ready = threading.Event()
    stop = threading.Event()
    server = PolicyServer(f"ipc://{tmp_path}/s", lambda requests: infer(requests) if ready.is_set() else [])
    thread = threading.Thread(target=server.serve, args=(stop,))
    context = zmq.Context()
    robot = Robot(context, f"ipc://{tmp_path}/s", "robot")
    thread.start()
    robot.ask(np.zeros(D))
    wait = deadline()
    while not server.counts["unanswered"]:
        wait()
    ready.set()
    newest = robot.ask(np.ones(D))
    assert robot.answer().request == newest
    stop.set()
    thread.join(20)
    robot.close()
    context.term()
    server.close()
