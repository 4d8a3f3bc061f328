"""Demonstrations of the scripted expert, as arrays to imitate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions, Expert
from robotlearn.cells import Cell
from robotlearn.errors import StartError

EXPERT_NOISE = 0.005


@dataclass(frozen=True)
class Demonstrations:
    """Successful episodes of one cell, one after another: K steps in all.

    Attributes:
        observations: key to (K, ...), what was seen before each action.
        actions: (K, D) float32, what the expert meant to do (not what the noise made of it).
        executed: (K, D) float32, what was done.
        reward: (K,) float32.
        final: key to (E, ...), what was seen after each episode's last action.
        episode_ends: (E,) the number of steps up to and with each episode's last.
        instructions: (E) the words in which each episode's task was given.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    executed: np.ndarray
    reward: np.ndarray
    final: dict[str, np.ndarray]
    episode_ends: np.ndarray
    instructions: list[str]

    def step_instructions(self) -> list[str]:
        """(K) the words at each step."""
        lengths = np.diff(self.episode_ends, prepend=0)
        return [words for words, length in zip(self.instructions, lengths, strict=True) for _ in range(length)]


def collect(
    cell: Cell,
    episodes: int,
    seed: int,
    *,
    noise: float = EXPERT_NOISE,
    options: EnvOptions | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Demonstrations:
    """Let the expert do the task until `episodes` succeeded; failures are left out.

    `noise`: standard deviation, in rad, of what is added to the joint deltas that are executed but not to those that
    are recorded, so that the demonstrations show how to come back (DART, arXiv:1703.09327). `progress` is told after
    every step how many have succeeded; what it raises breaks off. Raises StartError when the expert fails more than
    nine times in ten.
    """
    n = min(episodes, 64)
    env = BatchArmEnv(cell.spec, cell.task, n, seed=seed, options=options, autoreset=AutoresetMode.DISABLED)
    expert = Expert(cell.spec, env.task)
    rng = np.random.default_rng([seed, 1])
    kept: list[tuple[dict[str, np.ndarray], np.ndarray, str]] = []
    """Of each episode what was seen, its end included; per step the action meant, the one done, the reward; words."""
    tried = 0
    try:
        while len(kept) < episodes:
            if tried >= max(10 * episodes, 100):
                raise StartError(
                    f"the expert of task {cell.task.name} succeeded {len(kept)} of {tried} times with {cell.spec.name}"
                )
            observations, _ = env.reset()
            words = list(env.instructions)
            seen: list[dict[str, np.ndarray]] = []
            done: list[np.ndarray] = []
            steps, success = np.zeros(n, int), np.zeros(n, bool)
            while env.running.any():
                action = expert.act(env.scene_state())
                seen.append({key: value.copy() for key, value in observations.items()})
                steps += env.running
                disturbed = action.copy()
                joints = len(cell.spec.joints)
                disturbed[:, :joints] += rng.normal(0, noise, (n, joints))
                observations, reward, terminated, _, infos = env.step(disturbed)
                done.append(np.concatenate([action, infos["executed"], reward[:, None]], -1, dtype=np.float32))
                success |= terminated
                progress(min(len(kept) + int(success.sum()), episodes))
            tried += n
            seen.append(dict(observations))
            for arm in np.flatnonzero(success):
                kept.append(
                    (
                        {key: np.stack([row[key][arm] for row in seen[: steps[arm] + 1]]) for key in observations},
                        np.stack([row[arm] for row in done[: steps[arm]]]),
                        words[arm],
                    )
                )
    finally:
        env.close()
    kept = kept[:episodes]
    dim = cell.spec.dim
    steps = np.concatenate([done for _, done, _ in kept])
    return Demonstrations(
        {key: np.concatenate([seen[key][:-1] for seen, _, _ in kept]) for key in kept[0][0]},
        steps[:, :dim],
        steps[:, dim : 2 * dim],
        steps[:, 2 * dim],
        {key: np.stack([seen[key][-1] for seen, _, _ in kept]) for key in kept[0][0]},
        np.cumsum([len(done) for _, done, _ in kept]),
        [words for _, _, words in kept],
    )
