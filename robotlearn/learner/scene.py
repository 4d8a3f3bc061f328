"""What a live view shows of a run, as Rerun's entities: see `RerunScene`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs.control import MAX_DELTA
from hal.binding import Binding, load_model
from hal.errors import SpecError
from hal.spec import RobotSpec
from robotlearn.wire.segment import Segment

STATE, IMAGES = "observation.state", "observation.images."
PICTURES_PER_S = 10.0
JPEG_QUALITY = 80
APART_M = 1.0
"""Robots stand side by side, so far apart."""
MAIN = {
    "success": ("success", "eval_success", "return"),
    "staleness": ("staleness_mean", "staleness_max"),
    "rate": ("samples_per_s",),
}
"""Of the metrics, those that have a plot of their own."""


class RerunScene:
    """One recording. The time line `wall` is the edges' clock for what arms did, the learner's for all else.

    ROBOT is EDGE/ROBOT, in a run of several robot models EDGE/ROBOT/MODEL.

    state/ROBOT               joints [rad], gripper width [m], per step
    action/ROBOT/proposed     what the policy proposed; /executed: after safety and intervention; /planned: every action
                              of each chunk, also those that never ran
    step/ROBOT/...            reward, held, intervention, per step; success, per episode
    version/ROBOT/...         of the weights of each chunk; staleness: the learner's version minus it
    world/ROBOT/arm           the chain of the joints, per step; /path: of the tool; /plan: where a chunk wants it to
                              go, reckoned from the measured joints
    images/ROBOT/CAMERA       JPEG, at most ten a second
    metrics/NAME              over `wall` and the learner's `version`
    episodes                  one line per episode: how it ended, the weights, the task
    live/shown, live/dropped, live/failed
    """

    def __init__(
        self, rerun: Any, stream: Any, specs: Sequence[RobotSpec], plan: Callable[[Segment], np.ndarray]
    ) -> None:
        """`rerun`: the module, `stream`: its RecordingStream; `plan`: see `live.Plan`. Used by one thread."""
        self._rr, self._stream, self._plan = rerun, stream, plan
        self._specs = {spec.embodiment: spec for spec in specs}
        self._poses: dict[str, _Poses | None] = {}
        self._robots: dict[tuple[str, str], str] = {}

    def layout(self) -> Any:
        """How a viewer lays it out, until its user does it otherwise."""
        from rerun import blueprint as rrb

        plots = [rrb.TimeSeriesView(origin=origin, name=origin) for origin in ("state", "action", "step", "version")]
        main = [
            rrb.TimeSeriesView(origin="metrics", contents=[f"$origin/{name}" for name in names], name=title)
            for title, names in MAIN.items()
        ]
        return rrb.Blueprint(
            rrb.Horizontal(
                rrb.Vertical(
                    rrb.Spatial3DView(origin="world", name="arms"),
                    rrb.Tabs(
                        rrb.TextLogView(origin="episodes", name="episodes"),
                        rrb.Spatial2DView(origin="images", name="images"),
                        rrb.TimeSeriesView(origin="live", name="live view"),
                    ),
                    row_shares=[2, 1],
                ),
                rrb.Vertical(
                    rrb.Tabs(*plots),
                    rrb.Tabs(*main, rrb.TimeSeriesView(origin="metrics", name="all metrics")),
                ),
            ),
            rrb.TimePanel(state="collapsed"),
        )

    def metrics(self, row: Mapping[str, Any], wall: float) -> None:
        """One row of the run's metrics."""
        self._stream.set_time("wall", timestamp=wall)
        self._stream.set_time("version", sequence=int(row["version"]))
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("version", "time"):
                self._stream.log(self._path("metrics", *name.split("/")), self._rr.Scalars(float(value)))
        self._stream.disable_timeline("version")

    def counts(self, shown: int, dropped: int, failed: int) -> None:
        """What was shown and what was not, at the time of what was logged last."""
        for name, value in (("shown", shown), ("dropped", dropped), ("failed", failed)):
            self._stream.log(f"live/{name}", self._rr.Scalars(float(value)))

    def segment(self, segment: Segment, version: int, wall: float) -> None:
        """One segment; `version` is the learner's when it came."""
        rr, robot = self._rr, self._robot(segment)
        times = _clock(segment.wall)
        for path, values in (
            (f"state/{robot}", segment.observations[STATE][1:]),
            (f"action/{robot}/proposed", segment.action_proposed),
            (f"action/{robot}/executed", segment.action_executed),
            (f"step/{robot}/reward", segment.reward),
            (f"step/{robot}/held", segment.held),
            (f"step/{robot}/intervention", segment.intervention),
        ):
            self._series(path, times, values, ends=segment.last)
        self._chunks(robot, segment, times, version)
        self._arm(robot, segment, times)
        for key, frames in segment.observations.items():
            if key.startswith(IMAGES):
                self._images(f"images/{robot}/{self._path(key.removeprefix(IMAGES))}", frames[1:], segment.wall, times)
        if segment.last:
            won, steps = bool(segment.success[-1]), segment.first_step + segment.steps
            self._stream.set_time("wall", timestamp=times[-1])
            self._stream.log(f"step/{robot}/success", rr.Scalars(float(won)))
            versions = sorted(set(segment.chunk_version.tolist()))
            outcome = f"{'success' if won else 'failure'} after {steps} steps, weights {versions}"
            text = f"{robot}: {outcome}: {segment.task}"
            self._stream.log("episodes", rr.TextLog(text, level="INFO" if won else "WARN"))
        self._stream.set_time("wall", timestamp=wall)

    def close(self) -> None:
        """Write what is left. Raises when nobody takes it for a few seconds."""
        self._stream.flush(timeout_sec=3.0)
        self._stream.disconnect()

    def _chunks(self, robot: str, segment: Segment, times: np.ndarray, version: int) -> None:
        if not len(segment.chunk_start):
            return
        starts = times[np.minimum(segment.chunk_start, segment.steps - 1)]
        self._series(f"version/{robot}/weights", starts, segment.chunk_version)
        self._series(f"version/{robot}/staleness", starts, version - segment.chunk_version)
        planned = self._plan(segment)
        # When its action h ran, or would have: a chunk's first executed action is number `first`.
        ahead = np.arange(planned.shape[1]) - segment.chunk_first[:, None]
        when = starts[:, None] + (ahead * _period(segment) * 1e9).astype("timedelta64[ns]")
        order = np.argsort(when, axis=None, kind="stable")
        flat = planned.reshape(-1, planned.shape[2])[order]
        self._series(f"action/{robot}/planned", when.reshape(-1)[order], flat)
        poses = self._poses_of(segment.embodiment)
        if poses is None:
            return
        joints = poses.joints
        state = segment.observations[STATE]
        for chunk, (start, first) in enumerate(zip(segment.chunk_start, segment.chunk_first, strict=True)):
            # As far as the arm may go in one step: a policy that has not learnt yet wants more.
            deltas = planned[chunk, first:, :joints].clip(-MAX_DELTA, MAX_DELTA).astype(np.float64).cumsum(0)
            targets = np.concatenate([state[start, :joints][None], state[start, :joints] + deltas])
            tool = poses(targets)[:, -1]
            self._stream.set_time("wall", timestamp=starts[chunk])
            self._stream.log(
                f"world/{robot}/plan", self._rr.LineStrips3D([tool], colors=[[255, 160, 0]], radii=[0.004])
            )

    def _arm(self, robot: str, segment: Segment, times: np.ndarray) -> None:
        poses = self._poses_of(segment.embodiment)
        if poses is None:
            return
        points = poses(segment.observations[STATE][:, : poses.joints])
        for moment, chain in zip(times, points[1:], strict=True):  # one by one: as columns, Rerun 0.26 refuses them
            self._stream.set_time("wall", timestamp=moment)
            self._stream.log(f"world/{robot}/arm", self._rr.LineStrips3D([chain], colors=[[200, 200, 210]]))
        self._stream.set_time("wall", timestamp=times[0])
        path = self._rr.LineStrips3D([points[:, -1]], colors=[[80, 170, 255]], radii=[0.003])
        self._stream.log(f"world/{robot}/path", path)

    def _images(self, path: str, frames: np.ndarray, wall: np.ndarray, times: np.ndarray) -> None:
        shown = -np.inf
        for frame, second, moment in zip(frames, wall.tolist(), times, strict=True):
            if second - shown >= 0.9 / PICTURES_PER_S:  # clocks tremble
                shown = second
                self._stream.set_time("wall", timestamp=moment)
                self._stream.log(path, self._rr.Image(frame).compress(jpeg_quality=JPEG_QUALITY))

    def _series(self, path: str, times: np.ndarray, values: np.ndarray, *, ends: bool = False) -> None:
        """`ends`: the line breaks off after it; what comes next is of another episode."""
        values = np.asarray(values, np.float64)
        if ends:
            times = np.append(times, times[-1] + np.timedelta64(1, "us"))
            values = np.concatenate([values, np.full_like(values[:1], np.nan)])
        columns = self._rr.Scalars.columns(scalars=values)
        self._stream.send_columns(path, [self._rr.TimeColumn("wall", timestamp=times)], columns)

    def _robot(self, segment: Segment) -> str:
        """The path of a robot; what stays the same about it is logged when it is first seen."""
        key = segment.robot, segment.embodiment
        if key in self._robots:
            return self._robots[key]
        # A batch of arms has one name, whatever models are in it.
        model = [segment.embodiment] if len(self._specs) > 1 else []
        robot = self._robots[key] = self._path(*segment.robot.split("/"), *model)
        spec, rr = self._specs.get(segment.embodiment), self._rr
        if spec is not None:
            names = list(spec.names)
            for path, style in (
                (f"state/{robot}", rr.SeriesLines(names=names)),
                (f"action/{robot}/proposed", rr.SeriesLines(names=[f"{name} proposed" for name in names])),
                (f"action/{robot}/executed", rr.SeriesLines(names=[f"{name} executed" for name in names])),
                (f"action/{robot}/planned", rr.SeriesPoints(names=[f"{name} planned" for name in names])),
            ):
                self._stream.log(path, style, static=True)
        place = rr.Transform3D(translation=[0.0, APART_M * (len(self._robots) - 1), 0.0])
        self._stream.log(f"world/{robot}", place, static=True)
        return robot

    def _poses_of(self, embodiment: str) -> "_Poses | None":
        if embodiment not in self._poses:
            try:
                self._poses[embodiment] = _Poses(self._specs[embodiment])
            except (KeyError, SpecError):  # no model to reckon with: its joints are shown, it is not
                self._poses[embodiment] = None
        return self._poses[embodiment]

    def _path(self, *parts: str) -> str:
        """Names come off the wire: one part of a path each, whatever is in them."""
        return "/".join(self._rr.escape_entity_path_part(part) for part in parts if part)


class _Poses:
    """Where an arm's joints and its tool are: (n, J) joint angles to points (n, J + 2, 3), from the base on."""

    def __init__(self, spec: RobotSpec) -> None:
        """Raises SpecError when the spec has no model."""
        self._model = load_model(spec)
        self._binding = Binding.of(spec, self._model)
        self._data = mujoco.MjData(self._model)
        self._joints = self._model.dof_jntid[self._binding.dof]
        self.joints = len(spec.joints)

    def __call__(self, angles: np.ndarray) -> np.ndarray:
        points = np.zeros((len(angles), self.joints + 2, 3))
        for row, q in zip(points, angles, strict=True):
            self._data.qpos[self._binding.qpos] = q
            mujoco.mj_kinematics(self._model, self._data)
            row[1:-1] = self._data.xanchor[self._joints]
            row[-1] = self._data.site_xpos[self._binding.tcp_site]
        return points


def _clock(seconds: np.ndarray) -> np.ndarray:
    return (seconds * 1e9).astype(np.int64).astype("datetime64[ns]")


def _period(segment: Segment) -> float:
    """Seconds from one step to the next, as they went by."""
    return float(np.median(np.diff(segment.wall))) if segment.steps > 1 else 0.1
