"""Gymnasium environments and tasks on top of the HAL."""

from envs.arm_env import ArmEnv
from envs.batch import BatchArmEnv
from envs.errors import EnvError, TaskError
from envs.expert import Expert
from envs.language import LanguageTask, Split
from envs.options import EnvOptions
from envs.randomization import Randomization
from envs.task import SceneState, Task, ToolGoal
from envs.tasks import make_task, register_task, task_names, task_of

__all__ = [
    "ArmEnv",
    "BatchArmEnv",
    "EnvError",
    "EnvOptions",
    "Expert",
    "LanguageTask",
    "Randomization",
    "SceneState",
    "Split",
    "Task",
    "TaskError",
    "ToolGoal",
    "make_task",
    "register_task",
    "task_names",
    "task_of",
]
