"""MJCFs that others wrote: used as they are, or refused with everything that doesn't fit in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

import hal
from envs.scene import build_scene
from envs.tasks import make_task
from hal.binding import Binding, load_model
from hal.drivers.mujoco import MujocoRobot
from hal.kinematics import Chain
from hal.mjcf import load_mjcf
from tests.foreign import LEVERS, OPPOSED, TENDON, write_mjcf

PANDA = hal.load_spec("panda")
TO_255 = {"gripper_actuators": ("actuator8",), "gripper_ctrl_scale": 3187.5}
GRIPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "one tendon, 0 to 255": (TENDON, TO_255),
    "levers that grow while they close": (
        LEVERS,
        {
            "gripper_joints": ("right_driver_joint", "left_driver_joint"),
            "gripper_actuators": ("fingers_actuator",),
            "gripper_width_scale": -0.05,
            "gripper_width_offset": 0.08,
            "gripper_ctrl_scale": -3187.5,
            "gripper_ctrl_offset": 255.0,
        },
    ),
    "a motor each, one downwards": (
        OPPOSED,
        {
            "gripper_actuators": ("gripper_finger_joint1", "gripper_finger_joint2"),
            "gripper_width_scale": (1.0, -1.0),
            "gripper_ctrl_scale": (0.5, -0.5),
        },
    ),
}


def foreign(mjcf: Path, prefix: str = "", **changes: Any) -> hal.RobotSpec:
    """A spec with the Panda's limits for an MJCF of `write_mjcf`; `changes` are keys of its block `mujoco`."""
    block = {
        "mjcf": mjcf,
        "joints": tuple(f"{prefix}joint{i}" for i in range(1, 8)),
        "actuators": tuple(f"{prefix}actuator{i}" for i in range(1, 8)),
        "gripper_joints": (f"{prefix}finger_joint1", f"{prefix}finger_joint2"),
        "tcp_body": f"{prefix}hand",
        "tcp_offset": (0.0, 0.0, 0.1034),
    }
    model = hal.MujocoModel.model_validate(block | changes)
    return PANDA.model_copy(update={"name": "foreign", "cameras": (), "mujoco": model})


def refusal(spec: hal.RobotSpec) -> str:
    with pytest.raises(hal.SpecError) as caught:
        Binding.of(spec, load_model(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_tcp_is_a_point_of_a_body(tmp_path: Path) -> None:
    turned = {"tcp_quat": (0.5, 0.5, 0.5, 0.5)}
    mjcf = write_mjcf(tmp_path / "menagerie")
    q = np.random.default_rng(5).uniform(PANDA.lower[:7], PANDA.upper[:7], (30, 7))
    position, rotation = Chain(foreign(mjcf, **TO_255)).forward(q)
    published = Chain(PANDA).forward(q)
    assert position == pytest.approx(published[0], abs=1e-6)
    assert rotation == pytest.approx(published[1], abs=1e-6)
    # The quaternion (1, 1, 1, 1) / 2 turns x to y, y to z and z to x.
    assert Chain(foreign(mjcf, **TO_255, **turned)).forward(q)[1] == pytest.approx(rotation[:, :, [1, 2, 0]], abs=1e-6)


@pytest.mark.parametrize("kind", GRIPPERS)
def test_grippers_go_to_their_widths(tmp_path: Path, kind: str) -> None:
    gripper, block = GRIPPERS[kind]
    spec = foreign(write_mjcf(tmp_path / "menagerie", gripper), **block)
    hal.check_robot(MujocoRobot(spec))
    with MujocoRobot(spec) as robot:
        for width in (0.08, 0.03, 0.0, 0.05):
            robot.write(hal.Command(np.append(spec.home[:7], width)))
            robot.step(2.0)
            assert robot.read().position[7] == pytest.approx(width, abs=1e-3)
        robot.set_state(np.append(spec.home[:7], 0.02), {})
        assert robot.read().position[7] == pytest.approx(0.02)


@pytest.mark.parametrize("file", ["panda.xml", "scene.xml"])
def test_a_task_brings_its_own_floor_and_light(tmp_path: Path, file: str) -> None:
    spec = foreign(write_mjcf(tmp_path / "menagerie").with_name(file), **TO_255)
    scene = build_scene(spec, make_task("lift", spec))
    assert [scene.geom(i).name for i in range(scene.ngeom) if scene.geom_bodyid[i] == 0] == ["table"]
    assert (scene.nlight, scene.nkey, scene.nmesh) == (2, 0, 1)
    assert (scene.tex_type == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)).sum() == 1
    with MujocoRobot(spec, scene) as robot:
        robot.step(0.5)
        assert robot.object_pose("cube")[2] == pytest.approx(0.02, abs=1e-3)


def test_names_with_a_prefix(tmp_path: Path) -> None:
    mjcf = write_mjcf(tmp_path / "menagerie", prefix="left/")
    spec = foreign(mjcf, "left/", gripper_actuators=("left/actuator8",), gripper_ctrl_scale=3187.5)
    hal.check_robot(MujocoRobot(spec))
    without = refusal(foreign(mjcf, **TO_255))
    assert without.count("in the model") == 18
    assert "no 'actuator8' in the model (did you mean 'left/actuator8'?" in without


def test_motors_and_whatever_else_are_named_at_once(tmp_path: Path) -> None:
    mjcf = write_mjcf(tmp_path / "menagerie", servo='<motor name="{p}actuator{n}" joint="{p}joint{n}"/>')
    said = refusal(foreign(mjcf, gripper_actuators=("grip",), tcp_body="hnd"))
    assert "mujoco.gripper_actuators: no 'grip'" in said
    assert "mujoco.tcp_body: no 'hnd' in the model (did you mean 'hand'?" in said
    assert [f"actuator 'actuator{i}' is no position servo" in said for i in range(1, 8)] == [True] * 7


def test_actuators_in_the_wrong_order(tmp_path: Path) -> None:
    order = tuple(f"actuator{i}" for i in (1, 3, 2, 4, 5, 6, 7))
    said = refusal(foreign(write_mjcf(tmp_path / "menagerie"), **TO_255, actuators=order))
    assert "actuator 'actuator3' drives 'joint3', the spec has it for 'joint2'" in said
    assert "actuator 'actuator2' drives 'joint2', the spec has it for 'joint3'" in said


SERVOS = {
    "velocity": ('<velocity name="{p}actuator{n}" joint="{p}joint{n}" kv="10"/>', "is no position servo"),
    "gain of another unit": (
        '<general name="{p}actuator{n}" joint="{p}joint{n}" gainprm="35" biasprm="0 -2000 -200"/>',
        "takes a set-point x to 0.0175 x",
    ),
    "geared": ('<position name="{p}actuator{n}" joint="{p}joint{n}" kp="9" gear="2"/>', "takes a set-point x to 0.5 x"),
    "integrated": ('<intvelocity name="{p}actuator{n}" joint="{p}joint{n}" kp="9" actrange="-9 9"/>', "is no position"),
    "narrow": ('<position name="{p}actuator{n}" joint="{p}joint{n}" kp="9" ctrlrange="-1 1"/>', "only from -1"),
}


@pytest.mark.parametrize("kind", SERVOS)
def test_servos_that_would_not_do(tmp_path: Path, kind: str) -> None:
    servo, message = SERVOS[kind]
    assert message in refusal(foreign(write_mjcf(tmp_path / "menagerie", servo=servo), **TO_255))


@pytest.mark.parametrize("servo", ["kp='900' dampratio='1'", "kp='900' kv='20' timeconst='0.01'"])
def test_other_position_servos_will_do(tmp_path: Path, servo: str) -> None:
    servo = '<position name="{p}actuator{n}" joint="{p}joint{n}" ' + servo + "/>"
    mjcf = write_mjcf(tmp_path / "menagerie", servo=servo)
    Binding.of(foreign(mjcf, **TO_255), load_model(foreign(mjcf, **TO_255)))


def test_a_gripper_that_would_not_get_there(tmp_path: Path) -> None:
    mjcf = write_mjcf(tmp_path / "menagerie")
    said = refusal(foreign(mjcf, gripper_actuators=("actuator8",)))  # metres to what counts to 255
    assert "would not bring the gripper to its widths: that takes gripper_ctrl_scale 3187.5" in said
    assert "gets 0 and 800 for the spec's widths of 0 and 0.08 m, but takes only 0 to 255" in refusal(
        foreign(mjcf, gripper_actuators=("actuator8",), gripper_ctrl_scale=10000.0)
    )
    assert "'finger_joint1' would be at 0 and 0.08 for the spec's widths" in refusal(
        foreign(mjcf, **TO_255, gripper_width_scale=0.5)
    )
    motor = TENDON.replace("<general", "<motor").replace('biastype="affine"', "")
    motor = motor.replace('gainprm="0.01568627451" biasprm="0 -100 -10"', "")
    assert "gripper actuator 'actuator8' is no position servo" in refusal(
        foreign(write_mjcf(tmp_path / "motor", motor), **TO_255)
    )


def test_what_mujoco_cannot_read(tmp_path: Path) -> None:
    mjcf = write_mjcf(tmp_path / "menagerie")
    (mjcf.parent / "assets" / "link.obj").unlink()
    with pytest.raises(hal.SpecError, match=r"MuJoCo refuses it: .*link\.obj") as caught:
        load_model(foreign(mjcf, **TO_255))
    assert "\n" not in str(caught.value)
    (tmp_path / "outer.xml").write_text('<mujoco><include file="gone.xml"/></mujoco>')
    with pytest.raises(hal.SpecError, match=r"MuJoCo refuses it: .*gone\.xml"):
        load_mjcf(foreign(tmp_path / "outer.xml", **TO_255))


WRONG = {
    "site and body": ({"tcp_site": "tcp"}, "either tcp_site or tcp_body"),
    "neither": ({"tcp_body": None}, "either tcp_site or tcp_body"),
    "offset of a site": ({"tcp_body": None, "tcp_site": "tcp"}, "tcp_offset and tcp_quat go with tcp_body"),
    "no quaternion": ({"tcp_quat": (0.0, 0.0, 0.0, 0.0)}, "tcp_quat must not be all zeros"),
    "three for two": ({"gripper_width_scale": (1.0, 1.0, 1.0)}, "must be one number, or a list of 2, not 3"),
    "zero": ({"gripper_ctrl_scale": 0.0}, "gripper_ctrl_scale must not be 0"),
    "text": ({"gripper_ctrl_scale": ("fast",)}, "valid number"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_the_block_refuses(fault: str) -> None:
    changes, message = WRONG[fault]
    with pytest.raises(ValueError, match=message):
        foreign(Path("panda.xml"), **(TO_255 | changes))
