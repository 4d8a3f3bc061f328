"""The arm process: owns one robot and runs its control loop. Imports no torch."""

import logging
import os
from contextlib import ExitStack
from threading import Event

from envs.scene import build_scene
from hal import ReadOnly, Robot, Steppable, make_robot
from hal.control_loop import ControlLoop
from hal.estop_input import contact
from hal.owned_loop import owned_loop
from hal.ownership import Ownership, owner_of
from hal.virtual_scene import VirtualScene
from robotlearn.cells import Cell, arm_env, cells_of, env_options
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.edge.arm_loop import ArmLoop
from robotlearn.edge.arm_state import ArmStateFile
from robotlearn.edge.dry_run import DryRun
from robotlearn.edge.local import Judge
from robotlearn.errors import ConfigError
from robotlearn.people.hands import make_device
from robotlearn.people.person import Person
from robotlearn.people.resets import Reset
from robotlearn.people.terminal import options_in_a_run
from robotlearn.processes import freeze_heap

log = logging.getLogger(__name__)


def run_arm(config: Config, edge: str, *, server: str, station: str, stop: Event, dry_run: bool = False) -> None:
    """The arm process: connect the config's robot (a simulated one runs by the wall clock) and serve until `stop`.

    `dry_run`: the robot is `ReadOnly` and its loop a `DryRun`; a simulated one stands still.

    Raises OwnershipError when robot or port belong to another process, RobotFault when the robot isn't well, EnvError
    as `arm_env`.
    """
    entry = config.edge(edge)
    if not isinstance(entry, PacedEdgeConfig):
        raise ConfigError(f"edge {edge!r} of this config is not a paced one")
    cell = cells_of(config, entry)[0]
    robot = _robot(cell, entry)
    simulated = robot.capability(Steppable) is not None
    if entry.execution.way == "wait" and not simulated:
        raise ConfigError(
            f"edges.{config.edges.index(entry)}.execution.way: wait is for simulated arms, since what a real one works "
            "on does not wait with it; expected hold (with ahead 0 the arm holds, too, and its watchdog minds)"
        )
    if dry_run:
        robot = ReadOnly(robot)
    where, varied = f"edges.{config.edges.index(entry)}.person", env_options(config)
    with ExitStack() as stack:
        owned = stack.enter_context(_own(edge, robot.addresses(), simulated))
        driver = entry.driver or cell.spec.driver
        address = ", ".join(robot.addresses())
        state = stack.enter_context(ArmStateFile(owned, robot=cell.spec.name, driver=driver, address=address))
        button = None if entry.estop is None else contact(entry.estop.model_dump(exclude_none=True))
        control = owned_loop(robot, owned, button=button)
        state.watch(control)
        env = arm_env(control, cell, varied)
        stack.callback(env.close)
        loop = (DryRun if dry_run else ArmLoop)(
            env,
            control,
            edge,
            server=server,
            station=station,
            horizon=config.policy.horizon,
            execution=entry.execution,
            person=None if dry_run else _person(where, entry, cell, control),
            scene_reset=Reset.parse(entry.scene_reset),
        )
        stack.callback(loop.close)
        state.frames = lambda: loop.frames
        if isinstance(env.robot, VirtualScene):
            env.robot.between = loop.keep_in_touch
        if not env.judged and not dry_run:
            steps = varied.episode_steps or cell.task.episode_steps
            log.warning("%s: %s", edge, _how_it_ends(cell, loop.judge, loop.marks, steps, where))
        freeze_heap()
        loop.run(stop)


def _robot(cell: Cell, entry: PacedEdgeConfig) -> Robot:
    driver = entry.driver or cell.spec.driver
    scene = {"scene": build_scene(cell.spec, cell.task)} if driver == "mujoco" else {}
    return make_robot(cell.spec, driver, **scene, **entry.options)


def _own(name: str, addresses: tuple[str, ...], simulated: bool) -> Ownership:
    """Two runs may simulate arms of the same name; a real one is there once."""
    if simulated and owner_of(name) is not None:
        name = f"{name}@{os.getpid()}"
    return Ownership(name, *addresses)


def _person(where: str, entry: PacedEdgeConfig, cell: Cell, control: ControlLoop) -> Person | None:
    if (wanted := entry.person) is None:
        return None
    options = options_in_a_run(where, wanted.device, wanted.options)
    device = make_device(wanted.device, cell.spec, control.press_estop, **options)
    for text in device.help:
        device.tell(text)
    return Person(cell.spec, device, speed=wanted.speed, blend_s=wanted.blend_s)


def _how_it_ends(cell: Cell, judge: Judge, marks: str, steps: int, where: str) -> str:
    unknown = f"nothing here measures where the objects of task {cell.task.name} are"
    if judge == "person":
        return f"{unknown}: a person ends each episode ({marks}); one that lasts all its {steps} steps has failed"
    return (
        f"{unknown}, and nobody says how an episode ended: each lasts all its {steps} steps, and its success is not "
        f"known; set {where} to who marks them, by a keyboard or a gamepad"
    )
