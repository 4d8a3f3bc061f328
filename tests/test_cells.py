"""The environment of a cell on a real arm: what it may observe there, and who judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from envs import EnvError, EnvOptions, Randomization, make_task
from envs.scene import build_scene
from hal import load_spec, make_robot
from hal.control_loop import ControlLoop
from hal.virtual_scene import VirtualScene
from robotlearn.cells import Cell, arm_env
from tests.arms import RecordingArm, fast_spec

SEES = EnvOptions(environment_state=False, cameras=("front",), randomization=Randomization(mass=0.1))


@pytest.fixture
def cell_of() -> Callable[[str], Cell]:
    spec = fast_spec()
    return lambda task: Cell(spec, make_task(task, spec))


@pytest.fixture
def arm() -> Iterator[ControlLoop]:
    loop = ControlLoop(RecordingArm(fast_spec()))
    yield loop
    loop.close()


def test_numbers_about_real_objects_are_refused_with_what_to_set(
    cell_of: Callable[[str], Cell], arm: ControlLoop
) -> None:
    with pytest.raises(EnvError) as refused:
        arm_env(arm, cell_of("lift"), EnvOptions())
    assert str(refused.value) == (
        "robot so101 can't tell where the objects of task lift are: set observations.environment_state=false, "
        "name cameras (observations.cameras), and end each episode by key"
    )


@pytest.mark.parametrize(("task", "options", "judged"), [("lift", SEES, False), ("reach", EnvOptions(), True)])
def test_what_needs_no_such_numbers_runs_in_a_virtual_scene(
    cell_of: Callable[[str], Cell], arm: ControlLoop, task: str, options: EnvOptions, judged: bool
) -> None:
    env = arm_env(arm, cell_of(task), options)
    assert isinstance(env.robot, VirtualScene) and env.judged == judged
    observations, _ = env.reset(seed=0)
    assert ("observation.images.front" in observations) == (task == "lift")


def test_a_simulated_arm_knows_and_judges() -> None:
    spec = load_spec("so101")
    cell = Cell(spec, make_task("lift", spec))
    robot = make_robot(spec, scene=build_scene(spec, cell.task))
    env = arm_env(robot, cell, EnvOptions(randomization=Randomization(mass=0.1)))
    assert env.judged and env.robot is robot and env.options.randomization.physics
    env.close()
