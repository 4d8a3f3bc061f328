"""Gymnasium environments and tasks on top of the HAL."""

from envs.arm_env import ArmEnv
from envs.batch import BatchArmEnv
from envs.errors import EnvError, TaskError
from envs.expert import Expert
from envs.options import EnvOptions
from envs.randomization import Randomization
from envs.task import SceneState, Task
from envs.tasks import TASKS, make_task

__all__ = [
    "TASKS",
    "ArmEnv",
    "BatchArmEnv",
    "EnvError",
    "EnvOptions",
    "Expert",
    "Randomization",
    "SceneState",
    "Task",
    "TaskError",
    "make_task",
]
