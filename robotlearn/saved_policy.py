"""A policy that a run left behind: found by its run folder or by one of its checkpoints."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hal.errors import SpecError
from hal.spec import RobotSpec, load_spec
from robotlearn.config.config import Config
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.errors import CheckpointError, ConfigError
from robotlearn.learner import checkpoint
from robotlearn.run_folder import RunFolder

if TYPE_CHECKING:
    from policies.base import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedPolicy:
    """Where it lies and what it is for; `load` reads the weights.

    Attributes:
        file: the run's config; `config` is what is in it, with the robot that was asked for.
        spec: of that robot.
        checkpoint: the folder with the weights; `version` is theirs.
    """

    file: Path
    config: Config
    spec: RobotSpec
    checkpoint: Path
    version: int

    def load(self) -> Policy:
        """The policy with its weights. Raises CheckpointError when they are damaged."""
        from robotlearn.policy import build_policy  # torch comes with it

        policy = build_policy(self.config, self.spec)
        policy.load_state_dict(checkpoint.load(self.checkpoint, contract(self.config, self.spec)).policy)
        return policy


def find_policy(path: Path, robot: str | None = None) -> SavedPolicy:
    """The newest checkpoint of a run folder, or the checkpoint that `path` is. Imports no torch, reads no weights.

    robot: a spec's name or file instead of the run's robot.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says;
    ConfigError: the policy is not for this robot, naming the key that differs.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such run folder or checkpoint")
    single = (path / "checkpoint.json").is_file()
    folder = RunFolder.open(path.resolve().parent.parent if single else path)
    config = load_config(folder.config, [] if robot is None else [f"robot={json.dumps(robot)}"])
    spec = load_spec(config.robot)
    chosen = path if single else checkpoint.newest(folder.checkpoints)
    saved = checkpoint.describe(chosen)
    differs = checkpoint.difference(saved.contract, contract(config, spec))
    if robot is None and differs:
        raise CheckpointError(f"{chosen} belongs to another policy: {differs}")
    differs = differs or (_other_body(folder, spec) if robot is not None else "")
    if differs:
        raise ConfigError(f"robot {robot} does not fit the policy {chosen}: {differs}")
    return SavedPolicy(folder.config.resolve(), config, spec, chosen.resolve(), saved.version)


def _other_body(folder: RunFolder, spec: RobotSpec) -> str:
    """What the shapes don't tell: the order of the joints, and how long a step is (its actions are deltas per step)."""
    own = load_config(folder.config).robot
    try:
        trained = load_spec(own)
    except SpecError:
        log.warning("the run's robot %s is not on this machine: names of joints and control_hz are not compared", own)
        return ""
    for key, there, here in (
        ("joints", trained.names, spec.names),
        ("control_hz", trained.control_hz, spec.control_hz),
    ):
        if there != here:
            return f"{key} is {there!r} there and {here!r} here"
    return ""
