"""`reach` from nothing: `robotlearn train reach` beside stable-baselines3's PPO, seconds to 90 % success.

The peer has the same task and shaped reward, actions in [-1, 1], Gymnasium's AsyncVectorEnv and both cores. It is
run with its own defaults and with our settings (learning rate, discount, lambda, epochs, minibatch, first deviation,
widths); the faster counts. Success is that of the policy without exploration in 100 episodes of other seeds, each
update of the peer, every second one of ours; its time counts for us and not for the peer. Needs stable-baselines3.
"""

import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from rich.console import Console

from benchmarks.report import report
from benchmarks.runs import train
from envs import ArmEnv, BatchArmEnv, EnvOptions, make_task
from envs.scene import build_scene
from hal import load_spec
from hal.drivers.mujoco import MujocoRobot

SEEDS = (0, 1, 2)
GOAL = 0.9
EPISODES, EVAL_SEED = 100, 1000
LIMIT_S = 120.0
ENVS = 8
OPTIONS = EnvOptions(reward="shaped")
PEERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "our settings": {
        "learning_rate": 1e-3,
        "gamma": 0.95,
        "gae_lambda": 0.9,
        "n_epochs": 8,
        "batch_size": 512,
        "n_steps": 768,
        "policy_kwargs": {"net_arch": [128, 128], "log_std_init": math.log(0.25)},
    },
}


def make_one() -> gymnasium.Env[Any, Any]:
    """The task as the peer takes it: one flat observation, actions in [-1, 1]."""
    torch.set_num_threads(1)
    spec = load_spec("panda")
    env = ArmEnv(MujocoRobot(spec, build_scene(spec, make_task("reach", spec))), "reach", OPTIONS)
    flat = gymnasium.wrappers.FlattenObservation(env)
    return gymnasium.wrappers.RescaleAction(flat, np.float32(-1), np.float32(1))


def ours(seed: int) -> tuple[float, float]:
    """Seconds of learning and environment steps until an evaluation reaches GOAL; inf where none did."""
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
    settings = (f"seed={seed}", "learner.eval_every=2", f"learner.eval_episodes={EPISODES}")
    try:
        rows = train("reach", folder / "run", *settings)
    finally:
        shutil.rmtree(folder)
    steps = {row["version"]: row["env_steps"] for row in rows if "env_steps" in row}
    for row in rows:
        if row.get("eval_success", 0) >= GOAL:
            return row["seconds"], steps.get(row["version"], math.nan)
    return math.inf, math.inf


def adapted(vector: AsyncVectorEnv) -> Any:
    """Gymnasium's vector environment with the interface that stable-baselines3 asks for."""
    from stable_baselines3.common.vec_env import VecEnv

    class Adapter(VecEnv):
        def reset(self) -> np.ndarray:
            return vector.reset(seed=self._seeds[0])[0]

        def step_async(self, actions: np.ndarray) -> None:
            vector.step_async(actions)

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            observations, rewards, terminated, truncated, found = vector.step_wait()
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            for index in np.flatnonzero(terminated | truncated):
                infos[index]["terminal_observation"] = found["final_obs"][index]
                infos[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
            return observations, rewards, terminated | truncated, infos

        def close(self) -> None:
            vector.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Adapter(vector.num_envs, vector.single_observation_space, vector.single_action_space)


def peer(seed: int, settings: dict[str, Any]) -> tuple[float, float]:
    """The same of stable-baselines3's PPO; its evaluations are taken out of the time."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Until(BaseCallback):
        """Ends the training once the policy is good or the time is over."""

        begun = 0.0
        reached = math.inf

        def _on_rollout_start(self) -> None:
            if not self.begun:
                self.begun = time.perf_counter()
            started = time.perf_counter()
            success = _success(self.model)
            if success >= GOAL:
                self.reached = started - self.begun
            self.begun += time.perf_counter() - started

        def _on_step(self) -> bool:
            return math.isinf(self.reached) and time.perf_counter() - self.begun < LIMIT_S

    torch.set_num_threads(1)
    vector = adapted(AsyncVectorEnv([make_one] * ENVS, shared_memory=True, autoreset_mode=AutoresetMode.SAME_STEP))
    model, until = PPO("MlpPolicy", vector, seed=seed, device="cpu", **settings), Until()
    try:
        model.learn(10**9, callback=until)
    finally:
        vector.close()
    return until.reached, float(model.num_timesteps)


def _success(model: Any) -> float:
    """Of the policy's mean action."""
    env = BatchArmEnv(
        load_spec("panda"), "reach", EPISODES, seed=EVAL_SEED, options=OPTIONS, autoreset=AutoresetMode.DISABLED
    )
    low, high = env.single_action_space.low, env.single_action_space.high
    observations, _ = env.reset()
    success = np.zeros(EPISODES, bool)
    while env.running.any():
        flat = np.concatenate([observations[key] for key in sorted(observations)], -1)
        action, _ = model.predict(flat, deterministic=True)
        observations, _, terminated, _, _ = env.step((low + (action + 1) / 2 * (high - low)).astype(np.float32))
        success |= terminated
    env.close()
    return float(success.mean())


def run() -> None:
    """Seed by seed, ours and the peer in turn, so that a machine that changes its pace changes it for all."""
    found: dict[str, list[tuple[float, float]]] = {"ours": [], **{name: [] for name in PEERS}}
    for seed in SEEDS:
        found["ours"].append(ours(seed))
        for name, settings in PEERS.items():
            # Drawn once a second: it must take nothing from what is measured.
            with Console().status(f"seed {seed}: stable-baselines3, {name} ...", refresh_per_second=1):
                found[name].append(peer(seed, settings))
        for name, runs in found.items():
            print(f"seed {seed}, {name}: {runs[-1][0]:.0f} s, {runs[-1][1]:,.0f} environment steps", flush=True)
    seconds = {name: statistics.median(run[0] for run in runs) for name, runs in found.items()}
    steps = {name: statistics.median(run[1] for run in runs) for name, runs in found.items()}
    best = min(PEERS, key=seconds.__getitem__)
    report("from_scratch.to_90", seconds["ours"], "s", f"stable-baselines3, {best}", seconds[best])
    report("from_scratch.steps_to_90", steps["ours"], "steps", f"stable-baselines3, {best}", steps[best])
