"""The paced robot: one arm at 20 Hz of wall-clock time learns to reach from nothing; ours and stable-baselines3's SAC.

Both make 1, 4 and 8 optimiser steps per step of the arm, on one thread of torch. Ours is `robotlearn train reach-paced`
at 20 Hz: arm process, policy server and learner, each a process. The peer acts, waits for the tick and learns in one
loop, as it does by itself. The same for both: task, shaped reward, episodes of 1.6 s, what is observed and what that is
normalised by, scale of rewards, bounds of actions, widths, batch, learning rates, gamma, n-step returns, tau,
temperature, and the steps before training begins. Ours alone: layer norm in the critics, bounded gradients, targets
without the entropy; and the lag of an arm with a loop of its own, which takes a goal at its next tick, up to 10 ms
later, and follows it as its accelerations allow. The peer alone: its arm is stepped, so that an action is done when it
is looked at, and stands still while it learns; its first steps are drawn uniformly. Needs stable-baselines3.

Success is that of the policy without exploration in 100 simulated episodes of seeds that training never saw, of each
policy that was kept, one every 320 steps; the first of 90 % counts. Its time does not: ours is measured afterwards,
the peer's with the clock stopped. A run ends at its budget, ours too once its training success is 95 %, the peer at its
first of 90 %. Six runs of at most 10 minutes: at most an hour and a quarter.
    python -m benchmarks paced
BENCH_MINUTES=10, BENCH_RATIOS=1,4,8, BENCH_SIDES=ours,sb3 and BENCH_SEED=0 choose what is run.

Columns: optimiser steps per step, asked for and held; rate within episodes; period, p50, p99 and the share of those
longer than 1.5 times what it should be; steps without an action; the share of the wall clock in which the robot
rested, beyond its steps' nominal time; minutes in episodes and of wall clock to 90 %; the best success that was
measured; and that of the robot itself in its last 20 episodes, which explore.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from benchmarks.report import report
from envs import ArmEnv, BatchArmEnv
from envs.scene import build_scene
from hal.data import data_path
from hal.document import parse, write
from hal.drivers.mujoco import MujocoRobot
from robotlearn import checkpoint
from robotlearn.buffer.log_files import LogReader
from robotlearn.cells import cells_of, env_options
from robotlearn.config.algorithms import SACConfig
from robotlearn.config.config import Config
from robotlearn.config.load import load_config
from robotlearn.evaluation import evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.learner.normalization import wandered
from robotlearn.metrics import read_metrics
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy
from robotlearn.wire import record as records

MINUTES = float(os.environ.get("BENCH_MINUTES", "10"))
RATIOS = tuple(int(text) for text in os.environ.get("BENCH_RATIOS", "1,4,8").split(","))
SIDES = tuple(os.environ.get("BENCH_SIDES", "ours,sb3").split(","))
SEED = int(os.environ.get("BENCH_SEED", "0"))
HZ, EPISODE = 20, 32
GOAL, EPISODES, EVAL_SEED = 0.9, 100, 1000
UPDATE, KEPT = 16, 320
"""Steps of the arm from one update of ours to the next, and from one policy that is measured to the next."""
_HEAD = (
    "side  asked   held     Hz   p50 ms   p99 ms   late %  starved %  rested %   "
    "robot min to 90 %   wall min to 90 %   best   robot"
)


@dataclass(frozen=True)
class Found:
    """Of one run; `periods` within episodes [s], `robot` and `wall` minutes to 90 %, or in all if not `reached`."""

    side: str
    asked: int
    held: float
    periods: NDArray[np.float64]
    steps: int
    starved: int
    wall_s: float
    reached: bool
    robot: float
    wall: float
    best: float
    last: float
    """Success of the robot itself in its last 20 episodes, with exploration."""

    def tell(self) -> str:
        """A row of the table; figures go to the results."""
        name, ms = f"paced.{self.side}.{self.asked}", 1000 * self.periods
        rested = 100 * max(0.0, 1 - self.steps / HZ / self.wall_s)
        hz, late = 1000 / ms.mean(), 100 * float((ms > 1500 / HZ).mean())
        report(f"{name}.hz", hz, "Hz kept", "asked", HZ)
        report(f"{name}.period_p99", float(np.quantile(ms, 0.99)), "ms", "asked", 1000 / HZ)
        report(f"{name}.held", self.held, "optimiser steps per step", "asked", self.asked)
        report(f"{name}.rested", rested, "% of the wall clock")
        report(f"{name}.robot_minutes", self.robot if self.reached else math.inf, "min to 90 %")
        report(f"{name}.best", self.best, "success at best, measured")
        report(f"{name}.last", self.last, "success of the robot's last 20 episodes")
        report(f"{name}.wall_minutes", self.wall if self.reached else math.inf, "min to 90 %")
        sign = " " if self.reached else ">"
        return (
            f"{self.side:5} {self.asked:5} {self.held:6.2f} {hz:6.2f} {np.median(ms):8.1f} {np.quantile(ms, 0.99):8.1f}"
            f" {late:8.2f} {100 * self.starved / self.steps:10.2f} {rested:9.1f} {sign + f'{self.robot:.1f}':>19}"
            f" {sign + f'{self.wall:.1f}':>18} {self.best:6.0%} {self.last:7.0%}"
        )


def config_of(folder: Path, ratio: int) -> tuple[list[str], Config]:
    """The overrides that make reach-paced a run at 20 Hz with so many optimiser steps per step; and the config."""
    spec = folder / "panda.yaml"
    if not spec.exists():
        shipped = data_path("hardware_specs")
        content = parse((shipped / "panda.yaml").read_text(encoding="utf-8"), "panda.yaml").data
        content |= {"control_hz": HZ, "driver_hz": 100}
        content["mujoco"]["mjcf"] = str((shipped / content["mujoco"]["mjcf"]).resolve())
        spec.write_text(write(content), encoding="utf-8")
    overrides = [
        f"robot={spec}",
        f"seed={SEED}",
        f"episode_steps={EPISODE}",
        f"replay.update_to_data={ratio}",
        f"replay.steps_per_update={UPDATE * ratio}",
        "learner.updates=1000000",
        "learner.eval_every=null",
        "learner.eval_episodes=1",
        f"learner.stop_success={(1 + GOAL) / 2}",
        f"learner.checkpoint_every={KEPT // UPDATE}",
        "learner.keep_checkpoints=1000",
    ]
    return overrides, load_config("reach-paced", overrides)


# ---- ours


def ours(folder: Path, ratio: int) -> Found:
    """One `robotlearn train`, ended with SIGINT at its budget."""
    run = RunFolder(folder / f"run-{ratio}")
    overrides, config = config_of(folder, ratio)
    command = [sys.executable, "-m", "robotlearn", "train", "reach-paced", *overrides, "--run", str(run.path)]
    with (folder / f"log-{ratio}").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            while not run.address.exists() and process.poll() is None:
                time.sleep(0.1)
            process.wait(60 * MINUTES)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)
    episodes: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for _, record in LogReader(run.segments / "records").scan():
        segment = records.decode(record)
        episodes[segment.session, segment.episode].append(segment)
    if not episodes:
        raise RuntimeError(f"nothing was recorded: {(folder / f'log-{ratio}').read_text()[-2000:]}")
    times = []
    for parts in episodes.values():
        parts.sort(key=lambda segment: segment.first_step)
        times.append(np.concatenate([segment.monotonic for segment in parts]))
    whole = sorted((parts[-1] for parts in episodes.values() if parts[-1].last), key=lambda segment: segment.wall[-1])
    segments = [segment for parts in episodes.values() for segment in parts]
    walls = np.sort(np.concatenate([segment.wall for segment in segments]))
    steps = len(walls)
    updates = [row for row in read_metrics(run.metrics) if row.get("updates")]
    reached, best, until = _measured(run, config, {row["version"]: row["time"] for row in updates})
    until = until if reached else float(walls[-1])
    periods = np.concatenate([np.diff(each) for each in times])
    return Found(
        side="ours",
        asked=ratio,
        held=updates[-1]["update_to_data"] if updates else 0.0,
        periods=periods,
        steps=steps,
        starved=steps - sum(int(segment.chunk_executed.sum()) for segment in segments),
        wall_s=float(walls[-1] - walls[0]) + 1 / HZ,
        reached=reached,
        robot=float((walls <= until).sum()) * float(periods.mean()) / 60,
        wall=(until - float(walls[0])) / 60,
        best=best,
        last=_share([bool(segment.success[-1]) for segment in whole]),
    )


def _share(won: list[bool]) -> float:
    return float(np.mean(won[-20:])) if won else 0.0


def _measured(run: RunFolder, config: Config, at: dict[int, float]) -> tuple[bool, float, float]:
    """Whether a checkpoint has GOAL, the best success up to there, and when that was made, s since 1970."""
    cells, best = cells_of(config), 0.0
    inputs = Inputs(config, cells)
    for place in checkpoint.list_versions(run.checkpoints):
        version = int(place.name)
        if version not in at:  # that of the start
            continue
        policy = find_policy(place).load()
        found = evaluate_cells(
            policy, inputs, cells, episodes=EPISODES, seed=EVAL_SEED, threads=2, options=env_options(config)
        )
        best = max(best, found.success)
        if found.success >= GOAL:
            return True, best, at[version]
    return False, best, math.nan


# ---- the peer


class PacedArm(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The arm as the peer takes it: normalised observations, scaled rewards, actions in [-1, 1]; a step begins a period
    after the one before, or later.
    """

    def __init__(self, config: Config) -> None:
        (cell,) = cells_of(config)
        self.arm = ArmEnv(MujocoRobot(cell.spec, build_scene(cell.spec, cell.task)), cell.task, env_options(config))
        self._statistics = wandered(config, [cell], Inputs(config, [cell]))
        self._keys = [key for key in self._statistics if key != "action"]
        size = sum(len(self._statistics[key].mean) for key in self._keys)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (cell.spec.dim,), np.float32)
        algorithm = config.algorithm
        self._scale = algorithm.reward_scale if isinstance(algorithm, SACConfig) else 1.0
        self._bound = config.policy.bound if config.policy.kind == "squashed_gaussian" else 1.0
        self._began: float | None = None
        self.stopped_s = 0.0
        """For which the clock stood still."""
        self.periods: list[float] = []
        self.first = 0.0
        self.won: list[bool] = []

    def seen(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Normalised as ours are; (..., size)."""
        parts = [
            (observations[key] - self._statistics[key].mean) / np.maximum(self._statistics[key].std, 1e-3)
            for key in self._keys
        ]
        return np.concatenate(parts, -1, dtype=np.float32)

    def meant(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The arm's action."""
        one = self._statistics["action"]
        return np.asarray(one.mean + self._bound * one.std * action, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self._began = None
        observations, info = self.arm.reset(seed=seed)
        return self.seen(observations), info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self._began is not None:
            time.sleep(max(0.0, self._began + 1 / HZ - self.now()))
            self.periods.append(self.now() - self._began)
        self._began = self.now()
        self.first = self.first or self._began
        observations, reward, success, overtime, info = self.arm.step(self.meant(action))
        if success or overtime:
            self.won.append(success)
        return self.seen(observations), self._scale * reward, success, overtime, info

    def now(self) -> float:
        """By the clock that can be stopped, s."""
        return time.perf_counter() - self.stopped_s


def sb3(folder: Path, ratio: int) -> Found:
    """One `learn` of stable-baselines3's SAC, on this thread."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    _, config = config_of(folder, ratio)
    settings, replay = config.algorithm, config.replay
    if not isinstance(settings, SACConfig) or config.policy.kind != "squashed_gaussian":
        raise SystemExit("configs/reach-paced.yaml is not of sac")
    arm = PacedArm(config)
    learnt, temperature = settings.temperature_lr > 0, settings.initial_temperature

    class Until(BaseCallback):
        """Ends the training once the policy is good, or its time is over."""

        best = 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps % KEPT == 0:
                stopped = time.perf_counter()
                self.best = max(self.best, _success(self.model, arm, config))
                arm.stopped_s += time.perf_counter() - stopped
            return self.best < GOAL and arm.now() - arm.first < 60 * MINUTES

    model: Any = SAC(
        "MlpPolicy",
        arm,
        learning_rate=settings.critic_lr,
        learning_starts=replay.starts_after,
        batch_size=replay.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        n_steps=replay.n_step,
        train_freq=1,
        gradient_steps=ratio,
        ent_coef=f"auto_{temperature}" if learnt else temperature,
        target_entropy=-0.5 * arm.action_space.shape[0],
        policy_kwargs={"net_arch": {"pi": list(config.policy.hidden), "qf": list(settings.critic_hidden)}},
        seed=SEED,
        device="cpu",
    )
    until = Until()
    model.learn(10**9, callback=until)
    arm.close()
    wall, periods = arm.now() - arm.first, np.array(arm.periods)
    steps = int(model.num_timesteps)
    return Found(
        side="sb3",
        asked=ratio,
        held=model._n_updates / max(1, steps - replay.starts_after),
        periods=periods,
        steps=steps,
        starved=0,
        wall_s=wall,
        reached=until.best >= GOAL,
        robot=steps * float(periods.mean()) / 60,
        wall=wall / 60,
        best=until.best,
        last=_share(arm.won),
    )


def _success(model: Any, arm: PacedArm, config: Config) -> float:
    """Of the policy's mean action."""
    (cell,) = cells_of(config)
    env = BatchArmEnv(
        cell.spec, cell.task, EPISODES, threads=2, seed=EVAL_SEED, options=env_options(config),
        autoreset=AutoresetMode.DISABLED,
    )  # fmt: skip
    observations, _ = env.reset()
    success = np.zeros(EPISODES, bool)
    while env.running.any():
        action, _ = model.predict(arm.seen(observations), deterministic=True)
        observations, _, terminated, _, _ = env.step(arm.meant(action))
        success |= terminated
    env.close()
    return float(success.mean())


def run() -> None:
    """Ratio by ratio, ours and the peer in turn; the table at the end."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")))
    rows = []
    try:
        for ratio in RATIOS:
            for side in SIDES:
                rows.append({"ours": ours, "sb3": sb3}[side](folder, ratio).tell())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join((_HEAD, *rows)), flush=True)
