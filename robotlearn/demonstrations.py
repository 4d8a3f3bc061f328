"""Demonstrations of the scripted expert, as arrays to imitate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions, Expert
from hal.spec import RobotSpec
from robotlearn.errors import StartError

EXPERT_NOISE = 0.005


@dataclass(frozen=True)
class Demonstrations:
    """Successful episodes one after another: K steps in all.

    Attributes:
        observations: key to (K, ...), what was seen before each action.
        actions: (K, D) float32, what the expert meant to do (not what the noise made of it).
        episode_ends: (E,) the number of steps up to and with each episode's last.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    episode_ends: np.ndarray

    def first(self, episodes: int) -> "Demonstrations":
        """The first `episodes` of them."""
        end = int(self.episode_ends[episodes - 1])
        return Demonstrations(
            {key: value[:end] for key, value in self.observations.items()},
            self.actions[:end],
            self.episode_ends[:episodes],
        )


def collect(
    spec: RobotSpec,
    task: str,
    episodes: int,
    seed: int,
    *,
    noise: float = EXPERT_NOISE,
    options: EnvOptions | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Demonstrations:
    """Let the expert do the task until `episodes` succeeded; failures are left out.

    `noise`: standard deviation, in rad, of what is added to the joint deltas that are executed but not to those that
    are recorded, so that the demonstrations show how to come back (DART, arXiv:1703.09327). Raises StartError when the
    expert fails more than nine times in ten.
    """
    n = min(episodes, 64)
    env = BatchArmEnv(spec, task, n, seed=seed, options=options, autoreset=AutoresetMode.DISABLED)
    expert = Expert(spec, env.task)
    rng = np.random.default_rng([seed, 1])
    kept: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    tried = 0
    try:
        while len(kept) < episodes:
            if tried >= max(10 * episodes, 100):
                raise StartError(f"the expert of task {task} succeeded {len(kept)} of {tried} times with {spec.name}")
            observations, _ = env.reset()
            seen: list[dict[str, np.ndarray]] = []
            meant: list[np.ndarray] = []
            steps, success = np.zeros(n, int), np.zeros(n, bool)
            while env.running.any():
                action = expert.act(env.scene_state())
                seen.append({key: value.copy() for key, value in observations.items()})
                meant.append(action)
                steps += env.running
                disturbed = action.copy()
                joints = len(spec.joints)
                disturbed[:, :joints] += rng.normal(0, noise, (n, joints))
                observations, _, terminated, _, _ = env.step(disturbed)
                success |= terminated
            tried += n
            for arm in np.flatnonzero(success):
                kept.append(
                    (
                        {key: np.stack([row[key][arm] for row in seen[: steps[arm]]]) for key in observations},
                        np.stack([row[arm] for row in meant[: steps[arm]]]),
                    )
                )
            progress(min(len(kept), episodes))
    finally:
        env.close()
    kept = kept[:episodes]
    return Demonstrations(
        {key: np.concatenate([observed[key] for observed, _ in kept]) for key in kept[0][0]},
        np.concatenate([actions for _, actions in kept]),
        np.cumsum([len(actions) for _, actions in kept]),
    )
