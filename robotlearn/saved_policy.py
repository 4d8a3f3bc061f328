"""A policy that a run left behind: found by its run folder or by one of its checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hal.errors import SpecError
from hal.spec import RobotSpec, load_spec
from robotlearn import checkpoint
from robotlearn.cells import Cell, cells_of
from robotlearn.config.config import Config
from robotlearn.config.edge import LATE, WAYS, ExecutionConfig, PacedEdgeConfig
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.errors import CheckpointError, ConfigError
from robotlearn.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from policies.base import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedPolicy:
    """Where it lies and what it is for; `load` reads the weights.

    Attributes:
        file: the run's config; `config` is what is in it with `overrides` laid over.
        checkpoint: the folder with the weights; `version` is theirs.
    """

    file: Path
    overrides: tuple[str, ...]
    config: Config
    checkpoint: Path
    version: int

    def load(self, where: torch.device | None = None) -> Policy:
        """The policy with its weights, there where the learner had it by default.

        Raises CheckpointError when they are damaged.
        """
        from robotlearn.device import device  # torch comes with them
        from robotlearn.inputs import Inputs
        from robotlearn.policy import build_policy

        # On the CPU, too, what was learnt on a GPU that isn't here.
        where = where or device("cpu" if self.config.learner.device == "cpu" else "auto", "learner.device")
        policy = build_policy(self.config, Inputs(self.config), where, weights=False)
        policy.load_state_dict(checkpoint.load(self.checkpoint, contract(self.config)).policy)
        return policy

    @property
    def arm(self) -> Cell:
        """The robot and the task of the only edge that `find_policy` left for one arm."""
        return cells_of(self.config, self.config.edges[0])[0]


def find_policy(path: Path) -> SavedPolicy:
    """The newest checkpoint of a run folder, or the checkpoint that `path` is. Imports no torch, reads no weights.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says.
    """
    folder, chosen = _find(path)
    config, saved = load_config(folder.config), checkpoint.describe(chosen)
    if differs := checkpoint.difference(saved.contract, contract(config)):
        raise CheckpointError(f"{chosen} belongs to another policy: {differs}")
    return SavedPolicy(folder.config.resolve(), (), config, chosen.resolve(), saved.version)


def find_policy_for(
    path: Path,
    robot: str | None,
    task: str | None,
    ahead: int | None = None,
    way: str | None = None,
    driver: str | None = None,
    options: Mapping[str, object] | None = None,
) -> SavedPolicy:
    """`find_policy`, its config with a single, paced edge: one arm of the model `robot`, which does `task`.

    robot: a spec's name or file; None: the run's only one. Another spec of the same embodiment takes the place of the
    run's. task: one of the run's; None: its only one. ahead, way: as an edge's `execution` has them; None: those of the
    run's paced edge, or hold and 0 where it has none, since a policy that was trained in lockstep never met an older
    observation; where only the way is another one, half of the chunk if it computes while the arm moves. driver: by
    default that of the run's paced edge, with its options; options: the driver's own, laid over those.

    Raises besides ConfigError: the policy is not for this robot or task, naming what differs.
    """
    folder, chosen = _find(path)
    config, saved = load_config(folder.config), checkpoint.describe(chosen)
    if ahead is not None and ahead >= config.policy.horizon:
        raise ConfigError(
            f"--ahead {ahead}: expected less than the policy's horizon ({config.policy.horizon}), or a chunk would be "
            "asked for before the one in front of it has begun"
        )
    if way is not None and way not in WAYS:
        raise ConfigError(f"--way {way}: expected one of {', '.join(WAYS)}")
    if task is None and len(config.task) > 1:
        raise ConfigError(f"{path}: the run has several tasks; choose with --task one of {', '.join(config.task)}")
    if task is not None and task not in config.task:
        raise ConfigError(f"{path}: the policy was not taught the task {task!r}, but {', '.join(config.task)}")
    robots = list(config.robot)
    if robot is not None:
        robot = str(Path(robot).resolve()) if "/" in robot or robot.endswith((".yaml", ".yml")) else robot
        spec = load_spec(robot)
        known = dict.fromkeys(key.partition(".")[0].partition("/")[2] for key in saved.contract if "/" in key)
        if spec.embodiment not in known:
            raise ConfigError(
                f"robot {robot} does not fit the policy {chosen}: it is for {', '.join(known)}, not {spec.embodiment}"
            )
        place, differs = _place(robots, spec)
        if differs:
            raise ConfigError(f"robot {robot} does not fit the policy {chosen}: {differs}")
        robots[place] = robot
    elif len(robots) > 1:
        raise ConfigError(f"{path}: the run has several robots; choose with --robot one of {', '.join(robots)}")
    else:
        robot = robots[0]
    edge = _paced(config, ahead, way) | {"robot": [robot], "task": [task or config.task[0]]}
    if driver is not None and driver != edge["driver"]:
        edge |= {"driver": driver, "options": {}}
    edge["options"] |= options or {}
    overrides = (f"robot={json.dumps(robots)}", f"edges={json.dumps([edge])}")
    try:
        config = load_config(folder.config, overrides)
    except ConfigError as error:  # of an override that nobody gave
        raise ConfigError(str(error).removeprefix(f"override '{overrides[1]}': ")) from error
    if differs := checkpoint.difference(saved.contract, contract(config)):
        if robots == list(load_config(folder.config).robot):
            raise CheckpointError(f"{chosen} belongs to another policy: {differs}")
        raise ConfigError(f"robot {robot} does not fit the policy {chosen}: {differs}")
    return SavedPolicy(folder.config.resolve(), overrides, config, chosen.resolve(), saved.version)


def _find(path: Path) -> tuple[RunFolder, Path]:
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such run folder or checkpoint")
    single = (path / "checkpoint.json").is_file()
    folder = RunFolder.open(path.resolve().parent.parent if single else path)
    return folder, path if single else checkpoint.newest(folder.checkpoints)


def _paced(config: Config, ahead: int | None, way: str | None) -> dict[str, Any]:
    """The run's own paced edge, for its settings, or the default one; `execution` as asked for."""
    horizon = config.policy.horizon
    default = PacedEdgeConfig(
        name="arm", kind="paced", execution=ExecutionConfig(ahead=0), segment_steps=max(32, horizon)
    )
    edge = next((edge for edge in config.edges if isinstance(edge, PacedEdgeConfig)), default)
    execution = edge.execution.model_dump(exclude_unset=True)
    if way is not None and way != edge.execution.way:
        execution = {"way": way} | ({} if way == "wait" else {"ahead": horizon // 2 if way in LATE else 0})
    if ahead is not None:
        execution["ahead"] = ahead
    # A policy that is run and not taught does what it does best.
    return edge.model_dump() | {"execution": execution, "explore": False}


def _place(robots: Sequence[str], spec: RobotSpec) -> tuple[int, str]:
    """Which of the run's robots this one stands in for, and what the shapes don't tell of the difference: the order of
    the joints, and how long a step is (actions are deltas per step).
    """
    missing = []
    for place, name in enumerate(robots):
        try:
            trained = load_spec(name)
        except SpecError:
            missing.append(place)
            continue
        if trained.embodiment == spec.embodiment:
            for key, there, here in (
                ("joints", trained.names, spec.names),
                ("control_hz", trained.control_hz, spec.control_hz),
            ):
                if there != here:
                    return place, f"{key} is {there!r} there and {here!r} here"
            return place, ""
    if len(missing) != 1:
        return 0, f"which of {', '.join(robots)} it stands in for can't be told: their specs are not on this machine"
    log.warning(
        "the run's robot %s is not on this machine: names of joints and control_hz are not compared", robots[missing[0]]
    )
    return missing[0], ""
