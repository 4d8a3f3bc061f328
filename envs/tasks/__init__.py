"""The tasks, by name."""

import difflib

from envs.errors import TaskError
from envs.task import Task
from envs.tasks.lift import Lift
from envs.tasks.reach import Reach
from hal.spec import RobotSpec

TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, Lift)}


def task_class(name: str) -> type[Task]:
    """The class of the task `name`; raises TaskError naming the nearest one."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(TASKS))}"
        raise TaskError(f"no task {name!r}{hint}")
    return TASKS[name]


def make_task(name: str, spec: RobotSpec) -> Task:
    """Build the task `name` for a robot; raises TaskError when it is unknown or the robot can't do it."""
    return task_class(name)(spec)
