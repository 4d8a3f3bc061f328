"""What the policy of a run is shown of an arm's observations, and what its actions are to the arm."""

from collections.abc import Mapping, Sequence

import numpy as np

from envs.spaces import BY_JOINT, STATE
from policies.encoder import EMBODIMENT, INSTRUCTION
from policies.language import INSTRUCTION_DIM, TEXT_DIM, as_bytes, embed
from robotlearn.cells import Cell, cells_of, env_options, observation_shapes, policy_dim
from robotlearn.config.config import Config
from robotlearn.config.lerobot_policies import VLAConfig
from robotlearn.errors import ConfigError

Arrays = Mapping[str, np.ndarray]


class Inputs:
    """Turns what an arm observes into what the run's policy is shown, and the policy's actions into the arm's.

    With one embodiment and no instruction both are what they are. With several, what is by joint is laid out for the
    arm with most of them, the gripper always in the last place; a shorter `observation.environment_state` ends with
    zeros; and the policy is told which embodiment it is. The instruction comes as its embedding, to a VLA as its bytes.

    Attributes:
        features: {key: shape} of what the policy is shown.
        action_dim: D of the policy.
        used_dims: per embodiment, in the order of `embodiments`, the entries of a policy's action that are its own.
    """

    def __init__(self, config: Config, cells: Sequence[Cell] | None = None) -> None:
        """`cells`: those of the config, where they are known already."""
        cells, options = cells_of(config) if cells is None else cells, env_options(config)
        self._reads = isinstance(config.policy, VLAConfig)
        specs = {cell.spec.embodiment: cell.spec for cell in cells}
        self.embodiments = tuple(specs)
        self.action_dim = width = policy_dim(list(specs.values()))
        self.used_dims = {
            name: np.array([*range(len(spec.joints)), *([width - 1] if spec.gripper is not None else [])])
            for name, spec in specs.items()
        }
        self.features: dict[str, tuple[int, ...]] = {}
        for cell in cells:
            for key, shape in observation_shapes(cell, options).items():
                known = self.features.setdefault(key, shape)
                if len(known) == 1:
                    self.features[key] = (max(known[0], shape[0]),)
                elif known != shape:
                    raise ConfigError(f"{key} has shape {known} and {shape}: one policy can't see both")
        self.features |= {key: (self.action_dim,) for key in BY_JOINT if key in self.features}
        if len(specs) > 1:
            self.features[EMBODIMENT] = (len(specs),)
        if config.observations.instruction:
            self.features[INSTRUCTION] = (TEXT_DIM if self._reads else INSTRUCTION_DIM,)

    def observations(self, embodiment: str, seen: Arrays, instructions: str | Sequence[str]) -> dict[str, np.ndarray]:
        """What the policy is shown for n observations {key: (n, ...)} of arms of one embodiment.

        `instructions`: the words for all of them, or for each. Arrays that needn't change are passed on.
        """
        n = len(seen[STATE])
        shown = {}
        for key in self.features:
            if key == EMBODIMENT:
                one = np.zeros((1, len(self.embodiments)), np.float32)
                one[0, self.embodiments.index(embodiment)] = 1.0
                shown[key] = one.repeat(n, 0)
            elif key == INSTRUCTION:
                if isinstance(instructions, str):
                    shown[key] = self.words(instructions)[None].repeat(n, 0)
                else:
                    shown[key] = np.stack([self.words(one) for one in instructions])
            else:
                shown[key] = self.laid_out(embodiment, key, seen[key])
        return shown

    def words(self, instruction: str) -> np.ndarray:
        """What the policy is shown of an instruction: its bytes where it reads, else its embedding."""
        return as_bytes(instruction) if self._reads else embed(instruction)

    def laid_out(self, embodiment: str, key: str, values: np.ndarray) -> np.ndarray:
        """Observations (n, ...) of one key, of an arm of that embodiment, with the policy's shape."""
        if key in BY_JOINT and len(self.used_dims[embodiment]) < self.action_dim:
            return self.padded(embodiment, values)
        shape = self.features[key]
        return values if values.shape[1:] == shape else np.pad(values, ((0, 0), (0, shape[0] - values.shape[1])))

    def padded(self, embodiment: str, values: np.ndarray) -> np.ndarray:
        """(..., dim) of an arm laid out for the policy, (..., action_dim); 0 in places that aren't its own."""
        wide = np.zeros((*values.shape[:-1], self.action_dim), values.dtype)
        wide[..., self.used_dims[embodiment]] = values
        return wide

    def actions(self, embodiment: str, actions: np.ndarray) -> np.ndarray:
        """The arm's own entries (..., dim) of a policy's actions (..., action_dim)."""
        used = self.used_dims[embodiment]
        return actions if len(used) == self.action_dim else actions[..., used]
