"""What a policy's numbers are normalised by: the demonstrations, or what arms see that move at random."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv
from envs.control import MAX_DELTA
from envs.spaces import BY_JOINT
from policies.encoder import EMBODIMENT, IMAGES, INSTRUCTION
from policies.normalizer import Scale, Statistics
from robotlearn.cells import Cell, env_options
from robotlearn.config.config import Config
from robotlearn.demonstrations import Demonstrations
from robotlearn.inputs import Inputs

Demonstrated = tuple[Cell, Demonstrations]
ARMS = 64
"""That move at random for an episode, per cell."""


def demonstrated(
    inputs: Inputs, demonstrations: Sequence[Demonstrated], scales: Mapping[str, Scale] | None = None
) -> dict[str, Statistics]:
    """Statistics of the demonstrations, for each embodiment its own; `scales`: as of the policy."""
    data = [(cell, shown.observations, shown.actions) for cell, shown in demonstrations]
    return _by_embodiment(inputs, data, scales or {})


def wandered(
    config: Config, cells: Sequence[Cell], inputs: Inputs, scales: Mapping[str, Scale] | None = None
) -> dict[str, Statistics]:
    """Statistics of episodes with random actions; actions are scaled to half of what an arm may do in a step.

    Not of their starts alone: what hardly differs there would be blown up as soon as the arm moves.
    """
    data = []
    for cell in cells:
        options = replace(env_options(config), cameras=(), environment_state=True)
        env = BatchArmEnv(
            cell.spec, cell.task, ARMS, seed=config.seed, options=options, autoreset=AutoresetMode.DISABLED
        )
        env.action_space.seed(config.seed)
        observations = [dict(env.reset()[0])]
        while env.running.any():
            observations.append(dict(env.step(env.action_space.sample())[0]))
        joints = len(cell.spec.joints)
        middle, half = (env.control.high + env.control.low) / 2, (env.control.high - env.control.low) / 2
        half[:joints] = MAX_DELTA / 2
        seen = {key: np.concatenate([each[key] for each in observations]) for key in observations[0]}
        data.append((cell, seen, np.stack([middle - half, middle + half])))
        env.close()
    return _by_embodiment(inputs, data, scales or {})


def _by_embodiment(
    inputs: Inputs, data: Sequence[tuple[Cell, dict[str, np.ndarray], np.ndarray]], scales: Mapping[str, Scale]
) -> dict[str, Statistics]:
    """A row per embodiment, over all its cells; what an embodiment lacks has mean 0 and deviation 1."""
    rows: dict[str, list[Statistics]] = {}
    for name in inputs.embodiments:
        own = [(seen, actions) for cell, seen, actions in data if cell.spec.embodiment == name]
        for key, shape in inputs.features.items():
            if key in (EMBODIMENT, INSTRUCTION) or key.startswith(IMAGES):
                continue
            width = shape[0]
            values = [inputs.padded(name, seen[key]) if key in BY_JOINT else seen[key] for seen, _ in own]
            used = inputs.used_dims[name] if key in BY_JOINT else None
            rows.setdefault(key, []).append(_statistics(values, width, used, scales.get(key, "mean_std")))
        actions = [inputs.padded(name, actions) for _, actions in own]
        scale = scales.get("action", "mean_std")
        rows.setdefault("action", []).append(_statistics(actions, inputs.action_dim, inputs.used_dims[name], scale))
    if len(inputs.embodiments) == 1:
        return {key: one for key, (one,) in rows.items()}
    return {
        key: Statistics(np.stack([one.mean for one in each]), np.stack([one.std for one in each]))
        for key, each in rows.items()
    }


def _statistics(values: Sequence[np.ndarray], width: int, used: np.ndarray | None, scale: Scale) -> Statistics:
    """Over rows of several arrays (n, up to width); a column is described by the arrays that have it."""
    mean, std = np.zeros(width), np.ones(width)
    for column in range(width) if used is None else used:
        known = np.concatenate([array[:, column] for array in values if array.shape[1] > column] or [np.zeros(0)])
        if len(known):
            one = Statistics.of(known, scale)
            mean[column], std[column] = one.mean, one.std
    return Statistics(mean, std)
