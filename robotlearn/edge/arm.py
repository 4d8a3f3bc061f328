"""The arm process: owns one robot and runs its control loop. Imports no torch."""

import secrets
from dataclasses import replace
from threading import Event

from envs import ArmEnv, Randomization
from envs.scene import build_scene
from hal import ReadOnly, RealTime, Steppable, Tunable, make_robot
from robotlearn.cells import cells_of, env_options
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.edge.arm_loop import ArmLoop
from robotlearn.edge.dry_run import DryRun
from robotlearn.errors import ConfigError
from robotlearn.processes import freeze_heap


def run_arm(config: Config, edge: str, *, server: str, station: str, stop: Event, dry_run: bool = False) -> None:
    """The arm process: connect the config's robot (a simulated one runs by the wall clock) and serve until `stop`.

    `dry_run`: the robot is `ReadOnly` and its loop a `DryRun`; a simulated one stands still.
    """
    entry = config.edge(edge)
    if not isinstance(entry, PacedEdgeConfig):
        raise ConfigError(f"edge {edge!r} of this config is not a paced one")
    cell = cells_of(config, entry)[0]
    spec, task = cell.spec, cell.task
    options = {"scene": build_scene(spec, task)} if spec.driver == "mujoco" else {}
    robot = make_robot(spec, **options)
    kind = ArmLoop
    if dry_run:
        robot, kind = ReadOnly(robot), DryRun
    elif robot.capability(Steppable) is not None:  # type: ignore[type-abstract]
        robot = RealTime(robot)
    varied = env_options(config)
    if robot.capability(Tunable) is None:  # type: ignore[type-abstract]
        varied = replace(varied, randomization=Randomization())  # a real arm's physics are what they are
    env = ArmEnv(robot, task, varied)
    if not dry_run:
        # Other starts after each restart of this process.
        env.reset(seed=int.from_bytes(secrets.token_bytes(4)))
    loop = kind(env, edge, server=server, station=station, horizon=config.policy.horizon, ahead=entry.ahead)
    try:
        freeze_heap()
        loop.run(stop)
    finally:
        loop.close()
