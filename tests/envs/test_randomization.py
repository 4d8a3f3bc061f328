"""What differs from episode to episode: physics, noise, latency; what each does, and what none of them disturbs."""

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envs import ArmEnv, BatchArmEnv, EnvError, EnvOptions, Expert, Randomization
from envs.scene import build_scene
from envs.tasks import make_task
from envs.variation import Variation
from hal import DriverError, Factors, RealTime, Tunable, load_spec
from hal.drivers.mujoco import MujocoRobot

SPEC = load_spec("panda")
J = len(SPEC.joints)
STATE = "observation.state"
EVERYTHING = Randomization(mass=1, friction=0.5, damping=2, gain=0.3, sensor_noise=0.01, image_noise=0.1, latency=3)


def options(**changes: Any) -> EnvOptions:
    return EnvOptions(randomization=Randomization(**changes))


def simulated(task: str = "lift") -> MujocoRobot:
    return MujocoRobot(SPEC, build_scene(SPEC, make_task(task, SPEC)))


def factors(k: int, **changes: Any) -> Factors:
    """Those of k arms: 1, but for `changes`."""
    ones = {
        "mass": {"cube": np.ones(k)},
        "friction": np.ones((k, 2)),
        "damping": np.ones((k, J)),
        "gain": np.ones((k, J)),
    }
    return Factors(**(ones | changes))


def varied(chosen: Factors | None = None, seed: int = 0, **more: Any) -> BatchArmEnv:
    """`lift` with physics that a test has chosen."""
    n = 2 if chosen is None else len(chosen.damping)
    env = BatchArmEnv(SPEC, "lift", n, seed=seed, autoreset=AutoresetMode.DISABLED, options=options(mass=1), **more)
    if chosen is not None:
        env._variation.factors = lambda k: chosen
    env.reset()
    return env


def rest(env: BatchArmEnv, steps: int = 1) -> None:
    for _ in range(steps):
        env.running[:] = True
        env.step(env.control.rest_action(np.arange(env.num_envs)))


def test_a_heavier_cube_takes_more_force() -> None:
    env = varied(factors(2, mass={"cube": np.array([1.0, 4.0])}))
    before = env.scene_state().objects["cube"][:, 2]
    env._batch.bind("xfrc_applied")[:, env._objects["cube"].body, 2] = 1.0  # N; the cube weighs 0.49, or 1.96
    rest(env, 2)
    risen = env.scene_state().objects["cube"][:, 2] - before
    assert risen[0] > 0.05 and abs(risen[1]) < 0.001


def test_inertia_and_derived_constants_follow_the_mass() -> None:
    env = varied(factors(2, mass={"cube": np.array([1.0, 4.0])}))
    body, model = env._objects["cube"].body, env.model
    for name, ratio in {"body_mass": 4, "body_inertia": 4, "body_subtreemass": 4, "body_invweight0": 0.25}.items():
        rows = env._batch.expanded(name)[:, body]
        np.testing.assert_allclose(rows[0], getattr(model, name)[body], rtol=1e-9)
        np.testing.assert_allclose(rows[1] / rows[0], ratio, rtol=1e-9)


def test_pads_without_friction_let_the_cube_slip() -> None:
    env = varied(factors(2, friction=np.array([[1.0, 1.0], [1.0, 0.001]])))
    expert, success = Expert(SPEC, env.task), np.zeros(2, bool)
    while env.running.any():
        success |= env.step(expert.act(env.scene_state()))[2]
    assert success.tolist() == [True, False]


def test_a_slippery_table_lets_the_cube_slide() -> None:
    env = varied(factors(2, friction=np.array([[1.0, 1.0], [0.1, 1.0]])))
    before = env.scene_state().objects["cube"][:, 1]
    env._batch.bind("xfrc_applied")[:, env._objects["cube"].body, 1] = 0.3  # N; friction holds up to 0.49, or 0.049
    rest(env, 2)
    moved = env.scene_state().objects["cube"][:, 1] - before
    assert abs(moved[0]) < 0.005 and moved[1] > 0.03


def test_half_the_gain_is_half_the_stiffness() -> None:
    env = varied(factors(2, gain=np.array([np.ones(J), np.full(J, 0.5)])))
    env._batch.bind("qpos")[1, : env.model.nq] = env._qpos[0]
    env._ctrl[1] = env._ctrl[0]
    rest(env, 20)
    before = env.scene_state().position[:, 0]
    env._batch.bind("qfrc_applied")[:, 0] = 30.0  # N m about the vertical axis
    rest(env, 20)
    bent = env.scene_state().position[:, 0] - before
    assert bent[0] == pytest.approx(30 / 3000, rel=0.02)
    assert bent[1] == pytest.approx(30 / 1500, rel=0.02)


def test_damping_slows_a_joint() -> None:
    env = varied(factors(2, damping=np.array([np.ones(J), np.full(J, 200)])))
    before = env.scene_state().position[:, 0]
    action = env.control.rest_action(np.arange(2))
    action[:, 0] = 0.2
    env.step(action)
    moved = env.scene_state().position[:, 0] - before
    assert 0 < moved[1] < 0.7 * moved[0]


def test_factors_of_one_change_no_bit() -> None:
    plain = BatchArmEnv(SPEC, "lift", 2, seed=0, autoreset=AutoresetMode.DISABLED)
    plain.reset()
    env = varied(factors(2))
    expert = Expert(SPEC, env.task)
    while env.running.any():
        action = expert.act(env.scene_state())
        one, other = plain.step(action)[0], env.step(action)[0]
        for key in one:
            assert np.array_equal(one[key], other[key])


@pytest.mark.parametrize("delay", [1, 3])
def test_latency_delays_by_exactly_so_many_steps(delay: int) -> None:
    envs = {k: BatchArmEnv(SPEC, "reach", 1, seed=0, options=options(latency=3)) for k in (0, delay)}
    rng = np.random.default_rng(0)
    actions = rng.uniform(envs[0].control.low, envs[0].control.high, (9, 1, SPEC.dim)).astype(np.float32)
    executed: dict[int, list[np.ndarray]] = {}
    moved: dict[int, list[np.ndarray]] = {}
    for k, env in envs.items():
        env._variation.latencies = lambda n, k=k: np.full(n, k)
        env.reset()
        still = env.control.rest_action(np.zeros(1, int))
        steps = [env.step(action) for action in actions]
        executed[k] = [step[4]["executed"] for step in steps]
        moved[k] = [step[0][STATE] for step in steps]
        assert all(np.array_equal(made, still) for made in executed[k][:k])
    assert np.array_equal(executed[delay][delay:], executed[0][: 9 - delay])
    # The arm has settled by a hair while it waited.
    np.testing.assert_allclose(moved[delay][delay:], moved[0][: 9 - delay], atol=2e-3)
    assert np.abs(np.array(moved[delay])[: 9 - delay] - np.array(moved[0])[: 9 - delay]).max() > 0.05


def test_each_arm_has_its_own_queue() -> None:
    env = BatchArmEnv(SPEC, "reach", 2, seed=0, autoreset=AutoresetMode.DISABLED, options=options(latency=2))
    delays = iter([np.array([2, 1]), np.array([0])])
    env._variation.latencies = lambda n: next(delays)
    env.reset()
    actions = np.tile(env.control.rest_action(np.arange(2)), (4, 1, 1))
    actions[:, :, 0] = 0.01 * (1 + np.arange(4))[:, None]
    sent = [env.step(action)[4]["executed"][:, 0] for action in actions[:2]]
    np.testing.assert_allclose(sent, [[0, 0], [0, 0.01]], atol=1e-6)
    env.reset(options={"reset_mask": np.array([False, True])})
    sent = [env.step(action)[4]["executed"][:, 0] for action in actions[2:]]
    np.testing.assert_allclose(sent, [[0.01, 0.03], [0.02, 0.04]], atol=1e-6)


def test_sensor_noise_is_on_what_is_observed_only() -> None:
    env = BatchArmEnv(SPEC, "reach", 100, seed=0, options=options(sensor_noise=0.02))
    quiet = BatchArmEnv(SPEC, "reach", 100, seed=0)
    errors = []
    for one in (env, quiet):
        one.reset()
    for _ in range(12):
        noisy, reward, *_ = env.step(env.control.rest_action(np.arange(100)))
        true, expected, *_ = quiet.step(env.control.rest_action(np.arange(100)))
        errors.append(noisy[STATE] - true[STATE])
        assert np.array_equal(noisy["observation.environment_state"], true["observation.environment_state"])
        assert np.array_equal(reward, expected)
    assert np.std(errors) == pytest.approx(0.02, rel=0.03)
    assert abs(np.mean(errors)) < 0.001
    assert abs(np.mean(np.array(errors)[1:] * np.array(errors)[:-1])) < 0.02**2 / 20  # each step anew


def test_an_arm_that_rests_shows_the_same_noise() -> None:
    env = BatchArmEnv(SPEC, "reach", 2, seed=0, autoreset=AutoresetMode.DISABLED, options=options(sensor_noise=0.02))
    env.reset()
    env.running[1] = False
    rows = [env.step(env.control.rest_action(np.arange(2)))[0][STATE] for _ in range(2)]
    assert np.array_equal(rows[0][1], rows[1][1]) and not np.array_equal(rows[0][0], rows[1][0])


@pytest.mark.renders
def test_image_noise_is_on_new_images_only_and_of_the_size_that_is_asked_for() -> None:
    images = {"cameras": ("front",), "image_size": (48, 48), "image_every": 2}
    rest, errors = np.zeros((3, SPEC.dim), np.float32), []
    envs = []
    for vary in (Randomization(image_noise=0.05), Randomization()):
        envs.append(BatchArmEnv(SPEC, "reach", 3, seed=0, options=EnvOptions(randomization=vary, **images)))
    for step in range(4):
        seen = [(env.step(rest) if step else env.reset())[0]["observation.images.front"] for env in envs]
        errors.append(seen[0].astype(float) - seen[1])
    again = envs[0].reset(options={"reset_mask": np.array([True, False, False])})[0]["observation.images.front"]
    assert not np.array_equal(again[0], seen[0][0]) and np.array_equal(again[1:], seen[0][1:])
    for env in envs:
        env.close()
    inner = (seen[1] > 40) & (seen[1] < 215)  # elsewhere brightness has an end
    assert np.std(errors[3][inner]) == pytest.approx(0.05 * 255, rel=0.05)
    assert np.array_equal(errors[0], errors[1]) and np.array_equal(errors[2], errors[3]), "no new image, no new noise"
    assert abs(np.corrcoef(errors[0][inner], errors[2][inner])[0, 1]) < 0.1
    single = ArmEnv(MujocoRobot(SPEC, build_scene(SPEC, make_task("reach", SPEC))), "reach", envs[0].options)
    noisy = single.reset(seed=0)[0]["observation.images.front"]
    plain = single.observe()["observation.images.front"]
    assert 0.02 * 255 < np.std(noisy.astype(float) - plain) < 0.06 * 255, "observe shows no noise of an episode"
    single.close()


def test_factors_are_log_uniform_within_their_spans() -> None:
    draw = Variation(Randomization(mass=1, friction=0.5, gain=0.25), ("cube", "ball"), J, 0).factors(20_000)
    for values, span in ((draw.mass["ball"], 1), (draw.friction, 0.5), (draw.gain, 0.25)):
        place = np.log(np.ravel(values)) / np.log1p(span)
        assert (np.abs(place) <= 1).all()
        np.testing.assert_allclose(np.quantile(place, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.03)
    assert (draw.damping == 1).all()
    assert abs(np.corrcoef(draw.mass["ball"], draw.mass["cube"])[0, 1]) < 0.03
    assert abs(np.corrcoef(draw.gain[:, 0], draw.gain[:, 1])[0, 1]) < 0.03


def test_latencies_are_whole_numbers_up_to_the_longest() -> None:
    delays = Variation(Randomization(latency=3), (), J, 0).latencies(1000)
    assert set(delays.tolist()) == {0, 1, 2, 3}


def test_nothing_that_varies_disturbs_the_starts_or_the_wordings() -> None:
    runs = []
    for chosen in (Randomization(), EVERYTHING):
        env = BatchArmEnv(SPEC, "lift", 8, seed=4, options=EnvOptions(randomization=chosen))
        env.reset()
        starts = [env._qpos.copy(), list(env.instructions)]
        env.reset()
        starts += [env._qpos.copy(), list(env.instructions)]
        runs.append(starts)
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one, other)


def test_same_seed_gives_the_same_bits_at_any_thread_count() -> None:
    runs = []
    for threads in (1, 2):
        env = BatchArmEnv(SPEC, "lift", 6, threads=threads, options=EnvOptions(6, randomization=EVERYTHING))
        env.action_space.seed(0)
        rows = [env.reset(seed=5)[0][STATE]]
        rows += [env.step(env.action_space.sample())[0][STATE] for _ in range(20)]
        runs.append((np.stack(rows), env._batch.expanded("body_mass").copy()))
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])


def test_each_episode_draws_anew() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0, options=options(mass=1, gain=1))
    body, gains = env._objects["cube"].body, env._batch.expanded("actuator_gainprm")
    env.reset()
    masses, first = env._batch.expanded("body_mass")[:, body].copy(), gains[:, 0, 0].copy()
    assert masses[0] != masses[1] and ((masses >= 0.025) & (masses <= 0.1)).all()
    env.reset(options={"reset_mask": np.array([True, False])})
    again = env._batch.expanded("body_mass")[:, body]
    assert again[0] != masses[0] and again[1] == masses[1]
    assert gains[0, 0, 0] != first[0] and gains[1, 0, 0] == first[1]


def test_one_arm_and_a_batch_have_the_same_physics() -> None:
    chosen = factors(
        1, mass={"cube": np.array([3.0])}, friction=np.array([[0.8, 0.9]]), damping=np.full((1, J), 5.0),
        gain=np.full((1, J), 0.6),
    )  # fmt: skip
    batch = varied(chosen)
    env = ArmEnv(simulated(), "lift", options(mass=1))
    env.reset(seed=1)
    state = batch.scene_state()
    env._tunable.set_physics(chosen[0])
    env._scene.set_state(state.position[0], {"cube": state.objects["cube"][0]})
    env._control.reset(np.zeros(1, int), state.position)
    expert = Expert(SPEC, batch.task)
    while batch.running.any():
        action = expert.act(batch.scene_state())
        one, many = env.step(action[0])[0], batch.step(action)[0]
        for key, value in one.items():
            np.testing.assert_allclose(value, many[key][0], atol=1e-4)
    env.close()


def test_the_scene_that_a_robot_was_given_stays_as_it_was() -> None:
    scene = build_scene(SPEC, make_task("lift", SPEC))
    mass = scene.body_mass.copy()
    env = ArmEnv(MujocoRobot(SPEC, scene), "lift", options(mass=2))
    env.reset(seed=0)
    first = env.robot._model.body_mass.copy()
    env.reset()
    assert not np.array_equal(first, env.robot._model.body_mass)
    assert np.array_equal(scene.body_mass, mass)
    with pytest.raises(DriverError, match="no object 'cub' has a mass to change: did you mean 'cube'"):
        env._tunable.set_physics(factors(1, mass={"cub": np.ones(1)})[0])
    env.close()


def test_a_real_robot_names_what_can_not_be_randomised() -> None:
    class Real(MujocoRobot):
        def capability(self, kind: type) -> Any:
            return None if kind is Tunable else super().capability(kind)

    scene = build_scene(SPEC, make_task("lift", SPEC))
    with pytest.raises(EnvError, match="randomization of mass, gain needs a simulated robot"):
        ArmEnv(Real(SPEC, scene), "lift", options(mass=1, gain=0.5, sensor_noise=0.1))
    env = ArmEnv(Real(SPEC, scene), "lift", options(sensor_noise=0.1, latency=2))
    env.reset(seed=0)
    env._latency.restart(np.zeros(1, int), np.array([2]), env.rest_action()[None])
    action = env.rest_action()
    action[0] = 0.02
    executed = [env.step(action)[4]["executed"][0] for _ in range(3)]
    np.testing.assert_allclose(executed, [0, 0, 0.02], atol=1e-6)
    seen = env.step(action)[0][STATE]
    assert 0.01 < np.abs(seen - env.reading.position).mean() < 0.3
    env.close()


def test_physics_reach_a_robot_with_its_own_time() -> None:
    robot = simulated()
    env = ArmEnv(RealTime(robot), "lift", options(mass=1))
    env.reset(seed=0)
    assert robot._model.body("cube").mass[0] != pytest.approx(0.05)
    env.close()


def test_gymnasiums_checker_passes() -> None:
    env = ArmEnv(simulated(), "lift", EnvOptions(randomization=EVERYTHING))
    check_env(env, skip_render_check=True)
    env.close()
