"""Every robot model in `hardware_specs/` that has an MJCF: limits, kinematics, tabletop, servo, grip."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

import hal
from envs.expert import damped_step
from envs.geometry import pointing_down, rotation_vector
from hal.binding import Binding, load_model
from hal.drivers.mujoco import MujocoRobot
from hal.kinematics import Chain
from hal.mjcf import load_mjcf
from hal.robot import Array

PAGES = sorted(path.stem for path in hal.data_path("hardware_specs").glob("*.yaml"))
SPECS = {name: spec for name in PAGES if (spec := hal.load_spec(name)).mujoco is not None}
HEIGHTS = {"so101": 0.15}  # [m] up to which the tool points down above the whole tabletop; else 0.2
CUBE = 0.02  # [m] half an edge
HEADINGS = ("Joints", "Actions", "Observations", "Cameras", "Rates", "Stop behaviour", "Sources", "History")


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> hal.RobotSpec:
    return SPECS[request.param]


def solve(spec: hal.RobotSpec, position: Array, yaw: Array) -> tuple[Array, Array]:
    """Joints (n, J) whose tool points down at (n, 3) [m], turned by (n,) yaw [rad], and the largest error left.

    From the home pose, as the start of an episode is found: steps of damped least squares, clipped to the limits.
    """
    chain, joints = Chain(spec), slice(len(spec.joints))
    q, target = np.tile(spec.home[joints], (len(position), 1)), pointing_down(yaw)
    for _ in range(200):
        tcp, rotation = chain.forward(q)
        error = np.concatenate((position - tcp, rotation_vector(rotation, target)), axis=1)
        q = np.clip(q + damped_step(chain.jacobian(q), error), spec.lower[joints], spec.upper[joints])
    tcp, rotation = chain.forward(q)
    return q, np.abs(np.concatenate((position - tcp, rotation_vector(rotation, target)), axis=1)).max(axis=1)


def centre(spec: hal.RobotSpec, height: float) -> Array:
    """(1, 3) [m] above the middle of the tabletop."""
    assert spec.tabletop is not None
    return np.array([[*np.mean((spec.tabletop.lower, spec.tabletop.upper), axis=0), height]])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_headings(page: str) -> None:
    text = hal.data_path("hardware_specs", f"{page}.yaml").read_text()
    places = [text.index(f"\n# {heading}\n") for heading in HEADINGS]
    assert places == sorted(places)


def test_limits_agree(spec: hal.RobotSpec) -> None:
    model = load_model(spec)
    binding = Binding.of(spec, model)
    assert spec.mujoco is not None
    for i, axis in enumerate(spec.joints):
        joint, actuator = model.joint(spec.mujoco.joints[i]), model.actuator(spec.mujoco.actuators[i])
        assert int(actuator.trnid[0]) == joint.id
        assert joint.range[0] - 1e-9 <= axis.lower < axis.upper <= joint.range[1] + 1e-9
        assert actuator.ctrlrange == pytest.approx(joint.range)
        assert model.jnt_actfrcrange[joint.id] == pytest.approx([-axis.effort, axis.effort])
    assert spec.gripper is not None
    share = spec.mujoco.gripper_width_scale[0]
    for index in binding.gripper_actuators:
        assert model.actuator_forcerange[index] == pytest.approx(
            [-spec.gripper.force * share, spec.gripper.force * share], rel=0.01
        )
        ends = np.array([spec.gripper.lower, spec.gripper.upper]) * spec.mujoco.gripper_ctrl_scale[0]
        low, high = model.actuator_ctrlrange[index]
        assert low - 1e-9 <= ends.min() < ends.max() <= high + 1e-9
    assert {model.cam(i).name for i in range(model.ncam)} == {"front", "wrist"}


def test_home_is_above_the_tabletop_and_points_down(spec: hal.RobotSpec) -> None:
    position, rotation = Chain(spec).forward(spec.home[None, : len(spec.joints)])
    assert (spec.workspace.lower <= position[0]).all()
    assert (position[0] <= spec.workspace.upper).all()
    assert rotation[0] == pytest.approx(np.diag([1.0, -1.0, -1.0]), abs=1e-4)


def test_the_chain_is_the_models(spec: hal.RobotSpec) -> None:
    model, joints = load_model(spec), len(spec.joints)
    data, chain, binding = mujoco.MjData(model), Chain(spec), Binding.of(spec, model)
    q = np.random.default_rng(1).uniform(spec.lower[:joints], spec.upper[:joints], (50, joints))
    position, rotation = chain.forward(q)
    jacobian, step = chain.jacobian(q), 1e-6
    for i, row in enumerate(q):
        data.qpos[binding.qpos] = row
        mujoco.mj_kinematics(model, data)
        assert position[i] == pytest.approx(data.site_xpos[binding.tcp_site], abs=1e-9)
        assert rotation[i] == pytest.approx(data.site_xmat[binding.tcp_site].reshape(3, 3), abs=1e-9)
    for j in range(joints):
        aside = np.eye(joints)[j] * step
        (ahead, turned), (behind, back) = chain.forward(q + aside), chain.forward(q - aside)
        spin = (turned - back) / (2 * step) @ rotation.transpose(0, 2, 1)
        assert jacobian[:, :3, j] == pytest.approx((ahead - behind) / (2 * step), abs=1e-7)
        assert jacobian[:, 3:, j] == pytest.approx(
            np.stack((spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]), axis=1), abs=1e-7
        )


def test_the_fingers_open_along_the_tools_y(spec: hal.RobotSpec) -> None:
    # Experts turn the tool's y across an object: the pads must come apart along it and nowhere else.
    model = load_model(spec)
    data, binding = mujoco.MjData(model), Binding.of(spec, model)
    pads = [model.geom(i).id for i in range(model.ngeom) if model.geom(i).name.endswith("_pad")]
    assert len(pads) == 2
    gaps = []
    for width in (0.02, 0.04):
        pose = np.append(spec.home[:-1], width)
        binding.write_qpos(pose, data.qpos)
        mujoco.mj_kinematics(model, data)
        apart = data.geom_xpos[pads[0]] - data.geom_xpos[pads[1]]
        gaps.append(data.site_xmat[binding.tcp_site].reshape(3, 3).T @ apart)
    opened = np.abs(gaps[1]) - np.abs(gaps[0])
    assert opened[1] == pytest.approx(0.02, abs=0.004)
    assert opened[0] == pytest.approx(0, abs=1e-6)


def test_it_passes_the_check(spec: hal.RobotSpec) -> None:
    hal.check_robot(MujocoRobot(spec))


def test_the_whole_tabletop_is_reached_from_above(spec: hal.RobotSpec) -> None:
    assert spec.tabletop is not None
    axes = [np.linspace(low, high, 5) for low, high in zip(spec.tabletop.lower, spec.tabletop.upper, strict=True)]
    heights = np.linspace(0.01, HEIGHTS.get(spec.name, 0.2), 4)
    grid = np.stack(np.meshgrid(*axes, heights, np.linspace(-np.pi / 4, np.pi / 4, 5)), axis=-1).reshape(-1, 4)
    _, error = solve(spec, grid[:, :3], grid[:, 3])
    assert error.max() < 1e-3, f"at x, y, z, yaw = {grid[error.argmax()]}"


@pytest.mark.parametrize("height", [0.1, 0.16])
def test_an_episodes_start_is_found_from_home(spec: hal.RobotSpec, height: float) -> None:
    assert solve(spec, centre(spec, height), np.zeros(1))[1] < 1e-4


def test_a_step_of_the_set_point_settles(spec: hal.RobotSpec) -> None:
    """Within 0.5 s to 1 mrad of where it rests, with 3 % overshoot at most, wherever above the tabletop."""
    for height in (0.05, 0.15):
        pose = np.append(solve(spec, centre(spec, height), np.zeros(1))[0][0], spec.home[-1])
        with MujocoRobot(spec) as robot:
            for joint in range(len(spec.joints)):
                target = pose.copy()
                target[joint] += 0.1
                robot.set_state(pose, {})
                robot.step(1.0)
                before = robot.read().position[joint]
                robot.write(hal.Command(target))
                way = []
                for _ in range(100):
                    robot.step(0.01)
                    way.append(robot.read().position[joint] - before)
                assert way[-1] == pytest.approx(0.1, abs=0.01), spec.names[joint]
                assert max(way) < way[-1] + 0.003, spec.names[joint]
                assert np.abs(np.array(way[50:]) - way[-1]).max() < 1e-3, spec.names[joint]


def table_with_cube(spec: hal.RobotSpec) -> Any:
    scene = load_mjcf(spec)
    scene.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
    cube = scene.worldbody.add_body(name="cube", pos=[*centre(spec, CUBE)[0]])
    cube.add_freejoint()
    cube.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE] * 3, mass=0.05, condim=4, rgba=[1, 0, 0, 1])
    return scene.compile()


@pytest.mark.parametrize("yaw", [-0.7, 0.0, 0.7])
def test_it_lifts_a_cube_and_holds_it(spec: hal.RobotSpec, yaw: float) -> None:
    limiter, turn = hal.SafetyLimiter(spec), np.array([yaw])
    above, down = (np.append(solve(spec, centre(spec, z), turn)[0][0], spec.home[-1]) for z in (CUBE + 0.1, CUBE))
    with MujocoRobot(spec, table_with_cube(spec)) as robot:

        def go(target: Array, seconds: float) -> hal.Reading:
            for _ in range(round(seconds * spec.control_hz)):
                robot.write(hal.Command(limiter.limit(target[None]).set_point[0]))
                robot.step(spec.dt)
            return robot.read()

        side = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
        robot.set_state(above, {"cube": np.concatenate((centre(spec, CUBE)[0], side))})
        limiter.reset(above[None])
        go(down, 2.5)
        assert np.abs(robot.object_pose("cube")[:2] - centre(spec, CUBE)[0, :2]).max() < 2e-3  # not touched yet
        gripped = go(np.append(down[:-1], 0.02), 1.5)
        assert gripped.position[-1] == pytest.approx(2 * CUBE, abs=0.003)
        lifted = np.append(above[:-1], 0.02)
        go(lifted, 2.5)
        high = robot.object_pose("cube")
        assert high[2] > CUBE + 0.09
        assert np.linalg.norm(high[:3] - robot.tcp()[0]) < 0.015
        go(lifted, 2.0)
        assert robot.object_pose("cube")[2] > high[2] - 0.003  # soft contacts creep


@pytest.mark.renders
def test_its_cameras_see_the_cube(spec: hal.RobotSpec) -> None:
    pose = np.append(solve(spec, centre(spec, 0.12), np.zeros(1))[0][0], spec.home[-1])
    with MujocoRobot(spec, table_with_cube(spec), cameras=("front", "wrist")) as robot:
        pictures = []
        for place in (centre(spec, CUBE)[0], np.array([0.0, 0.0, -1.0])):
            robot.set_state(pose, {"cube": np.append(place, [1.0, 0, 0, 0])})
            pictures.append(robot.read().images)
        for name in ("front", "wrist"):
            assert pictures[0][name].shape == (128, 128, 3)
            changed = np.abs(pictures[0][name].astype(int) - pictures[1][name]).max(axis=2) > 30
            assert changed.sum() > 20, name
