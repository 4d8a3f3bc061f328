"""Measures a policy without exploration, on simulated arms."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions
from hal.spec import RobotSpec
from policies.base import Policy
from robotlearn.statistics import wilson_interval


@dataclass(frozen=True)
class Evaluation:
    """Success rate with its 95 % Wilson interval, mean return (undiscounted) and mean length in steps."""

    episodes: int
    successes: int
    success: float
    low: float
    high: float
    mean_return: float
    mean_steps: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    policy: Policy,
    spec: RobotSpec,
    task: str,
    *,
    episodes: int,
    seed: int,
    threads: int = 1,
    options: EnvOptions | None = None,
    video: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run `episodes` episodes, each with the policy's plain ODE from seeded noise; equal arguments give equal results.

    `video`: an mp4 or gif of the first four arms' first episodes, by the file's suffix. Chunks run open loop, H steps.
    """
    n = min(episodes, 100)
    env = BatchArmEnv(
        spec, task, n, threads=threads, seed=seed, options=options, autoreset=AutoresetMode.DISABLED
    )
    rng = np.random.default_rng([seed, 2])
    returns, steps, success = [], [], []
    frames: list[np.ndarray] = []
    try:
        while len(success) < episodes:
            observations, _ = env.reset()
            total, length, won = np.zeros(n), np.zeros(n, int), np.zeros(n, bool)
            film = video is not None and not success
            while env.running.any():
                chunk = policy.act(
                    {k: torch.from_numpy(v) for k, v in observations.items()}, policy.noise(n, rng), False
                )
                actions = chunk.actions.numpy()
                for h in range(policy.horizon):
                    if film:
                        frames.append(_tile(env.render()))
                    length += env.running
                    observations, reward, terminated, _, _ = env.step(actions[:, h])
                    total += reward
                    won |= terminated
                    if not env.running.any():
                        break
            if film:
                # A last still: the end is what one wants to see.
                frames += [_tile(env.render())] * round(spec.control_hz)
            take = min(n, episodes - len(success))
            returns += total[:take].tolist()
            steps += length[:take].tolist()
            success += won[:take].tolist()
            progress(len(success))
    finally:
        env.close()
    if video is not None:
        _write_video(video, frames, spec.control_hz)
    low, high = wilson_interval(sum(success), episodes)
    return Evaluation(
        episodes, sum(success), sum(success) / episodes, low, high, float(np.mean(returns)), float(np.mean(steps))
    )


def _tile(frames: tuple[np.ndarray, ...]) -> np.ndarray:
    if len(frames) < 4:
        return np.concatenate(frames, 1)
    return np.concatenate([np.concatenate(frames[:2], 1), np.concatenate(frames[2:4], 1)], 0)


def _write_video(path: Path, frames: list[np.ndarray], fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.imwrite(path, [frame[::2, ::2] for frame in frames], duration=1000 / fps, loop=0)
    else:
        imageio.imwrite(path, frames, fps=fps, codec="libx264", macro_block_size=1)
