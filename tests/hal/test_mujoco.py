"""The simulated Panda: servo, grip, scene, pictures, and what the driver refuses."""

from __future__ import annotations

import json
from typing import Any

import mujoco
import numpy as np
import pytest

import hal
from hal.binding import Binding, load_model
from hal.drivers.mujoco import MujocoRobot
from hal.kinematics import Chain
from hal.robot import Array
from tests.fakes import small_spec

SPEC = hal.load_spec("panda")


def table_with_cube(mass: float = 0.05) -> Any:
    """The Panda on a table at z = 0 with a cube of 4 cm, and a mark that is no body of the physics."""
    assert SPEC.mujoco is not None
    scene = mujoco.MjSpec.from_file(str(SPEC.mujoco.mjcf))
    scene.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
    cube = scene.worldbody.add_body(name="cube", pos=[0.5, 0, 0.02])
    cube.add_freejoint()
    cube.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, mass=mass)
    scene.worldbody.add_body(name="goal", pos=[0.4, 0, 0.3], mocap=True)
    return scene.compile()


def reach(start: Array, position: Array) -> Array:
    """Set-points with the hand pointing down at `position`, by Newton steps; the width of `start`."""
    chain, q = Chain(SPEC), start[None, :7].copy()
    for _ in range(50):
        tcp, rotation = chain.forward(q)
        turn = 0.5 * sum(np.cross(rotation[0, :, i], np.diag([1.0, -1.0, -1.0])[:, i]) for i in range(3))
        q += (np.linalg.pinv(chain.jacobian(q)[0], rcond=1e-4) @ np.concatenate((position - tcp[0], turn)))[None]
    assert chain.position(q)[0] == pytest.approx(position, abs=1e-6)
    return np.append(q[0], start[7])


def go(robot: MujocoRobot, limiter: hal.SafetyLimiter, target: Array, periods: int = 25) -> hal.Reading:
    for _ in range(periods):
        robot.write(hal.Command(limiter.limit(target[None]).set_point[0]))
        robot.step(SPEC.dt)
    return robot.read()


def test_it_passes_the_check() -> None:
    hal.check_robot(MujocoRobot(SPEC))
    hal.check_robot(MujocoRobot(SPEC, table_with_cube()))


@pytest.mark.renders
def test_it_passes_the_check_with_cameras() -> None:
    hal.check_robot(MujocoRobot(SPEC, cameras=("front", "wrist")))


def test_the_model_agrees_with_the_spec() -> None:
    model = load_model(SPEC)
    binding = Binding.of(SPEC, model)
    joints = [int(np.flatnonzero(model.jnt_qposadr == address)[0]) for address in binding.qpos]
    assert model.jnt_range[joints] == pytest.approx(np.stack((SPEC.lower, SPEC.upper), axis=1)[:7])
    assert model.actuator_ctrlrange == pytest.approx(np.stack((SPEC.lower, SPEC.upper), axis=1))
    efforts = np.array([joint.effort for joint in SPEC.joints])
    assert model.jnt_actfrcrange[joints] == pytest.approx(np.stack((-efforts, efforts), axis=1))
    assert SPEC.gripper is not None
    assert model.actuator_forcerange[binding.gripper_actuators[0]].tolist() == [-SPEC.gripper.force, SPEC.gripper.force]
    # The sum of the maker's inertials, base included.
    assert model.body_mass.sum() == pytest.approx(16.9, abs=0.2)


def test_gravity_is_compensated() -> None:
    with MujocoRobot(SPEC) as robot:
        robot.step(3.0)
        assert robot.read().position == pytest.approx(SPEC.home, abs=1e-6)


@pytest.mark.parametrize("joint", range(7))
def test_the_servo_follows_within_a_period_without_overshoot(joint: int) -> None:
    with MujocoRobot(SPEC) as robot:
        target = SPEC.home.copy()
        target[joint] += 0.1
        robot.write(hal.Command(target))
        way = []
        for _ in range(40):
            robot.step(0.01)
            way.append(robot.read().position[joint] - SPEC.home[joint])
        assert way[9] > 0.085
        assert max(way) < 0.103
        assert way[-1] == pytest.approx(0.1, abs=1e-3)


def test_write_changes_nothing_until_a_step() -> None:
    with MujocoRobot(SPEC) as robot:
        robot.write(hal.Command(SPEC.home + 0.05 * np.array([1, 1, 1, 1, 1, 1, 1, -1])))
        assert np.array_equal(robot.read().position, SPEC.home)
        robot.step(0.002)  # less than a time step of the model: nothing yet, but it isn't lost
        assert np.array_equal(robot.read().position, SPEC.home)
        robot.step(0.003)
        assert not np.array_equal(robot.read().position, SPEC.home)


def test_the_width_is_the_sum_of_both_fingers() -> None:
    with MujocoRobot(SPEC) as robot:
        for width in (0.0, 0.03, 0.08):
            target = SPEC.home.copy()
            target[7] = width
            robot.write(hal.Command(target))
            robot.step(1.0)
            assert robot.read().position[7] == pytest.approx(width, abs=1e-4)


@pytest.mark.parametrize("mass", [0.05, 0.5])
def test_it_lifts_a_cube(mass: float) -> None:
    limiter = hal.SafetyLimiter(SPEC)
    with MujocoRobot(SPEC, table_with_cube(mass)) as robot:
        above = reach(SPEC.home, np.array([0.5, 0.0, 0.15]))
        robot.set_state(above, {"cube": np.array([0.5, 0.005, 0.02, 1, 0, 0, 0])})
        limiter.reset(above[None])
        down = reach(above, np.array([0.5, 0.0, 0.02]))
        go(robot, limiter, down)
        assert robot.tcp()[0] == pytest.approx([0.5, 0, 0.02], abs=2e-3)
        gripped = go(robot, limiter, np.append(down[:7], 0.0))
        assert gripped.position[7] == pytest.approx(0.04, abs=3e-3)
        go(robot, limiter, np.append(above[:7], 0.0))
        go(robot, limiter, np.append(reach(above, np.array([0.45, 0.1, 0.25]))[:7], 0.0), 40)
        assert robot.object_pose("cube")[:3] == pytest.approx([0.45, 0.1, 0.25], abs=0.015)  # soft contacts creep by mm


def test_stop_keeps_the_grip() -> None:
    with MujocoRobot(SPEC) as robot:
        target = SPEC.home.copy()
        target[0], target[7] = 0.5, 0.02
        robot.write(hal.Command(target))
        robot.step(0.1)
        robot.stop()
        robot.step(1.0)
        resting = robot.read()
        assert resting.position[0] < 0.49
        assert np.abs(resting.velocity).max() < 1e-3
        assert resting.position[7] == pytest.approx(0.02, abs=1e-4)


def test_set_state_is_repeatable_and_complete() -> None:
    pose = np.array([0.4, 0.1, 0.3, 0, 1, 0, 0])
    position = SPEC.home + np.array([0.1, 0, 0, 0, 0, 0, 0, -0.03])
    ends = []
    with MujocoRobot(SPEC, table_with_cube()) as robot:
        for _ in range(2):
            robot.set_state(position, {"cube": pose})
            assert robot.read().position == pytest.approx(position)
            assert robot.object_pose("cube") == pytest.approx(pose)
            assert robot.tcp()[0] == pytest.approx(Chain(SPEC).position(position[None, :7])[0], abs=1e-9)
            robot.step(0.7)
            ends.append(np.concatenate((robot.read().position, robot.object_pose("cube"))))
        assert np.array_equal(ends[0], ends[1])
        robot.set_state(position, {"goal": pose})
        assert robot.object_pose("cube")[:3] == pytest.approx([0.5, 0, 0.02])
        assert robot.object_pose("goal") == pytest.approx(pose)


def test_tcp_belongs_to_the_newest_pose() -> None:
    with MujocoRobot(SPEC) as robot:
        robot.write(hal.Command(SPEC.home + np.array([0.3, 0, 0, 0, 0, 0, 0, 0])))
        robot.step(0.05)
        reading = robot.read()
        assert reading.velocity[0] > 0.5
        assert robot.tcp()[0] == pytest.approx(Chain(SPEC).position(reading.position[None, :7])[0], abs=1e-12)


def test_a_diverged_simulation_is_a_fault_until_set_state() -> None:
    scene = table_with_cube()
    with MujocoRobot(SPEC, scene) as robot:
        robot.set_state(SPEC.home, {"cube": np.array([1e30, 0, 0, 1, 0, 0, 0])})
        with pytest.raises(hal.RobotFault, match="diverged"):
            robot.step(0.1)
        assert robot.health().state == "fault"
        robot.set_state(SPEC.home, {})
        robot.step(0.1)
        assert robot.health().state == "ok"


def changed(key: str, index: int, **values: object) -> hal.RobotSpec:
    content = SPEC.model_dump(mode="json")
    content[key][index] |= values
    return hal.RobotSpec.model_validate_json(json.dumps(content))


def test_a_spec_that_the_model_does_not_fit_is_refused() -> None:
    with pytest.raises(
        hal.SpecError, match=r"'joint1' goes from -2\.8973 to 5\.8973 in the spec, the model's joint only"
    ):
        MujocoRobot(changed("joints", 0, upper=5.8973))
    with pytest.raises(hal.DriverError, match="the scene has no camera 'frnt': did you mean 'front'"):
        MujocoRobot(changed("cameras", 0, name="frnt"))


def test_what_it_refuses() -> None:
    with pytest.raises(hal.DriverError, match="no camera 'fornt': did you mean 'front'"):
        MujocoRobot(SPEC, cameras=("fornt",))
    with MujocoRobot(SPEC, table_with_cube()) as robot:
        with pytest.raises(hal.DriverError, match=r"no object 'cub' .*: did you mean 'cube'"):
            robot.object_pose("cub")
        with pytest.raises(hal.DriverError, match="no object 'hand'"):
            robot.set_state(SPEC.home + 0.01, {"hand": np.array([0, 0, 0, 1.0, 0, 0, 0])})
        with pytest.raises(hal.DriverError, match="pose of 'cube'"):
            robot.set_state(SPEC.home + 0.01, {"cube": np.zeros(7)})
        with pytest.raises(hal.DriverError, match="8 finite numbers"):
            robot.set_state(SPEC.home[:7], {})
        with pytest.raises(hal.DriverError, match="finite and not negative"):
            robot.step(float("nan"))
        assert np.array_equal(robot.read().position, SPEC.home)
    with pytest.raises(hal.DriverError, match="not connected"):
        robot.step(0.1)


@pytest.mark.renders
def test_pictures() -> None:
    with MujocoRobot(SPEC, table_with_cube(), cameras=("front",)) as robot:
        images = robot.read().images
        assert {name: (image.shape, image.dtype) for name, image in images.items()} == {
            "front": ((128, 128, 3), np.dtype(np.uint8))
        }
        before = robot.render("wrist", 96, 64)
        assert before.shape == (64, 96, 3)
        robot.set_state(SPEC.home, {"cube": np.array([0.35, 0, 0.3, 1, 0, 0, 0])})
        assert not np.array_equal(robot.render("wrist", 96, 64), before)
        assert robot.render("front", 1280, 720).shape == (720, 1280, 3)
        with pytest.raises(hal.DriverError, match="no camera 'back'"):
            robot.render("back", 64, 64)
        with pytest.raises(hal.DriverError, match="no camera 'back'"):
            robot.capture("back", 64, 64)


@pytest.mark.renders
def test_what_a_camera_captures_looks_like_the_picture_without_its_shadows() -> None:
    with MujocoRobot(SPEC, table_with_cube()) as robot:
        robot.set_state(SPEC.home, {"cube": np.array([0.5, 0, 0.02, 1, 0, 0, 0])})
        picture, image = robot.render("front", 96, 64), robot.capture("front", 96, 64)
        assert image.shape == (64, 96, 3) and image.dtype == np.uint8
        assert np.abs(picture.astype(int) - image).mean() < 3 < np.abs(picture[::-1].astype(int) - image).mean()
        assert np.array_equal(robot.render("front", 96, 64), picture)
        assert np.array_equal(robot.capture("front", 96, 64), image)
    robot.close()


FOREIGN = """
<mujoco><compiler angle="radian"/><worldbody>
  <body><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint name="pan" axis="0 0 1" damping="5"/>
    <body pos="0.3 0 0"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      <joint name="lift" axis="0 1 0" damping="5"/>
      <site name="tool" pos="0.3 0 0"/>
      <body><inertial pos="0 0 0" mass="0.1" diaginertia="1 1 1"/><joint name="jaw" type="slide" damping="5"/></body>
    </body>
  </body></worldbody>
  <option gravity="0 0 0"/>
  <actuator><position name="m2" joint="lift" kp="50"/><position name="m1" joint="pan" kp="50"/>
    <general name="grip" joint="jaw" gainprm="0.02" biastype="affine" biasprm="0 -100 0" ctrlrange="0 255"/></actuator>
</mujoco>"""


def test_a_foreign_model_by_its_own_names(tmp_path: Any) -> None:
    # One jaw that moves half the width, driven by 0 .. 255 for 0 .. 0.1 m.
    block = {
        "joints": ("pan", "lift"),
        "actuators": ("m1", "m2"),
        "tcp_site": "tool",
        "gripper_joints": ("jaw",),
        "gripper_actuators": ("grip",),
        "gripper_width_scale": 2.0,
        "gripper_ctrl_scale": 2550.0,
    }
    (tmp_path / "foreign.xml").write_text(FOREIGN)
    named = hal.MujocoModel.model_validate({"mjcf": tmp_path / "foreign.xml", **block})
    spec = small_spec(mujoco=named, driver="mujoco", cameras=())
    hal.check_robot(MujocoRobot(spec))
    with MujocoRobot(spec) as robot:
        robot.write(hal.Command(np.array([0.2, -0.3, 0.06])))
        robot.step(5.0)
        assert robot.read().position == pytest.approx([0.2, -0.3, 0.06], abs=0.005)


def test_what_the_joints_exert_is_read() -> None:
    with hal.make_robot(hal.load_spec("panda")) as robot:
        robot.step(1.0)  # type: ignore[attr-defined]
        effort = robot.read().effort
    assert effort is not None and np.isnan(effort[-1])
    assert (np.abs(effort[:-1]) <= robot.spec.effort[:-1]).all() and np.abs(effort[1]) > 1.0, "it holds itself up"
