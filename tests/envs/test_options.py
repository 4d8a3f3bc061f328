"""Options that make no sense are refused; each episode is told its task in words."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs import ArmEnv, BatchArmEnv, EnvError, EnvOptions, Randomization
from envs.scene import build_scene
from envs.tasks import make_task
from hal import load_spec
from hal.drivers.mujoco import MujocoRobot

SPEC = load_spec("panda")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"episode_steps": 0}, "episode_steps is 0"),
        ({"image_size": (4, 64)}, "at least 8 x 8 pixels"),
        ({"image_every": 0}, "image_every is 0"),
        ({"cameras": ("wrist", "front", "wrist")}, "each may be named once"),
        ({"environment_state": False}, "the objects could not be found"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvError, match=words):
        EnvOptions(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mass": -0.1}, r"randomization\.mass is -0\.1"),
        ({"gain": float("nan")}, r"randomization\.gain is nan"),
        ({"friction": float("inf")}, r"randomization\.friction is inf"),
        ({"latency": 1.5}, r"randomization\.latency is 1\.5: expected a whole number"),
    ],
)
def test_spans_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvError, match=words):
        Randomization(**given)


def test_each_episode_draws_one_of_the_tasks_wordings() -> None:
    env = BatchArmEnv(SPEC, "lift", 40, seed=0, options=EnvOptions(episode_steps=1))
    env.reset()
    first = list(env.instructions)
    assert set(first) == set(env.task.instructions)
    env.step(env.control.rest_action(np.arange(40)))  # all end and begin anew
    assert env.instructions != first and set(env.instructions) == set(env.task.instructions)
    env.reset(seed=0)
    assert env.instructions == first
    other = BatchArmEnv(SPEC, "lift", 40, seed=1)
    other.reset()
    assert other.instructions != first


def test_a_running_episode_keeps_its_wording() -> None:
    env = BatchArmEnv(SPEC, "lift", 20, seed=0, autoreset=AutoresetMode.DISABLED)
    env.reset()
    first = list(env.instructions)
    env.step(env.control.rest_action(np.arange(20)))
    assert env.instructions == first
    mask = np.arange(20) < 10
    env.reset(options={"reset_mask": mask})
    assert env.instructions[10:] == first[10:] and env.instructions[:10] != first[:10]


def test_one_arm_draws_its_wording_too() -> None:
    env = ArmEnv(MujocoRobot(SPEC, build_scene(SPEC, make_task("lift", SPEC))), "lift")
    env.reset(seed=3)
    words = [env.instruction]
    for _ in range(15):
        env.reset()
        words.append(env.instruction)
    assert set(words) == set(env.task.instructions)
    env.reset(seed=3)
    again = [env.instruction]
    for _ in range(15):
        env.reset()
        again.append(env.instruction)
    assert again == words
    env.close()


def test_a_step_before_the_first_reset_is_refused() -> None:
    env = ArmEnv(MujocoRobot(SPEC, build_scene(SPEC, make_task("reach", SPEC))), "reach")
    with pytest.raises(EnvError, match="step before the first reset"):
        env.step(env.rest_action())
    env.close()
