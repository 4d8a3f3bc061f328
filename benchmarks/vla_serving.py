"""From observation to chunk of a tiny SmolVLA: in one process, over our policy server, over LeRobot's.

All with the same weights and one thread, in turn, chunk by chunk. Ours and what is done in one process begin with the
camera's whole picture: to scale it down counts. Our server comes as it is on a CPU, and compiled. Then eight robots at
once on it; their chunks are compared with those in one process. Needs the extra `vla`, grpcio and a C++ compiler, which
works for minutes first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml
import zmq

from benchmarks.lerobot_server import LEAST_S, LeRobotRobot, LeRobotServer
from benchmarks.report import report
from envs.resize import shrunk
from hal.data import data_path
from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config import Config, load_config
from robotlearn.edge import local
from robotlearn.edge.shared_frames import FrameRing

SIZES = ((128, 128), (480, 640))
CHUNKS, FIRST = 150, 10  # the first few don't count
ROBOTS, TOGETHER = 8, 60
FRONT, STATE, WORDS = "observation.images.front", "observation.state", "pick up the cube"
DIM, HORIZON = 8, 8

Chunk = Callable[[np.ndarray, np.ndarray], np.ndarray]


def run() -> None:
    """Prints p50 and p99 of each way, beside those in one process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="robotlearn-") as folder, contextlib.ExitStack() as stack:
        checkpoint = _checkpoint(Path(folder))
        servers = {name: LeRobotServer(least_s) for name, least_s in LEAST_S.items()}
        for server in servers.values():
            stack.callback(server.close)
        for size in SIZES:
            config = _config(Path(folder), checkpoint, size)
            with _served(Path(folder), config, "never") as endpoint, _served(Path(folder), config, "always") as fast:
                ways: dict[str, Chunk] = {
                    "in_process": _in_process(config),
                    "ours": _Robot(config, endpoint, 0).chunk,
                    "ours_compiled": _Robot(config, fast, 0).chunk,
                }
                for name, server in servers.items():
                    robot = LeRobotRobot(server, checkpoint, DIM, size, HORIZON)
                    ways[name] = lambda state, image, robot=robot: robot.chunk(state, image, WORDS)  # type: ignore[misc]
                _compare(size, ways)
                for name, end in (("ours", endpoint), ("ours_compiled", fast)):
                    _together(name, size, config, end)


def _compare(size: tuple[int, int], ways: dict[str, Chunk]) -> None:
    took: dict[str, list[float]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for number in range(-FIRST, CHUNKS):
        for name, chunk in ways.items():
            state, image = _observation(rng, size)
            begun = time.perf_counter()
            actions = chunk(state, image)
            if number >= 0:
                took[name].append(time.perf_counter() - begun)
            if actions.shape != (HORIZON, DIM):
                raise RuntimeError(f"{name} gave actions of shape {actions.shape}")
    for share, quantile in (("p50", 0.5), ("p99", 0.99)):
        found = {name: 1000 * float(np.quantile(times, quantile)) for name, times in took.items()}
        for name, value in found.items():
            ours = None if name == "in_process" else found["in_process"]
            report(f"vla_serving.{size[0]}x{size[1]}.{name}.{share}", value, "ms", "in one process", ours)
        if share == "p50":
            for name in LEAST_S:
                for ours in ("ours", "ours_compiled"):
                    report(f"vla_serving.{size[0]}x{size[1]}.{name}_by_{ours}", found[name] / found[ours], "times")


def _together(name: str, size: tuple[int, int], config: Config, endpoint: str) -> None:
    """Eight robots at once, each at its own observations; their chunks are compared with those in one process."""
    alone = _in_process(config)
    robots = [_Robot(config, endpoint, index + 1) for index in range(ROBOTS)]
    gate, took, heard = threading.Barrier(ROBOTS), [], []

    def live(robot: _Robot, seed: int) -> None:
        rng = np.random.default_rng(seed)
        gate.wait()
        for number in range(-FIRST, TOGETHER):
            state, image = _observation(rng, size)
            begun = time.perf_counter()
            actions = robot.chunk(state, image)
            if number >= 0:
                took.append(time.perf_counter() - begun)
                heard.append((state, image, robot.noise, actions))

    threads = [threading.Thread(target=live, args=(robot, seed)) for seed, robot in enumerate(robots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [float(np.abs(alone(state, image, noise) - actions).max()) for state, image, noise, actions in heard]  # type: ignore[call-arg]
    if len(heard) != ROBOTS * TOGETHER or max(errors) > 1e-3:
        raise RuntimeError(f"{len(heard)} chunks, of which one is off by {max(errors)}: not everyone got its own")
    for share, quantile in (("p50", 0.5), ("p99", 0.99)):
        value = 1000 * float(np.quantile(took, quantile))
        report(f"vla_serving.{size[0]}x{size[1]}.{ROBOTS}_robots.{name}.{share}", value, "ms")


def _observation(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal(DIM, np.float32), rng.integers(0, 256, (*size, 3), np.uint8)


def _in_process(config: Config) -> Callable[..., np.ndarray]:
    import torch

    from robotlearn.inputs import Inputs
    from robotlearn.policy import ask, build_policy

    inputs = Inputs(config)
    policy, size = build_policy(config, inputs), inputs.features[FRONT][:2]
    policy.serve(compiled=False, images_again=False)
    rng = np.random.default_rng(1)

    def chunk(state: np.ndarray, image: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        seen = {STATE: state[None], FRONT: shrunk(image, (size[0], size[1]))[None]}
        drawn = policy.noise(1, rng)
        if noise is not None:
            drawn[0, 0] = torch.tensor(noise)
        return ask(policy, inputs, inputs.embodiments[0], seen, [WORDS], drawn, False)[0][0]

    return chunk


class _Robot:
    """As an arm process is one: the picture scaled down, then in shared memory, the rest in the message."""

    def __init__(self, config: Config, endpoint: str, index: int) -> None:
        shape = observation_shapes(cells_of(config)[0], env_options(config))[FRONT]
        self._size = shape[0], shape[1]
        self._name, self._number = f"robot-{index}", 0
        self._socket = local.local_socket(zmq.Context.instance(), zmq.DEALER)
        self._socket.connect(endpoint)
        self._ring = FrameRing(4, int(np.prod(shape)))
        self.noise = np.zeros(0)

    def chunk(self, state: np.ndarray, image: np.ndarray) -> np.ndarray:
        self._number += 1
        seen = local.shared({STATE: state, FRONT: shrunk(image, self._size)}, self._ring)
        self._socket.send(local.encode(local.ChunkRequest(self._name, self._number, WORDS, seen, self._ring.memory)))
        answer = local.decode(self._socket.recv())
        if answer.request != self._number:
            raise RuntimeError(f"{self._name} asked for chunk {self._number} and got {answer.request}")
        self.noise = answer.path.array()[0]
        actions: np.ndarray = answer.actions.array()
        return actions


@contextlib.contextmanager
def _served(folder: Path, config: Config, compile_: str) -> Iterator[str]:
    """Our policy server as a process."""
    config = config.model_copy(update={"edges": (config.edges[0].model_copy(update={"compile": compile_}),)})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    station = local.local_socket(context, zmq.SUB)
    station.subscribe(b"")
    place = folder / str(time.monotonic_ns())
    place.mkdir()
    ends = {part: f"ipc://{place}/{part}" for part in ("server", "states")}
    station.connect(ends["states"])
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(config, ends), daemon=True)
    process.start()
    try:
        while local.decode(station.recv()).version < 0:
            pass
        yield ends["server"]
    finally:
        process.kill()
        process.join()
        station.close()


def _serve(config: Config, ends: dict[str, str]) -> None:
    from policies.base import Policy
    from robotlearn.edge.serving import Serving
    from robotlearn.inputs import Inputs
    from robotlearn.policy import build_policy

    class OfCheckpoint:
        """The weights that the checkpoint has."""

        policy: Policy | None = build_policy(config, Inputs(config))

        def renew(self, policy: Policy) -> int | None:
            mine, self.policy = self.policy, None
            if mine is None:
                return None
            policy.load_state_dict(mine.state_dict())
            return 0

        def close(self) -> None: ...

    Serving(config, config.edges[0], OfCheckpoint(), session=1, explore=False, **ends).run(threading.Event())  # type: ignore[arg-type]


def _checkpoint(folder: Path) -> Path:
    """A tiny SmolVLA as LeRobot has it, statistics and all."""
    from policies.normalizer import Statistics
    from policies.registry import make_policy
    from policies.vla.load import Checkpoint
    from policies.vla.save import save
    from policies.vla.tiny import write_tiny

    source = write_tiny("smolvla", folder / "tiny", state=DIM, action=DIM, chunk=HORIZON, seed=7)
    features = {STATE: (DIM,), FRONT: (64, 64, 3), "instruction": (256,)}
    options = {"horizon": HORIZON, "action_dim": DIM, "width": DIM, "denoising_steps": 4, "pretrained": str(source)}
    policy = make_policy("smolvla", features=features, **options)
    policy.set_statistics({key: Statistics(np.zeros(DIM), np.ones(DIM)) for key in (STATE, "action")})
    save(policy, folder / "checkpoint", Checkpoint(str(source), "smolvla"))  # type: ignore[arg-type]
    return folder / "checkpoint"


def _config(folder: Path, checkpoint: Path, size: tuple[int, int]) -> Config:
    """A panda on a paced edge whose camera delivers pictures of that size."""
    file = data_path("hardware_specs") / "panda.yaml"
    spec = yaml.safe_load(file.read_text())
    spec["cameras"] = [{"name": "front", "height": size[0], "width": size[1], "fps": 10}]
    spec["mujoco"]["mjcf"] = str(file.parent / spec["mujoco"]["mjcf"])
    robot = folder / f"panda-{size[0]}.yaml"
    robot.write_text(yaml.safe_dump(spec))
    policy = {"kind": "smolvla", "pretrained": str(checkpoint), "horizon": HORIZON, "denoising_steps": 4}
    seen = {"cameras": ["front"], "image_size": "auto", "instruction": True, "environment_state": False}
    return load_config(
        "smoke",
        [
            f"robot={robot}",
            f"policy={yaml.safe_dump(policy | {'width': DIM, 'statistics': 'checkpoint'}, default_flow_style=True)}",
            f"observations={yaml.safe_dump(seen, default_flow_style=True)}",
            "edges=[{name: arm, kind: paced}]",
        ],
    )
