"""Gymnasium environments and tasks on top of the HAL."""

from envs.arm_env import ArmEnv
from envs.batch import BatchArmEnv
from envs.errors import EnvError, TaskError
from envs.expert import Expert
from envs.task import SceneState, Task
from envs.tasks import TASKS, make_task

__all__ = ["TASKS", "ArmEnv", "BatchArmEnv", "EnvError", "Expert", "SceneState", "Task", "TaskError", "make_task"]
