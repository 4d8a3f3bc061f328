"""A policy that takes 200 ms, by what its arm does meanwhile: how well it follows a target, starved ticks, jerk.

A simulated Panda at 20 Hz of wall-clock time, behind an arm process and a policy server, each a process, as on an edge.
Its target wanders: straight on at 0.15 m/s, then another way, which nobody can foresee. A flow policy of chunks of 12
steps imitates the scripted expert, which goes where the target is. The policy server answers 200 ms after a request, or
later where it computes for longer; nothing else of it is changed. Every way meets the same targets.
    python -m benchmarks late_chunks
BENCH_EPISODES=5 and BENCH_SECONDS=12 say how many episodes of how long each way has; BENCH_WAYS="hold;rtc" picks.
The picture is benchmarks/late_chunks.png. Six ways and the training before them take about 10 minutes.

Columns, medians over episodes: mean distance from tool to target from the second second on; ticks without an action, %;
time in which the arm was given none, %, which counts the rests of `wait` too; root mean square of the third difference
of the commanded joints; the delay that the arm measured, in steps; episodes that the arm's own control ended.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq
from numpy.typing import NDArray

import hal
from benchmarks.report import report
from envs import ArmEnv, register_task
from envs.expert import Expert
from envs.scene import build_scene
from envs.task import SceneState, ToolGoal
from envs.tasks.reach import Reach
from hal import RobotSpec
from hal.data import data_path
from hal.document import parse, write
from hal.drivers.mujoco import MujocoRobot
from policies import statistics as scale
from policies.base import Policy
from robotlearn.algorithms.sft import SFT, windows
from robotlearn.cells import cells_of, env_options
from robotlearn.config import Config, load_config
from robotlearn.edge import local
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy

EPISODES = int(os.environ.get("BENCH_EPISODES", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "12"))
HZ, H, LATENCY_S = 20, 12, 0.2
SPEED = 0.15
TAUGHT, STEPS, PUSHES = 100, 5000, 0.03
WAYS: dict[str, dict[str, Any]] = {
    "wait": {"way": "wait"},
    "hold, 0 ahead": {"way": "hold", "ahead": 0},
    "hold": {"way": "hold", "ahead": 6},  # no more than the policy takes: its chunks would only be older
    "overlap": {"way": "overlap", "ahead": H // 2},
    "rtc": {"way": "rtc", "ahead": H // 2},
    "vlash": {"way": "vlash", "ahead": H // 2},
}
PICTURE = Path(__file__).parent / "late_chunks.png"
Array = NDArray[np.float64]


class Follow(Reach):
    """Reach without an end: the tool is to stay at a target that moves."""

    name = "follow"
    instructions = ("stay at the green ball that wanders",)
    hold_steps = 10**6

    def achieved(self, state: SceneState) -> NDArray[np.bool_]:
        return np.zeros(len(state.tcp), bool)

    def expert_goal(self, state: SceneState) -> ToolGoal:
        # A fifth of the way in a step: smoothly.
        goal = super().expert_goal(state)
        return replace(goal, position=state.tcp + 0.4 * (goal.position - state.tcp))


class Wandering(MujocoRobot):
    """A simulated arm and a target that goes from point to point; which ones follows from the number of the episode."""

    def __init__(self, spec: RobotSpec, seed: int = 0) -> None:
        super().__init__(spec, build_scene(spec, Follow(spec)))
        self._seed, self._episode = seed, 0
        self._times, self._points = np.zeros(1), np.zeros((1, 3))

    def set_state(self, position: Array, objects: Any) -> None:
        if objects:
            rng = np.random.default_rng([self._seed, self._episode])
            self._episode += 1
            self._points = rng.uniform([0.4, -0.15, 0.12], [0.6, 0.15, 0.32], (200, 3))
            way = np.linalg.norm(np.diff(self._points, axis=0), axis=-1)
            self._times = np.concatenate([[0.0], np.cumsum(way) / SPEED])
            objects = {"target": np.array([*self._points[0], 1.0, 0.0, 0.0, 0.0])}
        super().set_state(position, objects)

    def step(self, dt: float) -> None:
        with self._lock:
            data = self._live()
            slot = self._object("target").mocap
            data.mocap_pos[slot] = [np.interp(data.time + dt, self._times, one) for one in self._points.T]
            super().step(dt)


def _register() -> None:
    register_task(Follow)
    hal.register_driver("wandering", Wandering)


@dataclass(frozen=True)
class Episode:
    """What one episode was like; `path`: time [s], tool and target [m], (T, 7)."""

    distance: float
    starved: float
    idle: float
    jerk: float
    delay: int | None
    stopped: bool
    path: Array


def run() -> None:
    """Teach, then every way in turn; the table, the figures, the picture."""
    _register()
    chosen = os.environ.get("BENCH_WAYS")
    ways = {name: WAYS[name] for name in chosen.split(";")} if chosen else WAYS
    with tempfile.TemporaryDirectory(prefix="rl-") as name:
        folder = Path(name)
        file = _config(folder)
        _teach(load_config(file), folder / "policy.pt")
        found = {way: _drive(folder, file, execution) for way, execution in ways.items()}
    _tell(found)
    _draw(found)
    print(f"drawn in {PICTURE}")


def _tell(found: dict[str, list[Episode]]) -> None:
    print(
        f"\n{'way':14} {'distance cm':>12} {'starved %':>10} {'without action %':>17} {'jerk rad/s3':>12} {'delay':>6} "
        f"{'stopped':>8}"
    )
    for way, episodes in found.items():
        middle = {
            key: statistics.median(getattr(one, key) for one in episodes)
            for key in ("distance", "starved", "idle", "jerk")
        }
        delay = episodes[-1].delay
        print(
            f"{way:14} {100 * middle['distance']:12.2f} {middle['starved']:10.1f} {middle['idle']:17.1f} "
            f"{middle['jerk']:12.0f} {'-' if delay is None else delay:>6} "
            f"{sum(one.stopped for one in episodes):8}"
        )
    for way, episodes in found.items():
        name = f"late_chunks.{way.replace(', ', '-').replace(' ', '-')}"
        report(f"{name}.distance", 100 * statistics.median(one.distance for one in episodes), "cm from the target")
        report(f"{name}.starved", statistics.median(one.starved for one in episodes), "% of ticks")
        report(f"{name}.jerk", statistics.median(one.jerk for one in episodes), "rad/s3, root mean square")


def _config(folder: Path) -> Path:
    shipped = data_path("hardware_specs")
    spec = parse((shipped / "panda.yaml").read_text(encoding="utf-8"), "panda.yaml").data
    # A busy machine is no reason to stop the arm: what is starved is counted.
    spec |= {"control_hz": HZ, "driver_hz": 100, "watchdog_s": 5.0}
    spec["mujoco"]["mjcf"] = str((shipped / spec["mujoco"]["mjcf"]).resolve())
    (folder / "panda.yaml").write_text(write(spec), encoding="utf-8")
    policy = {"kind": "flow_mlp", "horizon": H, "denoising_steps": 5}
    edge = {"name": "arm", "kind": "paced", "driver": "wandering", "explore": False}
    content = {
        **{"seed": 0, "robot": "panda.yaml", "task": "follow", "episode_steps": int(SECONDS * HZ)},
        **{"policy": policy, "sft": {"steps": STEPS}, "start": {"success_band": None}, "edges": [edge]},
    }
    (folder / "follow.yaml").write_text(write(content), encoding="utf-8")
    return folder / "follow.yaml"


# ---- the policy


def _shown(config: Config) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32], NDArray[np.int64]]:
    """What the expert saw and meant, and where stretches of it end.

    What is executed is disturbed a little, and at times the arm is pushed aside for some steps, which are left out: so
    it shows how to come back.
    """
    (cell,) = cells_of(config)
    env = ArmEnv(Wandering(cell.spec, seed=1), cell.task, env_options(config))
    expert, rng, joints = Expert(cell.spec, cell.task), np.random.default_rng(0), len(cell.spec.joints)
    seen: dict[str, list[NDArray[Any]]] = {key: [] for key in env.observation_space.spaces}
    meant: list[NDArray[np.float32]] = []
    ends: list[int] = []
    for episode in range(TAUGHT):
        observations, _ = env.reset(seed=episode)
        over, pushed, push = False, 0, np.zeros(joints)
        while not over:
            action = expert.act(env.scene_state())[0]
            if not pushed and rng.random() < PUSHES:
                pushed, push = 6, rng.normal(0, 0.03, joints)
                ends.append(len(meant))
            done = action.copy()
            if pushed:
                pushed -= 1
                done[:joints] += push
            else:
                for key, value in observations.items():
                    seen[key].append(value)
                meant.append(action)
                done[:joints] += rng.normal(0, 0.005, joints)
            observations, _, won, cut, _ = env.step(done)
            over = won or cut
        ends.append(len(meant))
    env.close()
    rows = {key: np.stack(value) for key, value in seen.items()}
    return rows, np.stack(meant), np.unique([end for end in ends if end])


def _teach(config: Config, file: Path) -> None:
    """Imitation of the expert."""
    rows, meant, ends = _shown(config)
    policy = build_policy(config, Inputs(config))
    policy.set_statistics(scale(rows, meant))
    metrics = SFT(policy, config.sft, seed=0).fit(windows(rows, meant, ends, H))
    print(f"taught on {len(meant)} steps, loss {metrics['loss/sft']:.3f}", flush=True)
    torch.save(policy.state_dict(), file)


class _Taught:
    """The weights in a file, as a policy server takes them."""

    def __init__(self, file: Path) -> None:
        self._file: Path | None = file

    def renew(self, policy: Policy) -> int | None:
        file, self._file = self._file, None
        if file is None:
            return None
        policy.load_state_dict(torch.load(file, weights_only=True))
        return 0

    def close(self) -> None:
        """Nothing is held."""


# ---- the arm


def _drive(folder: Path, file: Path, execution: dict[str, Any]) -> list[Episode]:
    """All episodes of one way; this process is their station."""
    ends = {part: f"ipc://{folder}/{part}" for part in ("server", "states", "station")}
    context = zmq.Context()
    station = local.local_socket(context, zmq.ROUTER, queue=65536)
    station.bind(ends["station"])
    states = local.local_socket(context, zmq.SUB)
    states.subscribe(b"")
    states.connect(ends["states"])
    override = "edges.0.execution={" + ", ".join(f"{key}: {value}" for key, value in execution.items()) + "}"
    env = {**os.environ, "ROBOTLEARN_RUNTIME_DIR": str(folder / "runtime")}
    (folder / "runtime").mkdir(exist_ok=True)
    parts = []
    try:
        for part in ("policy-server", "arm"):
            command = [sys.executable, "-m", "benchmarks.late_chunks", part, str(file), override, *ends.values()]
            parts.append(subprocess.Popen(command, env=env, cwd=Path(__file__).parents[1]))
        found = _station(station, states, parts)
    finally:
        for process in reversed(parts):
            process.terminate()
        for process in parts:
            process.wait(30)
        station.close()
        states.close()
        context.term()
    return found


def _station(socket: Any, states: Any, parts: list[subprocess.Popen[bytes]]) -> list[Episode]:
    episodes: list[Episode] = []
    arm: local.ArmState | None = None
    began: local.Begin | None = None
    lines: list[local.Line] = []
    started, held_at, serves = 0, 0.0, False
    while len(episodes) < EPISODES:
        if any(process.poll() is not None for process in parts):
            raise RuntimeError("a process of the arm ended")
        if time.monotonic() - held_at > 0.5:
            held_at = time.monotonic()
            if arm is not None:
                socket.send_multipart([b"arm", local.encode(local.Hold("benchmark", 5.0))])
        while states.poll(0):
            serves = local.decode(states.recv_multipart()[-1]).version >= 0
        if not socket.poll(50):
            continue
        message = local.decode(socket.recv_multipart()[-1])
        match message:
            case local.Begin():
                began, lines = message, []
            case local.Line():
                lines.append(message)
                if message.terminated or message.truncated:
                    assert began is not None and arm is not None
                    episodes.append(_episode(lines, arm.delay))
            case local.ArmState():
                arm = message
        ready = arm is not None and arm.state == "resting" and arm.token is not None and serves
        if ready and arm is not None and len(episodes) == started and arm.episode in (-1, started):
            started += 1
            socket.send_multipart([b"arm", local.encode(local.Start(started, arm.token or 0))])
    return episodes


def _episode(lines: list[local.Line], delay: int | None) -> Episode:
    times = np.array([line.monotonic for line in lines]) - lines[0].monotonic
    state = np.stack([line.observations["observation.environment_state"].array() for line in lines]).astype(np.float64)
    grid = np.arange(1.0, times[-1], 1 / HZ)
    way = np.stack([np.interp(grid, times, column) for column in state[:, 3:6].T], -1)
    deltas: list[Array] = []
    rest = 0
    for line, gap in zip(lines, np.diff(times, prepend=-1 / HZ), strict=True):
        more = max(0, round(gap * HZ) - 1)
        rest += more
        deltas += [np.zeros(7)] * more
        deltas.append(line.executed.array()[:7].astype(np.float64))
    jerk = np.diff(np.stack(deltas), 2, axis=0) * HZ**3
    starved = sum(not line.from_chunk for line in lines)
    return Episode(
        distance=float(np.linalg.norm(way, axis=-1).mean()),
        starved=100 * starved / len(lines),
        idle=100 * (starved + rest) / len(deltas),
        jerk=float(np.sqrt(np.square(jerk).mean())),
        delay=delay,
        stopped=bool(lines[-1].stopped),
        path=np.column_stack([times, state[:, :3], state[:, :3] + state[:, 3:6]]),
    )


def _draw(found: dict[str, list[Episode]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.4 * len(found) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(found), 2, width_ratios=(1, 1.3))
    overview = figure.add_subplot(grid[:, 0])
    for index, (way, episodes) in enumerate(found.items()):
        colour = f"C{index}"
        x, y = [100 * one.distance for one in episodes], [one.jerk for one in episodes]
        overview.scatter(x, y, s=12, color=colour, alpha=0.4, linewidths=0)
        overview.scatter(statistics.median(x), statistics.median(y), s=70, color=colour)
        middle, above = (statistics.median(x), statistics.median(y)), 6 if index % 2 else -12
        overview.annotate(way, middle, xytext=(7, above), textcoords="offset points")
        path = episodes[0].path
        trace = figure.add_subplot(grid[index, 1])
        trace.plot(path[:, 0], 100 * path[:, 5], color="0.6")
        trace.plot(path[:, 0], 100 * path[:, 2], color=colour)
        trace.set_title(f"{way}, and the target", fontsize=9, loc="left", color=colour, pad=3)
        trace.set_xlim(0, SECONDS)
        trace.set_ylabel("y, cm")
        if index < len(found) - 1:
            trace.set_xticklabels([])
        else:
            trace.set_xlabel("s")
    overview.set_ylim(bottom=0)
    overview.set_xlabel("mean distance from tool to target, cm")
    overview.set_ylabel("jerk of the commanded joints, rad/s³ (root mean square)")
    overview.set_title("A policy that takes 200 ms: episodes, medians", fontsize=10)
    figure.savefig(PICTURE, dpi=110)


# ---- the processes of the arm


def _child() -> None:
    from robotlearn.edge.arm import run_arm
    from robotlearn.edge.serving import Serving
    from robotlearn.processes import stop_on_signals

    class Slow(Serving):
        """Answers after LATENCY_S, as a larger policy would."""

        def _infer(self, requests: Any) -> Any:
            begun = time.monotonic()
            answers = super()._infer(requests)
            time.sleep(max(0.0, begun + LATENCY_S - time.monotonic()))
            return answers

    parser = argparse.ArgumentParser()
    for name in ("part", "file", "override", "server", "states", "station"):
        parser.add_argument(name)
    asked = parser.parse_args()
    stop = stop_on_signals()
    _register()
    config = load_config(asked.file, [asked.override])
    if asked.part == "arm":
        run_arm(config, "arm", stop=stop, server=asked.server, station=asked.station)
        return
    ends = {"server": asked.server, "states": asked.states}
    torch.set_num_threads(1)
    edge: Any = config.edges[0]
    serving = Slow(config, edge, _Taught(Path(asked.file).parent / "policy.pt"), session=1, explore=False, **ends)
    try:
        serving.run(stop)
    finally:
        serving.close()


if __name__ == "__main__":
    _child()
