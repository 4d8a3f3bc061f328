"""The Panda's forward kinematics against published poses, the maker's DH table, and MuJoCo."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

import hal
from hal.binding import load_model
from hal.kinematics import Chain
from tests.fakes import small_spec

# Franka FCI documentation, "Denavit-Hartenberg parameters" (Craig's convention): a, d, alpha per joint.
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
FLANGE, TCP, TURN = 0.107, 0.1034, -np.pi / 4  # the hand on the flange: franka_description


def dh_pose(q: np.ndarray) -> np.ndarray:
    """The TCP's pose (4, 4) by the product of the table's transforms."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip((*DH, (0.0, FLANGE, 0.0), (0.0, TCP, 0.0)), (*q, 0.0, TURN), strict=True):
        ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        pose = pose @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return pose


def configurations(n: int) -> np.ndarray:
    spec = hal.load_spec("panda")
    return np.random.default_rng(7).uniform(spec.lower[:7], spec.upper[:7], (n, 7))


def test_published_poses() -> None:
    spec = hal.load_spec("panda")
    model = load_model(spec)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert data.site("flange").xpos == pytest.approx([0.088, 0, 0.926], abs=1e-9)
    position, rotation = Chain(spec).forward(spec.home[None, :7])
    assert position[0] == pytest.approx([0.3069, 0, 0.4869], abs=1e-4)
    assert rotation[0] == pytest.approx(np.diag([1.0, -1.0, -1.0]), abs=1e-9)


def test_against_the_dh_table() -> None:
    q = configurations(200)
    position, rotation = Chain(hal.load_spec("panda")).forward(q)
    poses = np.array([dh_pose(row) for row in q])
    assert position == pytest.approx(poses[:, :3, 3], abs=1e-9)
    assert rotation == pytest.approx(poses[:, :3, :3], abs=1e-9)


def test_the_cheap_position_is_the_same() -> None:
    chain, q = Chain(hal.load_spec("panda")), configurations(50)
    assert chain.position(q) == pytest.approx(chain.forward(q)[0], abs=1e-12)


def test_jacobian_is_the_derivative() -> None:
    chain, q, step = Chain(hal.load_spec("panda")), configurations(20), 1e-6
    jacobian = chain.jacobian(q)
    _, rotation = chain.forward(q)
    for j in range(7):
        ahead, back = q.copy(), q.copy()
        ahead[:, j] += step
        back[:, j] -= step
        linear = (chain.position(ahead) - chain.position(back)) / (2 * step)
        spin = (chain.forward(ahead)[1] - chain.forward(back)[1]) / (2 * step) @ rotation.transpose(0, 2, 1)
        assert jacobian[:, :3, j] == pytest.approx(linear, abs=1e-7)
        assert jacobian[:, 3:, j] == pytest.approx(
            np.stack((spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]), axis=1), abs=1e-7
        )


ODD = """
<mujoco><compiler angle="radian"/><worldbody>
  <body pos="0.1 0.2 0.3" quat="0.9 0.1 0.2 0.3">
    <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
    <joint name="b" type="slide" axis="1 2 3" ref="0.05"/>
    <body pos="0 0.4 0" euler="0.3 0.2 0.1">
      <inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      <joint name="a" axis="-1 0.5 0" pos="0.02 0.03 0.04" ref="-0.2"/>
      <site name="tip" pos="0.1 0 0.2" euler="0.5 0 0"/>
    </body>
  </body></worldbody>
  <actuator><position name="a" joint="a"/><position name="b" joint="b"/></actuator>
</mujoco>"""


def odd_spec(folder: Path, xml: str = ODD, **names: object) -> hal.RobotSpec:
    (folder / "odd.xml").write_text(xml)
    block = {"mjcf": folder / "odd.xml", "joints": ("a", "b"), "actuators": ("a", "b"), "tcp_site": "tip"}
    return small_spec(gripper=None, mujoco=hal.MujocoModel.model_validate(block | names), driver="mujoco")


def test_any_chain_of_hinges_and_slides(tmp_path: Path) -> None:
    # Slides, oblique axes, anchors off the origin, reference values, and a spec in another order than the model.
    spec = odd_spec(tmp_path)
    model = load_model(spec)
    data, chain = mujoco.MjData(model), Chain(spec)
    q = np.random.default_rng(3).uniform(-1, 1, (30, 2))
    position, rotation = chain.forward(q)
    jacobian = chain.jacobian(q)
    for i, (a, b) in enumerate(q):
        data.joint("a").qpos, data.joint("b").qpos = a, b
        mujoco.mj_forward(model, data)
        linear, angular = np.zeros((3, 2)), np.zeros((3, 2))
        mujoco.mj_jacSite(model, data, linear, angular, 0)
        assert position[i] == pytest.approx(data.site("tip").xpos, abs=1e-9)
        assert chain.position(q[i : i + 1])[0] == pytest.approx(position[i], abs=1e-12)
        assert rotation[i] == pytest.approx(data.site("tip").xmat.reshape(3, 3), abs=1e-9)
        assert jacobian[i] == pytest.approx(np.vstack((linear, angular))[:, ::-1], abs=1e-9)


def test_a_joint_that_the_spec_forgets(tmp_path: Path) -> None:
    spec = odd_spec(tmp_path, ODD.replace('<site name="tip"', '<joint name="c" axis="0 0 1"/><site name="tip"'))
    with pytest.raises(hal.SpecError, match=r"joint 'c' moves the TCP but isn't among mujoco\.joints"):
        Chain(spec)


def test_all_missing_names_in_one_error(tmp_path: Path) -> None:
    spec = odd_spec(tmp_path, joints=("a", "bb"), actuators=("motor", "b"), tcp_site="tipp")
    with pytest.raises(hal.SpecError) as caught:
        Chain(spec)
    for part in ("joints: no 'bb'", "actuators: no 'motor'", "tcp_site: no 'tipp' in the model (did you mean 'tip'?"):
        assert part in str(caught.value)


def test_what_mujoco_refuses(tmp_path: Path) -> None:
    with pytest.raises(hal.SpecError, match="MuJoCo refuses it"):
        Chain(odd_spec(tmp_path, "<mujoco><bad/></mujoco>"))
    with pytest.raises(hal.SpecError, match="no block 'mujoco'"):
        Chain(small_spec())
