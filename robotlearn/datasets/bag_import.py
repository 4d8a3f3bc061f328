"""A ROS 2 bag as a folder of demonstrations: sampled at the rate of a control loop, its commands as our actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.resize import fit
from envs.spaces import IMAGES, STATE
from hal.errors import nearest
from hal.spec import RobotSpec
from robotlearn.cells import policy_dim
from robotlearn.datasets.actions import deltas_of, plausible
from robotlearn.datasets.bags import IMAGES as IMAGE_KINDS
from robotlearn.datasets.bags import NUMBERS, STATES, TRAJECTORY, Axes, Bag, joint_states, options_of, set_points
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.folder import DemonstrationFolder, part_count, pieces
from robotlearn.datasets.resampling import NS, Interval, active, common, latest, ticks
from robotlearn.datasets.stored import EpisodeKey
from robotlearn.people import recording
from robotlearn.people.recording import EDGE, Shape

_PARTS = 1 << 20  # sequences that an episode may have
_COMMANDS = {TRAJECTORY: None, NUMBERS: None, STATES: None}
_LEAD = 0.1
"""Of a period: the first tick is so much before the first command, so that commands that come a little early or late
still are each a step's own."""
Array = NDArray[Any]


@dataclass(frozen=True)
class BagOptions:
    """Each field is an option of `robotlearn data import-bag`.

    images: camera of the spec to topic. hz: by default the robot's control_hz. episode_gap: seconds of silence of any
    of these topics that end an episode; None: a bag is one episode. ros: options of the drivers `ros2` and `dds`.
    """

    joint_states: str | None = None
    commands: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    hz: float | None = None
    episode_gap: float | None = None
    image_size: tuple[int, int] | None = None
    ros: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BagImported:
    """there: episodes that were in the folder already. silence_s: the longest of a topic within an episode."""

    path: Path
    added: int
    there: int
    steps: int
    silence_s: float


def import_bag(
    path: Path,
    out: Path,
    spec: RobotSpec,
    options: BagOptions | None = None,
    *,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> BagImported:
    """Adds a bag's episodes to `out`, each once, all as successes of a person.

    At each tick an observation is the latest at or before it. The action of a step is the set-point that was commanded
    last before the next tick, as a joint delta [rad] from the one before it (at the start: from where the joint was
    measured) and a gripper's width [m]; joints that nobody commands, all without `commands`, go where they are measured
    at the next tick. An episode begins when every joint has been heard, every camera seen and the first command is
    about to come.

    Raises DatasetError, RecordingError, LogError, DriverError, before anything is made wherever that can be told.
    """
    how = options or BagOptions()
    with Bag(path) as bag:
        sampled = _Sampled(bag, spec, how)
        shape = Shape(1, 1, policy_dim([spec]))
        content = recording.content(spec.model_copy(update={"control_hz": sampled.hz}), None, sampled.sizes, shape)
        recording.check_content(out, content)
        session, steps = bag.identity(), 0
        with DemonstrationFolder(out, content) as folder:
            folder.claim(session, str(path), {"robot": spec.name, **vars(how)})
            for number, grid in enumerate(sampled.grids):
                progress(number, len(sampled.grids))
                count, first = len(grid) - 1, number * _PARTS
                steps += count
                if all(folder.has(EDGE, session, first + part) for part in range(part_count(count))):
                    continue
                rows, observations = sampled.episode(grid)
                key = EpisodeKey(EDGE, session, number)
                folder.add(pieces(key, first, spec.embodiment, how.task, rows, observations, shape))
            progress(len(sampled.grids), len(sampled.grids))
            there = len(sampled.grids) - folder.added
            return BagImported(out, folder.added, there, steps, sampled.silence_s())


class _Sampled:
    """A bag's signals, and the ticks of each of its episodes. Raises DatasetError, DriverError."""

    def __init__(self, bag: Bag, spec: RobotSpec, how: BagOptions) -> None:
        self._bag, self._spec, self._how = bag, spec, how
        self.hz = how.hz or spec.control_hz
        ros = options_of(bag, spec, dict(how.ros) | ({"joint_states": how.joint_states} if how.joint_states else {}))
        self._axes = Axes(ros.entries(spec), spec, ros.unit)
        self._cameras = self._known_cameras()
        self._topics = self._known_commands(ros.gripper.command if ros.gripper is not None else None)
        self._states = joint_states(bag, ros.joint_states, self._axes)
        self._came = {topic: bag.times(topic) for topic in self._cameras.values()}
        if how.commands is not None:
            self._came[how.commands] = bag.times(how.commands)
        self.sizes: dict[str, tuple[int, ...]] = {STATE: (spec.dim,)}
        for name, topic in self._cameras.items():
            size = how.image_size or next((self._image(*one).shape[:2] for one in bag.messages(topic)), None)
            if size is not None:
                self.sizes[IMAGES + name] = (*size, 3)
        self.grids = [grid for grid in (ticks(one, self.hz) for one in self._intervals()) if len(grid) > 1]
        if not self.grids:
            names = ", ".join([ros.joint_states, *self._came])
            raise DatasetError(f"{bag.path} has no time in which all of {names} speak: there is no episode in it")
        for number, grid in enumerate(self.grids):
            plausible(self._measured(grid), spec, f"{bag.path}: episode {number}", "of these --option")

    def episode(self, grid: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Its arrays per step (T, ...) by their names in a segment, and its observations (T + 1, ...)."""
        steps, state = len(grid) - 1, self._measured(grid)
        action = deltas_of(self._targets(grid, state), state[0], self._spec)
        last = np.arange(steps) == steps - 1
        rows = {
            "action_proposed": action, "action_executed": action, "reward": last.astype(np.float32),
            "terminated": last, "truncated": np.zeros(steps, bool), "success": last,
            "intervention": np.ones(steps, bool), "held": np.zeros(steps, bool),
            "monotonic": (grid[:-1] - grid[0]) / NS, "wall": grid[:-1] / NS,
        }  # fmt: skip
        return rows, {STATE: state.astype(np.float32), **self._seen(grid)}

    def silence_s(self) -> float:
        """The longest time within an episode in which one of the signals did not come."""
        signals = [*(times for times, _ in self._states), *self._came.values()]
        inside = [times[(times >= grid[0]) & (times <= grid[-1])] for grid in self.grids for times in signals]
        return max((float(np.diff(times).max()) / NS for times in inside if len(times) > 1), default=0.0)

    # ---- inside

    def _intervals(self) -> list[Interval]:
        gap, period = self._how.episode_gap, NS / self.hz
        signals = [active(times, gap) for times, _ in self._states]
        for topic, times in self._came.items():
            found = active(times, gap)
            if topic == self._how.commands:
                found = [(begin - round(_LEAD * period), end + round(period)) for begin, end in found]
            signals.append(found)
        return common(signals)

    def _measured(self, grid: Array) -> Array:
        return np.stack([values[latest(times, grid)] for times, values in self._states], axis=1)

    def _targets(self, grid: Array, state: Array) -> Array:
        """(T, D) the set-points that are in force at the end of each step."""
        targets = np.array(state[1:])
        span = int(grid[0]), int(grid[-1])
        found = set_points(self._bag, self._topics, self._axes, span, 1 / self.hz, state[0])
        for entry, one in enumerate(found):
            if one.commanded:
                targets[:, entry] = [one.at(int(tick), state[0, entry]) for tick in grid[1:]]
        return targets

    def _seen(self, grid: Array) -> dict[str, Array]:
        wanted: dict[str, Array] = {}
        for topic in self._cameras.values():
            wanted[topic] = self._came[topic][latest(self._came[topic], grid)]
        if not wanted:
            return {}
        pictures: dict[tuple[str, int], Array] = {}
        needed = {topic: set(times.tolist()) for topic, times in wanted.items()}
        span = min(int(times[0]) for times in wanted.values()), int(grid[-1])
        for topic, time, message in self._bag.messages(*wanted, span=span):
            if time in needed[topic]:
                pictures[topic, time] = self._image(topic, time, message)
        found = {}
        for name, topic in self._cameras.items():
            rows = [pictures[topic, time] for time in wanted[topic].tolist()]
            if any(row.shape != self.sizes[IMAGES + name] for row in rows):
                raise DatasetError(
                    f"{topic} changes the size of its images: --image-size HEIGHT WIDTH makes them alike"
                )
            found[IMAGES + name] = np.stack(rows)
        return found

    def _image(self, topic: str, time: int, message: Any) -> Array:
        try:
            image = IMAGE_KINDS[self._bag.topics[topic]](message)
        except Exception as error:  # whatever Pillow does with what is no image
            raise DatasetError(f"{topic}: the image at {time / NS:.3f} s can't be decoded: {error}") from None
        return image if self._how.image_size is None else fit(image, self._how.image_size)

    def _known_cameras(self) -> dict[str, str]:
        cameras = {**self._how.images}
        names = [camera.name for camera in self._spec.cameras]
        for name, topic in cameras.items():
            if name not in names:
                raise DatasetError(
                    f"--image {name}={topic}: {self._spec.name} has no camera {name!r}: {nearest(name, names)}"
                )
            self._bag.check(topic, IMAGE_KINDS, f"--image {name}=TOPIC")
        return cameras

    def _known_commands(self, gripper: str | None) -> dict[str, slice]:
        """Topics of commands, each with the entries that are meant where its messages name none."""
        found, dim = {}, self._spec.dim
        if self._how.commands is not None:
            self._bag.check(self._how.commands, _COMMANDS, "--commands")
            found[self._how.commands] = slice(dim)
        if gripper is not None and self._bag.topics.get(gripper) in _COMMANDS:
            found[gripper] = slice(dim - 1, dim)
        return found
