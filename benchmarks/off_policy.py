"""`reach` from nothing, every step replayed: our SAC and RLPD beside stable-baselines3's SAC, seconds to 90 % success.

Ours are whole runs of `robotlearn train` with configs/reach-sac.yaml and configs/reach-rlpd.yaml: a learner process
and an edge process, all that is learnt from stored first. The peer has the same task, shaped reward and observations,
actions in [-1, 1], and two threads of torch; it is run with its own defaults (one arm, an optimiser step per step) and
with our settings: as many arms, lr, tau, gamma, n-step returns, temperature, widths, optimiser steps per step, and by
way of the environment the scale of rewards and the reach of actions (layer norm it has not). All have the same seconds,
on the same machine, seed by seed in turn.

Clocks run from the first step that an arm does: starting processes counts for nobody, nor do the demonstrations, which
RLPD is given. About once a second each side keeps its weights, which takes some of its time; their success, without
exploration, in 100 episodes of other seeds, is measured when the run is over. What counts is the first of two kept one
after the other that both have 90 %. Needs stable-baselines3.
    python -m benchmarks.off_policy [--runs N] [--seconds S] [--only NAME ...] [--curve PICTURE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.from_scratch import EPISODES, EVAL_SEED, GOAL, OPTIONS, adapted
from benchmarks.report import report
from envs import BatchArmEnv
from hal import load_spec
from robotlearn import checkpoint
from robotlearn.buffer.log_files import LogReader
from robotlearn.config.algorithms import RLPDConfig, SACConfig
from robotlearn.config.load import load_config
from robotlearn.config.policy import SquashedGaussianConfig
from robotlearn.inputs import Inputs
from robotlearn.metrics import read_metrics
from robotlearn.policy import ask
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy
from robotlearn.wire.record import decode

ROOT = Path(__file__).parent.parent
RUNS = int(os.environ.get("BENCH_RUNS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "120"))
EVERY_S = 1.0
"""Between weights that a peer keeps; ours are kept after so many updates as take about as long."""
START_S = 120.0
"""A run of ours whose arms have done no step by then has failed."""
ROBOT, TASK = "panda", "reach"
Observations = dict[str, np.ndarray]
Act = Callable[[Observations], np.ndarray]
"""Observations of EPISODES arms -> (EPISODES, D) actions in the robot's units, without exploration."""


@dataclass(frozen=True)
class Kept:
    """Weights of a run: when they were, after how many environment steps, and how to act with them."""

    seconds: float
    env_steps: int
    act: Callable[[], Act]


@dataclass(frozen=True)
class Curve:
    """Success of a run's kept weights, in the order of time."""

    seconds: list[float]
    env_steps: list[int]
    success: list[float]

    @property
    def reached(self) -> tuple[float, float]:
        """Seconds and environment steps at the first of two in a row with GOAL; inf where there are none."""
        good = [value >= GOAL for value in self.success]
        for index in range(len(good) - 1):
            if good[index] and good[index + 1]:
                return self.seconds[index], float(self.env_steps[index])
        return math.inf, math.inf


# ---- ours


def ours(config: str, seed: int, seconds: float, folder: Path) -> list[Kept]:
    """One `robotlearn train`, stopped after so many seconds of learning; raises RuntimeError when it ends by itself."""
    run, every = folder / "run", _updates_per_second(config)
    settings = {
        "seed": seed, "learner.updates": 1_000_000, "learner.stop_success": "null", "learner.eval_every": "null",
        "learner.checkpoint_every": every, "learner.keep_checkpoints": 1_000_000,
    }  # fmt: skip
    overrides = [f"{key}={value}" for key, value in settings.items()]
    command = (sys.executable, "-m", "robotlearn", "train", config, "--run", str(run), *overrides)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            first, end = None, time.time() + START_S
            while time.time() < end:
                time.sleep(0.5)
                if process.poll() is not None:
                    break
                if first is None and (first := _first_step(run)) is not None:
                    end = first + seconds + 1
            if first is None or process.poll() is not None:
                raise RuntimeError(f"robotlearn train {config}: {(folder / 'log').read_text()[-2000:]}")
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
    # The learner counts from when it listens; what its edge needs to start is taken off.
    (row, *_) = read_metrics(RunFolder(run).metrics)
    before = first - (row["time"] - row["seconds"])
    kept = []
    for path in checkpoint.list_versions(run / "checkpoints"):
        facts = checkpoint.describe(path).facts
        at = facts["seconds"] - before
        if 0 < at <= seconds:
            kept.append(Kept(at, facts["env_steps"], lambda path=path: _ours(path)))  # type: ignore[misc]
    return sorted(kept, key=lambda one: one.seconds)


def _first_step(run: Path) -> float | None:
    """When an arm did the first step that is stored, seconds since the epoch; None: none is yet."""
    records = run / "segments" / "records"
    for _, record in LogReader(records).scan(verify=False) if any(records.glob("*.log")) else ():
        return float(decode(record).wall[0])
    return None


def _updates_per_second(config: str) -> int:
    """About so many, of a learner with a core to itself."""
    found = load_config(config)
    rate = 60 if isinstance(found.algorithm, RLPDConfig) else 120
    return max(1, round(EVERY_S * rate / found.replay.steps_per_update))


def _ours(path: Path) -> Act:
    saved = find_policy(path)
    policy, inputs = saved.load(), Inputs(saved.config)
    rng = np.random.default_rng(EVAL_SEED)

    def act(observations: Observations) -> np.ndarray:
        noise = policy.noise(EPISODES, rng)
        proposed, _ = ask(policy, inputs, ROBOT, observations, [""] * EPISODES, noise, False)
        return np.asarray(proposed[:, 0])

    if policy.horizon != 1:
        raise ValueError(f"{path} has chunks of {policy.horizon} actions, here they are of 1")
    return act


# ---- the peer


def peer_settings() -> dict[str, Any]:
    """Those of configs/reach-sac.yaml, as the peer calls them."""
    config = load_config("reach-sac")
    algorithm, replay, arms = config.algorithm, config.replay, _arms()
    assert isinstance(algorithm, SACConfig)
    fixed = algorithm.temperature_lr == 0
    # After each step of all arms at once; where that is less than one, one after several steps.
    per_round = replay.update_to_data * arms
    return {
        "learning_rate": algorithm.critic_lr,
        "tau": algorithm.tau,
        "gamma": algorithm.gamma,
        "batch_size": replay.batch_size,
        "learning_starts": replay.starts_after,
        "train_freq": max(1, round(1 / per_round)),
        "gradient_steps": max(1, round(per_round)),
        "n_steps": replay.n_step,
        "ent_coef": algorithm.initial_temperature if fixed else f"auto_{algorithm.initial_temperature}",
        "policy_kwargs": {"net_arch": list(algorithm.critic_hidden)},
    }


def _arms() -> int:
    return sum(getattr(edge, "arms", 1) for edge in load_config("reach-sac").edges)


def peer(side: str, seed: int, seconds: float) -> list[Kept]:
    """A run of stable-baselines3's SAC."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    kept: list[tuple[float, int, dict[str, torch.Tensor]]] = []

    class Keep(BaseCallback):
        """Keeps the policy about once a second, and ends the training once the time is over."""

        begun = 0.0

        def _on_training_start(self) -> None:
            self.begun = time.perf_counter()

        def _on_step(self) -> bool:
            now = time.perf_counter() - self.begun
            if now >= (kept[-1][0] if kept else 0.0) + EVERY_S:
                weights = {key: value.clone() for key, value in self.model.policy.state_dict().items()}
                kept.append((now, self.num_timesteps, weights))
            return now < seconds

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    flat, settings = _Flat(1, seed, 1.0, 1.0), {}
    if side == "peer.our_settings":
        config = load_config("reach-sac")
        assert isinstance(config.algorithm, SACConfig) and isinstance(config.policy, SquashedGaussianConfig)
        # Without demonstrations, a bound of 1 is half of what joints may do.
        flat = _Flat(_arms(), seed, config.algorithm.reward_scale, config.policy.bound / 2)
        settings = peer_settings()
    vector = adapted(flat)  # type: ignore[arg-type]
    model = SAC("MlpPolicy", vector, seed=seed, device="cpu", **settings)
    try:
        model.learn(10**9, callback=Keep())
    finally:
        vector.close()
        torch.set_num_threads(threads)

    def acting(weights: dict[str, torch.Tensor]) -> Act:
        model.policy.load_state_dict(weights)

        def act(observations: Observations) -> np.ndarray:
            action, _ = model.predict(_flat(observations), deterministic=True)
            return flat.meant(action)

        return act

    return [Kept(at, steps, lambda weights=weights: acting(weights)) for at, steps, weights in kept]  # type: ignore[misc]


class _Flat:
    """Many arms in one process, as `adapted` takes them: flat observations, actions in [-1, 1], in lockstep."""

    def __init__(self, arms: int, seed: int, reward_scale: float, share: float) -> None:
        """Rewards are multiplied by `reward_scale`; of what the joints may do in a step, actions reach that `share`."""
        self.env = BatchArmEnv(load_spec(ROBOT), TASK, arms, seed=seed, options=OPTIONS)
        self.num_envs, self._reward_scale = arms, reward_scale
        space, joints = self.env.single_action_space, len(self.env.robot.joints)
        self._low, self._high = space.low.copy(), space.high.copy()  # type: ignore[attr-defined]
        self._low[:joints] *= share
        self._high[:joints] *= share
        seen = self.env.single_observation_space.spaces  # type: ignore[attr-defined]
        width = sum(int(np.prod(each.shape)) for each in seen.values())
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, space.shape, np.float32)
        self._actions = np.zeros((arms, *(space.shape or ())), np.float32)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        return _flat(self.env.reset(seed=seed)[0]), {}

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, reward, terminated, truncated, infos = self.env.step(self.meant(self._actions))
        found = {"final_obs": _flat(infos["final_obs"])} if "final_obs" in infos else {}
        return _flat(observations), self._reward_scale * reward, terminated, truncated, found

    def meant(self, actions: np.ndarray) -> np.ndarray:
        """Actions in [-1, 1] in the robot's units."""
        return np.asarray(self._low + (actions + 1) / 2 * (self._high - self._low), np.float32)

    def close(self) -> None:
        self.env.close()


def _flat(observations: Observations) -> np.ndarray:
    return np.concatenate([observations[key] for key in sorted(observations)], -1)


# ---- what both have in common


def measured(kept: Sequence[Kept], *, whole: bool) -> Curve:
    """`whole`: all of them; else no further than GOAL is reached."""
    env = BatchArmEnv(load_spec(ROBOT), TASK, EPISODES, threads=2, options=OPTIONS, autoreset=AutoresetMode.DISABLED)
    curve = Curve([], [], [])
    for one in kept:
        curve.seconds.append(one.seconds)
        curve.env_steps.append(one.env_steps)
        curve.success.append(_success(env, one.act()))
        if not whole and curve.reached[0] < math.inf:
            break
    env.close()
    return curve


def _success(env: BatchArmEnv, act: Act) -> float:
    observations, _ = env.reset(seed=EVAL_SEED)
    success = np.zeros(EPISODES, bool)
    while env.running.any():
        observations, _, terminated, _, _ = env.step(act(observations))
        success |= terminated
    return float(success.mean())


SIDES: dict[str, str] = {
    "sac": "robotlearn, SAC",
    "rlpd": "robotlearn, RLPD",
    "peer.defaults": "stable-baselines3's SAC, defaults",
    "peer.our_settings": "stable-baselines3's SAC, our settings",
}


def one_run(side: str, seed: int, seconds: float, *, whole: bool) -> Curve:
    if side.startswith("peer"):
        return measured(peer(side, seed, seconds), whole=whole)
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
    try:
        return measured(ours(f"reach-{side}", seed, seconds, folder), whole=whole)
    finally:
        shutil.rmtree(folder)


def run(
    runs: int = RUNS, seconds: float = SECONDS, sides: Sequence[str] = tuple(SIDES), picture: Path | None = None
) -> None:
    """Seed by seed, each side in turn and in a process of its own."""
    found: dict[str, list[Curve]] = {side: [] for side in sides}
    for seed in range(runs):
        for side in sides:
            # Drawn once a second: it must take nothing from what is measured.
            with Console().status(f"seed {seed}: {SIDES[side]} ...", refresh_per_second=1):
                found[side].append(_apart(side, seed, seconds, picture is not None))
            print(f"seed {seed}, {SIDES[side]}: {_told(found[side][-1].reached[0], seconds)}", flush=True)
    _show(found, seconds)
    if picture is not None:
        _draw(found, seconds, picture)
        print(f"drawn: {picture}")


def _apart(side: str, seed: int, seconds: float, whole: bool) -> Curve:
    command = [sys.executable, "-m", "benchmarks.off_policy", "--one", side, str(seed), "--seconds", str(seconds)]
    done = subprocess.run([*command, *(["--whole"] if whole else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{SIDES[side]}, seed {seed}, failed")
    return Curve(**json.loads(done.stdout.splitlines()[-1]))


def _told(value: float, seconds: float) -> str:
    return f"{value:.0f} s" if value < math.inf else f"> {seconds:.0f} s"


def _show(found: dict[str, list[Curve]], seconds: float) -> None:
    reached = {side: [curve.reached[0] for curve in curves] for side, curves in found.items()}
    middle = {side: statistics.median(values) for side, values in reached.items()}
    steps = {side: statistics.median(curve.reached[1] for curve in curves) for side, curves in found.items()}
    peers = [side for side in found if side.startswith("peer")]
    best = min(peers, key=middle.__getitem__) if peers else None
    table = Table(title=f"{TASK} with {ROBOT}: seconds to {GOAL:.0%} success, of {seconds:.0f}")
    for heading in ("", "median", "each seed", "environment steps", "times the faster peer's"):
        table.add_column(heading, justify="left" if not heading else "right")
    for side in found:
        theirs = middle[best] if best is not None else math.nan
        table.add_row(
            SIDES[side],
            _told(middle[side], seconds),
            "  ".join(_told(value, seconds) for value in reached[side]),
            f"{steps[side]:,.0f}" if steps[side] < math.inf else "-",
            _ratio(middle[side], theirs, seconds),
        )
    Console(width=120).print(table)
    for side in found:
        if side.startswith("peer") or best is None:
            report(f"off_policy.{side}.to_90", middle[side], "s")
        else:  # a peer that never got there took longer than the budget
            name = SIDES[best] + ("" if middle[best] < math.inf else ", never: its budget")
            report(f"off_policy.{side}.to_90", middle[side], "s", name, min(middle[best], seconds))


def _ratio(mine: float, theirs: float, seconds: float) -> str:
    if math.isnan(theirs) or mine == math.inf:
        return "-"
    return f"{mine / theirs:.2f}" if theirs < math.inf else f"< {mine / seconds:.2f}"


def _draw(found: dict[str, list[Curve]], seconds: float, picture: Path) -> None:
    """Success over seconds: each seed thin, the median of all thick."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    grid = np.arange(0.0, seconds + EVERY_S, EVERY_S)
    for number, (side, curves) in enumerate(found.items()):
        colour, lines = f"C{number}", []
        for curve in curves:
            axes.plot(curve.seconds, curve.success, color=colour, alpha=0.25, linewidth=0.8)
            lines.append(np.interp(grid, curve.seconds, curve.success, left=0.0))
        axes.plot(grid, np.median(lines, 0), color=colour, linewidth=2.5, label=SIDES[side])
    axes.axhline(GOAL, color="grey", linestyle=":")
    axes.set(xlabel="seconds", ylabel="success without exploration", xlim=(0, seconds), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(picture))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.off_policy", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="seeds of each side")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of learning, each run")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=tuple(SIDES), metavar="NAME")
    parser.add_argument("--curve", type=Path, metavar="PICTURE", help="draw success over seconds to this PNG")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, seed = options.one
        print(json.dumps(vars(one_run(side, int(seed), options.seconds, whole=options.whole))))
    else:
        run(options.runs, options.seconds, options.only, options.curve)


if __name__ == "__main__":
    main()
