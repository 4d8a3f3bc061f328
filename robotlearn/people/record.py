"""What the command `record` puts together: a robot in its task's scene, a person's device, a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import typer

from envs import EnvOptions, LanguageTask, make_task
from envs.scene import build_scene
from hal.robot import Scene
from hal.spec import load_spec
from robotlearn.cells import Cell, arm_env, cells_of, env_options
from robotlearn.config.config import Config
from robotlearn.config.load import load_config
from robotlearn.datasets.export import export_interruptibly
from robotlearn.datasets.writing import check_target
from robotlearn.errors import ConfigError
from robotlearn.people.demonstrator import Demonstrator
from robotlearn.people.options import Options
from robotlearn.people.recording import Recording, Shape, check_folder, successes
from robotlearn.people.resets import Reset
from robotlearn.people.session import session, stop_on_hangup
from robotlearn.processes import freeze_heap


def record(
    config: str | None,
    overrides: Sequence[str],
    options: Options,
    *,
    robot: str | None,
    task: str | None,
    episodes: int,
    out: Path,
    dataset: str | None,
    reset: str,
    longest: float,
) -> None:
    """The command: records, then exports. Raises what makes it impossible, each with one line for its user."""
    stop = stop_on_hangup()
    loaded = load_config(config, list(overrides)) if config is not None else None
    cells, cell = _cell(loaded, robot, task)
    spec, wait = cell.spec, Reset.parse(reset)
    varied = replace(
        EnvOptions() if loaded is None else env_options(loaded),
        episode_steps=max(1, round(longest * spec.control_hz)),
    )
    shape = Shape.of(cell, loaded, cells)
    check_folder(out, cell, varied, shape)
    if dataset is not None:
        check_target(dataset, "--dataset")
    count = successes(out)
    if count >= episodes:
        typer.echo(f"{out}: {count} successes, --episodes asks for {episodes}: nothing is left to record")
    else:
        seed = None if loaded is None else loaded.seed
        count = _demonstrate(cell, varied, shape, options, stop, episodes=episodes, out=out, wait=wait, seed=seed)
    if dataset is not None and count:
        export_interruptibly(out, spec, dataset, count)


def _demonstrate(
    cell: Cell,
    varied: EnvOptions,
    shape: Shape,
    options: Options,
    stop: Event,
    *,
    episodes: int,
    out: Path,
    wait: Reset,
    seed: int | None,
) -> int:
    """The recording; how many successes the folder then holds."""
    simulated = (options.driver or cell.spec.driver) == "mujoco"
    # Where the objects of any other task are on a real arm's table nobody knows.
    known = simulated or cell.task.virtual
    seen = known and cell.spec.mujoco is not None and (simulated or options.view)
    world = build_scene(cell.spec, cell.task) if seen else None
    with (
        session(cell.spec, options, stop, holder="record", world=world) as (taken, hands, status, window),
        Recording(out, cell, varied, shape) as kept,
    ):
        if seed is not None:  # a folder that has some starts already gets others
            seed = int(np.random.default_rng([seed, kept.successes, kept.failures]).integers(2**63))
        env = arm_env(taken.loop, cell, varied)
        if window is not None and known:
            window.scene = env.robot.capability(Scene)  # type: ignore[type-abstract]
        showing = Demonstrator(
            taken,
            env,
            hands,
            kept,
            episodes=episodes,
            speed=options.speed,
            reset=wait,
            say=status.say,
            seed=seed,
            shown=cell.task.objects if known else (),
        )
        status.line = showing.line
        speed = f"{options.speed:.0%} of its speeds"
        words = "each episode in words of its own" if isinstance(cell.task, LanguageTask) else env.instruction
        status.say(f"{taken.name} at {cell.task.name}: {words}; {speed}, into {out}")
        freeze_heap()
        showing.run(stop)
    typer.echo(f"{out}: successes {kept.successes}, failures {kept.failures}, discarded {kept.discarded}")
    return kept.successes


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
