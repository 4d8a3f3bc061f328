"""Measures a policy without exploration, on simulated arms."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions, LanguageTask
from policies.base import Policy
from robotlearn.cells import Cell
from robotlearn.inputs import Inputs
from robotlearn.policy import ask
from robotlearn.statistics import wilson_interval


@dataclass(frozen=True)
class Rate:
    """Success rate with its 95 % Wilson interval."""

    episodes: int
    successes: int
    success: float
    low: float
    high: float

    @classmethod
    def of(cls, won: Sequence[bool]) -> "Rate":
        """Of at least one episode."""
        successes = sum(won)
        return cls(len(won), successes, successes / len(won), *wilson_interval(successes, len(won)))


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
    cells: dict[str, "Evaluation"] = field(default_factory=dict)
    """What it is made of, by cell, where there are several."""
    instructions: dict[str, Rate] = field(default_factory=dict)
    """By the words that the episodes were told, of one cell whose words say which of several goals is meant."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_cells(
    policy: Policy,
    inputs: Inputs,
    cells: Sequence[Cell],
    *,
    episodes: int,
    seed: int,
    video: Path | None = None,
    progress: Callable[[float], None] = lambda done: None,
    **settings: Any,
) -> Evaluation:
    """`evaluate` every cell with its share of the episodes, and all of them together.

    With several cells each has a film of its own, `video` with the cell's name put in.
    """
    if len(cells) == 1:
        return evaluate(
            policy, inputs, cells[0], episodes=episodes, seed=seed, video=video, progress=progress, **settings
        )
    share, more = divmod(max(episodes, len(cells)), len(cells))
    parts: dict[str, Evaluation] = {}
    for index, cell in enumerate(cells):
        before = sum(part.episodes for part in parts.values())
        film = video and video.with_stem(f"{video.stem}-{cell.name.replace('/', '-')}")
        parts[cell.name] = evaluate(
            policy,
            inputs,
            cell,
            episodes=share + (index < more),
            seed=seed,
            video=film,
            progress=lambda done, before=before: progress(before + done),  # type: ignore[misc]
            **settings,
        )
    weights = [part.episodes for part in parts.values()]
    total, successes = sum(weights), sum(part.successes for part in parts.values())
    return Evaluation(
        total,
        successes,
        successes / total,
        *wilson_interval(successes, total),
        float(np.average([part.mean_return for part in parts.values()], weights=weights)),
        float(np.average([part.mean_steps for part in parts.values()], weights=weights)),
        parts,
    )


def evaluate(
    policy: Policy,
    inputs: Inputs,
    cell: Cell,
    *,
    episodes: int,
    seed: int,
    threads: int = 1,
    options: EnvOptions | None = None,
    video: Path | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Evaluation:
    """Run `episodes` episodes, each with the policy's plain ODE from seeded noise; equal arguments give equal results.

    `progress` is told after every chunk how many episodes are done, those that run in part; what it raises breaks off.
    `video`: an mp4 or gif of the first four arms' first episodes, by the file's suffix. Chunks run open loop, H steps.
    """
    n = min(episodes, 100)
    env = BatchArmEnv(
        cell.spec, cell.task, n, threads=threads, seed=seed, options=options, autoreset=AutoresetMode.DISABLED
    )
    rng = np.random.default_rng([seed, 2])
    returns, steps, success = [], [], []
    words: list[str] = []
    frames: list[np.ndarray] = []
    try:
        while len(success) < episodes:
            observations, _ = env.reset()
            total, length, won = np.zeros(n), np.zeros(n, int), np.zeros(n, bool)
            film = video is not None and not success
            take = min(n, episodes - len(success))
            while env.running.any():
                share = np.where(env.running, length / env.referee.episode_steps, 1.0).mean()
                progress(len(success) + take * float(share))
                noise = policy.noise(n, rng)
                actions, _ = ask(policy, inputs, cell.spec.embodiment, observations, env.instructions, noise, False)
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
                frames += [_tile(env.render())] * round(cell.spec.control_hz)
            returns += total[:take].tolist()
            steps += length[:take].tolist()
            success += won[:take].tolist()
            words += env.instructions[:take]
            progress(len(success))
    finally:
        env.close()
    if video is not None:
        _write_video(video, frames, cell.spec.control_hz)
    low, high = wilson_interval(sum(success), episodes)
    return Evaluation(
        episodes,
        sum(success),
        sum(success) / episodes,
        low,
        high,
        float(np.mean(returns)),
        float(np.mean(steps)),
        instructions=_by_words(words, success) if isinstance(cell.task, LanguageTask) else {},
    )


def _by_words(words: Sequence[str], success: Sequence[bool]) -> dict[str, Rate]:
    won: dict[str, list[bool]] = {}
    for told, one in zip(words, success, strict=True):
        won.setdefault(told, []).append(one)
    return {told: Rate.of(won[told]) for told in sorted(won)}


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
