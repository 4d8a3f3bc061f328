"""Arms that start alike: everything a start draws is the same for them, whatever the task and what is randomised."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvError, EnvOptions, Randomization
from envs.tasks import task_names
from hal.spec import load_spec

SPEC = load_spec("panda")
EVERYTHING = Randomization(mass=1, friction=0.5, damping=2, gain=0.3, sensor_noise=0.01, latency=3)


def made(task: str, randomization: Randomization, arms: int = 8, seed: int = 3, **more: object) -> BatchArmEnv:
    options = EnvOptions(randomization=randomization, tracking_error=True, **more)  # type: ignore[arg-type]
    return BatchArmEnv(SPEC, task, arms, seed=seed, options=options, autoreset=AutoresetMode.DISABLED)


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("randomization", [Randomization(), EVERYTHING], ids=["plain", "everything"])
def test_first_observations_words_and_physics_are_equal_in_a_group_and_in_no_other(
    task: str, randomization: Randomization
) -> None:
    env, rng = made(task, randomization), np.random.default_rng(0)
    env.reset()
    for _ in range(5):  # what each did before is forgotten
        env.step(rng.uniform(env.control.low, env.control.high, (8, SPEC.dim)))
    seen, _ = env.reset(options={"alike": 4})
    for key, rows in seen.items():
        assert np.array_equal(rows[:4], rows[:1].repeat(4, 0)) and np.array_equal(rows[4:], rows[4:5].repeat(4, 0)), key
    assert not np.array_equal(seen["observation.state"][0], seen["observation.state"][4])
    assert len(set(env.instructions[:4])) == len(set(env.instructions[4:])) == 1
    for name, field in env._fields.items():
        assert (field[:4] == field[0]).all() and (field[4:] == field[4]).all(), name
    if env._fields:
        assert any((field[0] != field[4]).any() for field in env._fields.values())

    # The same actions then lead to the same places: latency and all else that is not shown is the same, too.
    for _ in range(8):
        action = rng.uniform(env.control.low, env.control.high, (2, SPEC.dim)).astype(np.float32)
        env.step(action.repeat(4, 0))
        state = env.scene_state()
        for rows in (state.position, state.tcp, *state.objects.values()):
            assert (rows[:4] == rows[0]).all() and (rows[4:] == rows[4]).all()
        assert (state.position[0] != state.position[4]).any()


def test_groups_start_while_others_run_and_every_start_is_another() -> None:
    env = made("lift", EVERYTHING)
    first = np.array([True, False] * 4)
    one = env.reset(options={"reset_mask": first, "alike": 4})[0]["observation.state"].copy()
    assert env.running.tolist() == first.tolist()
    assert (one[::2] == one[0]).all()
    env.step(env.control.rest_action(np.arange(8)))
    before = env.scene_state().position[::2].copy()
    two = env.reset(options={"reset_mask": ~first, "alike": 4})[0]["observation.state"]
    assert (two[1::2] == two[1]).all() and (two[1] != one[0]).any()
    assert np.array_equal(env.scene_state().position[::2], before)
    again = env.reset(options={"reset_mask": ~first, "alike": 4})[0]["observation.state"]
    assert (again[1] != two[1]).any()


def test_by_one_nothing_changes() -> None:
    envs = [made("lift", EVERYTHING) for _ in range(2)]
    for _ in range(2):
        plain, _ = envs[0].reset()
        alone, _ = envs[1].reset(options={"alike": 1})
        assert all(np.array_equal(plain[key], alone[key]) for key in plain)


@pytest.mark.parametrize("alike", [3, 0, -2])
def test_a_number_that_does_not_divide_the_arms_is_refused(alike: int) -> None:
    with pytest.raises(EnvError, match=f"8 arms can't start by {alike} alike"):
        made("reach", Randomization()).reset(options={"alike": alike})


def test_their_first_images_are_equal() -> None:
    env = made("lift", EVERYTHING, cameras=("front",), image_size=(32, 32))
    try:
        images = env.reset(options={"alike": 4})[0]["observation.images.front"]
        assert (images[:4] == images[0]).all() and (images[4:] == images[4]).all()
        assert (images[0] != images[4]).any()
    finally:
        env.close()
