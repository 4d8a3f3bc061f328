"""Eight robots on one server of a VLA, in threads of their own: each gets the chunks of its own observations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from policies.base import Policy
from policies.normalizer import Statistics
from robotlearn.config import Config, load_config
from robotlearn.edge import local
from robotlearn.edge.serving import Serving
from robotlearn.inputs import Inputs
from robotlearn.policy import ask, build_policy
from tests.edge.test_policy_server import Robot

ROBOTS, ROUNDS = 8, 6
FRONT = "observation.images.front"
WORDS = ["lift", "push the green one away", "go", "stop", "open", "close it", "left", "right, and then further right"]


class Pretrained:
    """The checkpoint's weights, and statistics, as version 3; when asked for, others as version 4."""

    def __init__(self, config: Config) -> None:
        self._version, self._weights = -1, build_policy(config, Inputs(config)).state_dict()
        self.others = threading.Event()

    def renew(self, policy: Policy) -> int | None:
        if self._version < 0:
            self._version = 3
            policy.load_state_dict(self._weights)
            normalised(policy)
            return 3
        if self._version == 3 and self.others.is_set():
            self._version = 4
            changed(policy)
            return 4
        return None

    def close(self) -> None: ...


def normalised(policy: Policy) -> Policy:
    rng = np.random.default_rng(0)
    dims = {"observation.state": policy.features["observation.state"][0], "action": policy.action_dim}
    policy.set_statistics({key: Statistics(rng.normal(size=d), rng.uniform(0.5, 2, d)) for key, d in dims.items()})
    return policy


def changed(policy: Policy) -> Policy:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return policy


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    from policies.vla.tiny import write_tiny

    folder = write_tiny("smolvla", tmp_path_factory.mktemp("vla") / "smolvla", seed=7)
    return load_config(
        "smoke",
        [
            f"policy={{kind: smolvla, pretrained: {folder}, horizon: 8, denoising_steps: 4, width: 8}}",
            "observations={cameras: [front], image_size: auto, instruction: true, environment_state: false}",
            "observations.image_every=2",
        ],
    )


@pytest.fixture
def source(config: Config) -> Pretrained:
    return Pretrained(config)


@pytest.fixture
def serving(tmp_path: Path, config: Config, source: Pretrained) -> Iterator[Serving]:
    ends = {part: f"ipc://{tmp_path}/{part}" for part in ("server", "states")}
    paced = next(edge for edge in config.edges if edge.kind == "paced")
    serving = Serving(config, paced, source, session=3, explore=False, **ends)
    stop = threading.Event()
    thread = threading.Thread(target=serving.run, args=(stop,))
    thread.start()
    yield serving
    stop.set()
    thread.join(20)
    serving.close()


def test_eight_robots_of_a_vla_each_get_their_own_chunks(serving: Serving, config: Config, tmp_path: Path) -> None:
    inputs = Inputs(config)
    policy = normalised(build_policy(config, inputs))
    assert policy.features[FRONT] == (64, 64, 3), "of 128 x 128 pixels as many as the checkpoint takes"
    context = zmq.Context()
    robots = [Robot(context, f"ipc://{tmp_path}/server", f"robot-{i}") for i in range(ROBOTS)]
    heard: dict[str, list[tuple[dict[str, np.ndarray], local.ChunkAnswer]]] = {robot.name: [] for robot in robots}
    gate = threading.Barrier(ROBOTS)

    def live(index: int, robot: Robot) -> None:
        rng = np.random.default_rng(index)
        for number in range(ROUNDS):
            seen = {
                "observation.state": rng.standard_normal(policy.features["observation.state"], np.float32),
                FRONT: rng.integers(0, 256, (64, 64, 3), np.uint8),
            }
            gate.wait(60)  # so that they are served together
            robot.socket.send(local.encode(local.ChunkRequest(robot.name, number, WORDS[index], local.tensors(seen))))
            answer = robot.answer()
            assert answer.request == number
            heard[robot.name].append((seen, answer))

    threads = [threading.Thread(target=live, args=given) for given in enumerate(robots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [len(answers) for answers in heard.values()] == [ROUNDS] * ROBOTS
    assert serving._server.counts["batches"] < ROBOTS * ROUNDS, "they were batched"
    chunks = []
    for name, words in zip(heard, WORDS, strict=True):
        stream = np.random.default_rng([*serving._seed, *name.encode()])
        for seen, answer in heard[name]:
            noise = policy.noise(1, stream)
            np.testing.assert_array_equal(answer.path.array()[0], noise[0, 0])
            alone, _ = ask(policy, inputs, inputs.embodiments[0], batch_of(seen), words, noise, False)
            np.testing.assert_allclose(answer.actions.array(), alone[0], rtol=0, atol=1e-4)
            chunks.append(alone[0])
    assert not any(np.allclose(a, b, atol=1e-3) for i, a in enumerate(chunks) for b in chunks[:i])
    latencies = serving._latencies.by_size()
    assert sum(one.batches for one in latencies.values()) == serving._server.counts["batches"]
    assert 1 < max(latencies) <= ROBOTS
    for robot in robots:
        robot.close()
    context.term()


def test_after_new_weights_nothing_of_the_former_is_remembered(
    serving: Serving, source: Pretrained, config: Config, tmp_path: Path
) -> None:
    inputs = Inputs(config)
    policy = normalised(build_policy(config, inputs))
    context = zmq.Context()
    robot = Robot(context, f"ipc://{tmp_path}/server", "robot")
    rng = np.random.default_rng(0)
    seen = {
        "observation.state": rng.standard_normal(policy.features["observation.state"], np.float32),
        FRONT: rng.integers(0, 256, (64, 64, 3), np.uint8),
    }
    message = local.ChunkRequest("robot", 1, "lift", local.tensors(seen))

    def error() -> float:
        """Of an answer, by the weights of this process."""
        noise = torch.from_numpy(answer.path.array()[:1].copy())[None].expand(-1, 5, -1, -1)
        alone, _ = ask(policy, inputs, inputs.embodiments[0], batch_of(seen), "lift", noise, False)
        return float(np.abs(answer.actions.array() - alone[0]).max())

    for _ in range(2):
        robot.socket.send(local.encode(message))
        answer = robot.answer()
        assert answer.version == 3 and error() < 1e-4
    images = serving._policy._field._both.embed_image
    assert images.computed == 1, "it was the same image"
    source.others.set()
    while answer.version == 3:
        robot.socket.send(local.encode(message))
        answer = robot.answer()
    assert error() > 1e-2
    changed(policy)
    assert error() < 1e-4
    robot.close()
    context.term()


def batch_of(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value[None] for key, value in seen.items()}
