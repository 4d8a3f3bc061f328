"""Many arms at once: whatever the actions are, the set-points written into the simulation keep every limit."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import hal
from envs.batch import BatchArmEnv
from envs.options import EnvOptions
from hal.kinematics import Chain

N = 5
ENVS: dict[str, tuple[BatchArmEnv, Chain]] = {}


def batch(name: str) -> tuple[BatchArmEnv, Chain]:
    if name not in ENVS:
        spec = hal.load_spec(name)
        options = EnvOptions(episode_steps=12)
        env = BatchArmEnv(spec, "reach", N, seed=0, options=options, autoreset=AutoresetMode.DISABLED)
        ENVS[name] = env, Chain(spec)
    return ENVS[name]


def written(env: BatchArmEnv) -> np.ndarray:
    """(n, dim) what the simulation got, back in the spec's units."""
    binding, joints = env._binding, len(env.robot.joints)
    result = np.empty((N, env.robot.dim))
    result[:, :joints] = env._ctrl[:, binding.actuators]
    gripper = env._ctrl[:, binding.gripper_actuators[:1]]
    result[:, joints:] = (gripper - binding.ctrl_offset[:1]) / binding.ctrl_scale[:1]
    return result


def actions(env: BatchArmEnv, rng: np.random.Generator, kind: str) -> np.ndarray:
    shape, space = env.action_space.shape, env.single_action_space
    return {
        "within": lambda: rng.uniform(space.low, space.high, shape),
        "corners": lambda: np.where(rng.random(shape) < 0.5, space.low, space.high),
        "huge": lambda: rng.choice([-3e38, 3e38, 1e20, -1e-40], shape),
        "nan": lambda: np.where(rng.random(shape) < 0.2, np.nan, space.high),
        "inf": lambda: rng.choice([-np.inf, np.inf, 0.0], shape),
        "one arm none": lambda: np.where(np.arange(N)[:, None] == rng.integers(N), np.nan, space.low),
    }[kind]().astype(np.float32)


KINDS = st.sampled_from(["within", "corners", "huge", "nan", "inf", "one arm none"])


@pytest.mark.parametrize("name", ["panda", "so101", "ur5e"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kinds=st.lists(KINDS, min_size=1, max_size=25))
def test_no_actions_make_a_set_point_leave_the_limits(name: str, seed: int, kinds: list[str]) -> None:
    env, chain = batch(name)
    spec, rng, dt = env.robot, np.random.default_rng(seed), env.robot.dt
    env.reset(seed=seed)
    position, velocity = written(env), np.zeros((N, spec.dim))
    for kind in kinds:
        given_actions = actions(env, rng, kind)
        ran = env.running.copy()
        _, _, _, _, infos = env.step(given_actions)
        after = written(env)
        speed = (after - position) / dt
        assert np.isfinite(after).all()
        assert (after >= spec.lower - 1e-9).all()
        assert (after <= spec.upper + 1e-9).all()
        assert (np.abs(speed) <= spec.velocity + 1e-9).all()
        assert (np.abs(speed - velocity)[ran] <= spec.acceleration * dt + 1e-9).all()
        tcp = chain.position(after[:, : len(spec.joints)])
        assert (tcp >= np.array(spec.workspace.lower) - 1e-9).all()
        assert (tcp <= np.array(spec.workspace.upper) + 1e-9).all()
        assert np.array_equal(infos["held"], ran & np.isnan(given_actions).any(1))  # infinite ones are bounded
        assert np.array_equal(after[~ran], position[~ran])  # an arm whose episode is over gets nothing
        position, velocity = after, np.where(ran[:, None], speed, 0.0)
        # Some of those that are done start anew, beside arms that go on.
        again = ~env.running & (rng.random(N) < 0.5)
        if again.any():
            env.reset(options={"reset_mask": again})
            others = written(env)
            assert np.array_equal(others[~again], position[~again])
            position, velocity[again] = others, 0.0
