"""The tasks, by name. A third party adds one through the entry-point group `robotlearn.tasks`: name to class."""

import difflib
from importlib.metadata import EntryPoint, entry_points

from envs.errors import TaskError
from envs.task import Task
from envs.tasks.lift import Lift
from envs.tasks.peg import Peg
from envs.tasks.pick_place import PickPlace
from envs.tasks.push import Push
from envs.tasks.put import Put
from envs.tasks.reach import Reach
from envs.tasks.stack import Stack
from envs.tasks.touch import Touch
from hal.spec import RobotSpec

GROUP = "robotlearn.tasks"

_classes: dict[str, type[Task]] = {}


def register_task(task: type[Task]) -> None:
    """Make a task known in this process under `task.name`.

    Raises TaskError when the name is taken, or one of its instructions is another task's: a policy is told what to do
    by these words alone.
    """
    if _classes.get(task.name, task) is not task:
        raise TaskError(f"the task name {task.name!r} is taken by {_classes[task.name]!r}: use another one")
    for other in _classes.values():
        shared = _words(task) & _words(other)
        if shared and other is not task:
            raise TaskError(f"task {task.name!r} has the instruction {min(shared)!r} in common with {other.name!r}")
    _classes[task.name] = task


def task_names() -> list[str]:
    """Every known task, sorted: registered ones and those of installed packages (which are not imported for it)."""
    return sorted({*_classes, *(point.name for point in entry_points(group=GROUP))})


def task_class(name: str) -> type[Task]:
    """The class of the task `name`; raises TaskError naming the nearest one, or why a package's can't be loaded."""
    if name not in _classes:
        for point in entry_points(group=GROUP, name=name):
            _load(name, point)
    if name not in _classes:
        near = difflib.get_close_matches(name, task_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(task_names())}"
        raise TaskError(f"no task {name!r}{hint}")
    return _classes[name]


def make_task(name: str, spec: RobotSpec) -> Task:
    """Build the task `name` for a robot; raises TaskError when it is unknown or the robot can't do it."""
    return task_class(name)(spec)


def task_of(instruction: str) -> str | None:
    """The name of the task that has these words (case and a full stop aside), held out or not, None without one."""
    plain = _plain(instruction)
    for name in task_names():
        if plain in _words(task_class(name)):
            return name
    return None


def _words(task: type[Task]) -> set[str]:
    return {_plain(words) for words in (*task.instructions, *task.held_out)}


def _plain(instruction: str) -> str:
    return " ".join(instruction.lower().rstrip(" .!").split())


def _load(name: str, point: EntryPoint) -> None:
    where = point.dist.name if point.dist is not None else point.value
    try:
        task = point.load()
    except Exception as error:
        raise TaskError(f"the task {name!r} of the package {where} can't be loaded: {error!r}") from error
    if not (isinstance(task, type) and issubclass(task, Task)) or task.name != name:
        raise TaskError(
            f"the task {name!r} of the package {where} must be a subclass of Task of that name, not {task!r}"
        )
    register_task(task)


for _task in (Reach, Lift, Push, PickPlace, Stack, Peg, Touch, Put):
    register_task(_task)
