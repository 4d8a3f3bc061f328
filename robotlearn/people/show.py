"""What the command `record` puts together: a robot in its task's scene, a person's device, a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from envs import ArmEnv, EnvError, EnvOptions, Randomization, make_task
from envs.scene import build_scene
from hal.robot import Robot, Scene, Tunable
from hal.spec import load_spec
from hal.virtual_scene import VirtualScene
from robotlearn.cells import Cell, cells_of, env_options
from robotlearn.config.config import Config
from robotlearn.config.load import driver_options, load_config
from robotlearn.errors import ConfigError
from robotlearn.people.dataset import check_dataset, export
from robotlearn.people.demonstrator import Demonstrator
from robotlearn.people.drive import device_settings, open_device, shown_robot, stop_on_hangup
from robotlearn.people.recording import Recording, Shape
from robotlearn.people.resets import Reset
from robotlearn.people.status import StatusLine
from robotlearn.people.taken import Taken
from robotlearn.people.window import Window
from robotlearn.processes import freeze_heap


def record(
    config: str | None,
    overrides: Sequence[str],
    *,
    robot: str | None,
    task: str | None,
    driver: str | None,
    options: Sequence[str] | None,
    device: str,
    device_options: Sequence[str] | None,
    leader: str | None,
    leader_options: Sequence[str] | None,
    speed: float,
    name: str | None,
    view: bool,
    episodes: int,
    out: Path,
    dataset: str | None,
    reset: str,
    longest: float,
) -> None:
    """Records, then exports. Raises what makes it impossible, each with one line for its user."""
    stop = stop_on_hangup()
    loaded = load_config(config, list(overrides)) if config is not None else None
    cells, cell = _cell(loaded, robot, task)
    wait = Reset.parse(reset)
    own = driver_options(options or [])
    device_own = device_settings(device, device_options, leader, leader_options)
    varied = replace(
        EnvOptions() if loaded is None else env_options(loaded),
        episode_steps=max(1, round(longest * cell.spec.control_hz)),
    )
    simulated = (driver or cell.spec.driver) == "mujoco"
    scene = {"scene": build_scene(cell.spec, cell.task)} if simulated else {}
    if dataset is not None:
        check_dataset(dataset)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Recording(out, cell, varied, Shape.of(cell, loaded, cells)))
        shown = shown_robot(cell.spec, driver, {**own, **scene}) if view else None
        taken = Taken(cell.spec, holder="record", name=name, driver=driver, options={**own, **scene}, robot=shown)
        hands = stack.enter_context(open_device(device, cell.spec, taken.press, device_own))
        for text in hands.help:
            typer.echo(text)
        stack.enter_context(taken)
        if shown is not None:
            stack.enter_context(Window(shown, stop))
        env = _env(taken, cell, varied)
        status: StatusLine
        showing = Demonstrator(
            taken, env, hands, kept, episodes=episodes, speed=speed, reset=wait, say=lambda text: status.say(text)
        )
        status = stack.enter_context(StatusLine(showing.line))
        status.say(f"{taken.name} at {cell.task.name}: {env.instruction}; {speed:.0%} of its speeds, into {out}")
        freeze_heap()
        showing.run(stop)
    typer.echo(f"{out}: {kept.successes} successes, {kept.failures} failures; {kept.discarded} discarded")
    if dataset is not None and kept.successes:
        folder, count = export(out, cell.spec, dataset, say=typer.echo)
        typer.echo(f"{folder}: a LeRobotDataset of {count} episodes")


def _cell(config: Config | None, robot: str | None, task: str | None) -> tuple[list[Cell], Cell]:
    """All cells of the config, and the one that is shown. Raises ConfigError, SpecError, TaskError."""
    if config is None:
        if robot is None or task is None:
            raise ConfigError("record: give a CONFIG, or both --robot and --task")
        spec = load_spec(robot)
        one = Cell(spec, make_task(task, spec))
        return [one], one
    cells = cells_of(config)
    names = list(zip(config.cells(), cells, strict=True))
    fit = [cell for (r, t), cell in names if robot in (None, r, cell.spec.name) and task in (None, t)]
    if len(fit) != 1:
        found = ", ".join(f"--robot {r} --task {t}" for (r, t), _ in names)
        wrong = "has several robots or tasks" if len(fit) > 1 else "has no such robot and task"
        raise ConfigError(f"the config {wrong}; choose one of: {found}")
    return cells, fit[0]


def _env(taken: Taken, cell: Cell, options: EnvOptions) -> ArmEnv:
    robot: Robot = taken.loop
    if robot.capability(Tunable) is None:  # type: ignore[type-abstract]
        options = replace(options, randomization=Randomization())  # a real arm's physics are what they are
    if robot.capability(Scene) is None:  # type: ignore[type-abstract]
        if not cell.task.virtual and options.environment_state:
            raise EnvError(
                f"robot {cell.spec.name} can't tell where the objects of task {cell.task.name} are: set "
                "observations.environment_state=false and name cameras, and end each episode by key"
            )
        robot = VirtualScene(robot, cell.task.objects)
    return ArmEnv(robot, cell.task, options)
