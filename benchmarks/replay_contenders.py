"""What `benchmarks.replay` compares: each is filled with the same steps and drawn from. Only ours needs robotlearn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

if TYPE_CHECKING:
    from robotlearn.buffer.log_files import Position
    from robotlearn.buffer.store import SegmentStore
    from robotlearn.inputs import Inputs
    from robotlearn.replay.memory import ReplayMemory
    from robotlearn.replay.sampling import Sampling

T, SIDE, STATE, ACTION = 32, 128, 14, 7
CAMERAS = ("observation.images.front", "observation.images.wrist")
IMAGES = len(CAMERAS) * SIDE * SIDE * 3
BUDGET = 1 << 30

Found = dict[str, float]
Sample = Callable[[int], object]


def segments(steps: int) -> Iterator[dict[str, np.ndarray]]:
    """T steps at a time: T + 1 states and images of each camera, T actions and rewards."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (128, SIDE, SIDE, 3), dtype=np.uint8)  # what they show makes no difference
    for number in range(steps // T):
        which = number * 37 + np.arange(T + 1)
        yield {
            **{key: pictures[(which + 64 * camera) % len(pictures)] for camera, key in enumerate(CAMERAS)},
            "state": rng.standard_normal((T + 1, STATE), np.float32),
            "action": rng.standard_normal((T, ACTION), np.float32),
            "reward": rng.standard_normal(T, np.float32),
        }


def stored(steps: int, store: SegmentStore) -> Iterator[tuple[Position, memoryview, float]]:
    """The same as raw records in a learner's store: where each lies, and how many seconds it took to store it."""
    from benchmarks.segments import make_segment
    from robotlearn.wire import record

    like = make_segment()
    for number, data in enumerate(segments(steps)):
        observations = {"observation.state": data["state"], **{key: data[key] for key in CAMERAS}}
        actions = {"action_proposed": data["action"], "action_executed": data["action"]}
        segment = replace(like, observations=observations, reward=data["reward"], episode=number, **actions)
        encoded = record.encode(segment, session=1, sequence=number)
        begun = time.perf_counter()
        position = store.append([encoded])[0].position
        took = time.perf_counter() - begun
        if position is None:
            raise SystemExit("a segment wasn't stored")
        yield position, memoryview(encoded), took


def ours(steps: int, folder: Path) -> tuple[Sample, Found]:
    """The learner's replay memory over its store of segments, raw images, each episode a segment.

    "add" is what comes on top of storing, "durable" is both; "open" is to open it all again and draw a batch of 256.
    """
    from robotlearn.buffer.store import SegmentStore
    from robotlearn.replay.sampling import ONLINE

    store = SegmentStore(folder, sync="power")
    memory, sampling = _empty()
    storing = adding = 0.0
    for position, encoded, took in stored(steps, store):
        begun = time.perf_counter()
        found, _ = memory.add(store.records, position, encoded, ONLINE)
        for drawable in found:
            sampling.add(drawable)
        storing += took
        adding += time.perf_counter() - begun
    in_memory = memory.nbytes / (steps // T * (T + 1) * IMAGES)
    store.close()
    opening = time.perf_counter()
    again, drawn = _empty()
    with SegmentStore(folder) as store:
        for position, record in store.records.scan(verify=False):
            for drawable in again.add(store.records, position, record, ONLINE, load=False)[0]:
                drawn.add(drawable)
        _drawing(again, drawn)(256)
        opened = time.perf_counter() - opening
    found = {"add": steps / adding, "durable": steps / (adding + storing), "in_memory": in_memory, "open": opened}
    return _drawing(memory, sampling), found


def _empty() -> tuple[ReplayMemory, Sampling]:
    from robotlearn.algorithms.transitions import Window
    from robotlearn.config.replay import PartConfig
    from robotlearn.replay.memory import ReplayMemory
    from robotlearn.replay.sampling import Sampling

    features = {"observation.state": (STATE,), **dict.fromkeys(CAMERAS, (SIDE, SIDE, 3))}
    shown = SimpleNamespace(
        features=features,
        embodiments=("panda",),
        action_dim=ACTION,
        laid_out=lambda embodiment, key, values: values,
        padded=lambda embodiment, values: values,
    )
    return ReplayMemory(cast("Inputs", shown), Window(1, 1, 0.99), BUDGET), Sampling((PartConfig(),))


def _drawing(memory: ReplayMemory, sampling: Sampling) -> Sample:
    """Draws and gathers on the calling thread, as the others do; the learner has it done ahead on another one."""
    rng, outs = np.random.default_rng(1), dict[int, dict[str, dict[str, torch.Tensor]]]()

    def sample(batch: int) -> object:
        if batch not in outs:
            outs[batch] = memory.buffers(batch)
        memory.gather(sampling.draw(batch, rng).rows, outs[batch])
        return outs[batch]

    return sample


def ring(steps: int, folder: Path) -> tuple[Sample, Found]:
    """NumPy arrays with one image per camera and step, drawn by an array of indices."""
    return _ring(steps, lambda array, index, out: array[index])


def limit(steps: int, folder: Path) -> tuple[Sample, Found]:
    """The same with torch's index_select into arrays that are used again."""
    return _ring(steps, lambda array, index, out: torch.index_select(_flat(array), 0, torch.from_numpy(index), out=out))


def _flat(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.reshape(len(array), -1))


def _ring(steps: int, take: Callable[[np.ndarray, np.ndarray, torch.Tensor], object]) -> tuple[Sample, Found]:
    shapes = {**dict.fromkeys(CAMERAS, (SIDE, SIDE, 3)), "state": (STATE,), "action": (ACTION,), "reward": ()}
    dtypes = {key: np.uint8 if key in CAMERAS else np.float32 for key in shapes}
    arrays = {key: np.empty((steps, *shape), dtypes[key]) for key, shape in shapes.items()}
    at, took = 0, 0.0
    for data in segments(steps):
        begun = time.perf_counter()
        for step in range(T):
            for key in shapes:
                arrays[key][at] = data[key][step]
            at += 1
        took += time.perf_counter() - begun
    rng, outs = np.random.default_rng(1), dict[tuple[str, int], torch.Tensor]()

    def drawn(key: str, index: np.ndarray) -> object:
        if (key, len(index)) not in outs:
            outs[key, len(index)] = torch.zeros_like(_flat(arrays[key][: len(index)]))
        return take(arrays[key], index, outs[key, len(index)])

    def sample(batch: int) -> object:
        before = rng.integers(0, at - 1, batch)
        both = np.concatenate((before, before + 1))
        return [drawn(key, both) for key in (*CAMERAS, "state")], [drawn(key, before) for key in ("action", "reward")]

    return sample, {"add": steps / took}


def lerobot(steps: int, folder: Path) -> tuple[Sample, Found]:
    return _lerobot(steps, False)


def lerobot_optimized(steps: int, folder: Path) -> tuple[Sample, Found]:
    """With `optimize_memory`, with which it has a wrong next state wherever an episode is cut off."""
    return _lerobot(steps, True)


def _lerobot(steps: int, optimize: bool) -> tuple[Sample, Found]:
    from lerobot.rl.buffer import ReplayBuffer

    keys = ["observation.state", *CAMERAS]
    buffer = ReplayBuffer(steps, "cpu", keys, use_drq=False, storage_device="cpu", optimize_memory=optimize)
    # As its actor holds them: float32, channels first.
    seen = [
        {"observation.state": torch.randn(1, STATE), **{key: torch.rand(1, 3, SIDE, SIDE) for key in CAMERAS}}
        for _ in range(T + 1)
    ]
    action = torch.randn(1, ACTION)
    begun = time.perf_counter()
    for step in range(steps):
        buffer.add(seen[step % T], action, 0.0, seen[step % T + 1], step % 100 == 99, False)
    return buffer.sample, {"add": steps / (time.perf_counter() - begun)}


def torchrl(steps: int, folder: Path) -> tuple[Sample, Found]:
    """Its memory-mapped storage, filled T steps at a time."""
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(steps, scratch_dir=folder), batch_size=1)
    took = 0.0
    for data in segments(steps):
        begun = time.perf_counter()
        arrays = {key: torch.from_numpy(array) for key, array in data.items()}
        now, following = ({key: arrays[key][i : i + T] for key in (*CAMERAS, "state")} for i in (0, 1))
        rest = {"action": arrays["action"], "next": {**following, "reward": arrays["reward"]}}
        buffer.extend(TensorDict({**now, **rest}, batch_size=[T]))
        took += time.perf_counter() - begun
    return buffer.sample, {"add": steps / took}


class Contender(NamedTuple):
    """`in_memory`: bytes of memory that a step needs, where that isn't bounded. imports: what isn't counted as such."""

    said: str
    fill: Callable[[int, Path], tuple[Sample, Found]]
    in_memory: int = 0
    imports: tuple[str, ...] = ()


CONTENDERS = {
    "ours": Contender("ours", ours, 0, ("benchmarks.segments", "robotlearn.replay.batches")),
    "limit": Contender("bare index_select", limit, IMAGES),
    "ring": Contender("NumPy ring", ring, IMAGES),
    "lerobot": Contender("LeRobot", lerobot, 2 * 4 * IMAGES, ("lerobot.rl.buffer",)),
    "lerobot_optimized": Contender("LeRobot, optimize_memory", lerobot_optimized, 4 * IMAGES, ("lerobot.rl.buffer",)),
    "torchrl": Contender("torchrl, memory-mapped", torchrl, 0, ("tensordict", "torchrl.data")),
}
