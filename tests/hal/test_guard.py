"""The guard: hostile commands bring no part of an arm nearer to itself or the table than the margin; tasks are done."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

import hal
from hal.binding import Binding, load_model
from hal.guard import Guard
from hal.robot import Array
from hal.set_points import SetPoints
from hal.spec import GuardSpec
from tests.hal.hostile import Order, check_set_points, hostile

ROBOTS = ("panda", "ur5e", "so101")
WIDE = hal.Box(lower=(-5.0, -5.0, -5.0), upper=(5.0, 5.0, 5.0))
TOLERANCE = 2.6e-4  # [m] what the guard says may be missing between two poses that it looked at


def arm(name: str, hz: float = 100.0, jerk: float | None = None, box: hal.Box = WIDE) -> hal.RobotSpec:
    """A shipped arm that may go anywhere: only its guard is in the way."""
    spec = hal.load_spec(name)
    joints = tuple(joint.model_copy(update={"jerk": jerk}) for joint in spec.joints)
    return spec.model_copy(update={"driver_hz": hz, "joints": joints, "workspace": box})


class Ruler:
    """Distances in the arm's model, found pair by pair, without what the guard does."""

    def __init__(self, spec: hal.RobotSpec) -> None:
        self.model = load_model(spec)
        self.data = mujoco.MjData(self.model)
        self.binding = Binding.of(spec, self.model)
        assert spec.guard is not None
        self.table = spec.guard.table
        model, body = self.model, self.model.geom_bodyid
        bits = model.geom_contype[:, None] & model.geom_conaffinity[None]
        apart = model.body_weldid[body][:, None] != model.body_weldid[body][None]
        self.pairs = [(a, b) for a, b in np.argwhere((bits | bits.T).astype(bool) & apart) if a < b]
        self.moving = [g for g in range(model.ngeom) if model.body_weldid[body[g]] and model.geom_contype[g]]

    def distance(self, position: Array) -> float:
        self.binding.write_qpos(position, self.data.qpos)
        mujoco.mj_kinematics(self.model, self.data)
        found = [mujoco.mj_geomDistance(self.model, self.data, a, b, 0.1, None) for a, b in self.pairs]
        if self.table is not None:
            found += [self.height(geom) - self.table for geom in self.moving]
        return min(found)

    def height(self, geom: int) -> float:
        """[m] z of the lowest point of a box, capsule or cylinder."""
        kind, size = self.model.geom_type[geom], self.model.geom_size[geom]
        down = np.abs(self.data.geom_xmat[geom].reshape(3, 3)[2])
        z = float(self.data.geom_xpos[geom][2])
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            return z - float(down @ size)
        if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
            return z - float(size[0] + size[1] * down[2])
        assert kind == mujoco.mjtGeom.mjGEOM_CYLINDER
        return z - float(size[1] * down[2] + size[0] * np.sqrt(max(0.0, 1 - down[2] ** 2)))


@pytest.mark.parametrize("jerk", [None, 300.0], ids=["no jerk limit", "jerk 300"])
@pytest.mark.parametrize("name", ROBOTS)
def test_no_sequence_of_commands_brings_parts_nearer_than_the_margin(name: str, jerk: float | None) -> None:
    spec = arm(name, 100.0, jerk)
    guard, ruler, rng = Guard(spec), Ruler(spec), np.random.default_rng(6)
    set_points = SetPoints(spec, guard=guard)
    set_points.reset(spec.home)
    path, words = [], set()
    orders = list(hostile(spec, rng, 10))
    orders += [Order(rng.uniform(spec.lower, spec.upper), int(rng.choice([10, 50]))) for _ in range(16)]
    for order in orders:
        set_points.go(order.goal)
        for _ in range(order.periods):
            path.append(set_points.next().set_point[0])
        if set_points.blocked is not None:
            words.add(set_points.blocked)
    assert words, "nothing was in the way: this test is too tame"
    moving = np.flatnonzero(np.diff(np.array(path), axis=0, prepend=0.0).any(axis=1))
    nearest = min(ruler.distance(path[i]) for i in moving)
    assert nearest >= guard.margin - TOLERANCE
    assert nearest <= guard.margin + 0.02
    check_set_points(spec, spec.home, np.array(path))


INTO = {
    "panda, the table": ("panda", [0.0, 1.8, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0], "link6 would", "the table"),
    "panda, its own shoulder": ("panda", [0.0, 0.0, 1.7, -1.8, 0.0, 0.0, 0.0, 0.0], "hand would", "link1"),
    "so101, the table": ("so101", [0.0, 1.7, 0.0, -1.7, 0.0, 0.0], "gripper would", "the table"),
    "so101, what it stands on": ("so101", [0.4, 1.7, 0.0, 0.0, 0.0, 0.0], "gripper would", "block"),
    "ur5e, its own upper arm": ("ur5e", [0.0, -1.5, 1.8, 0.0, 0.0, 0.0, 0.0], "gripper would", "upper_arm"),
}


@pytest.mark.parametrize("case", INTO)
def test_it_stops_before_a_collision_says_with_what_and_gets_out_again(case: str) -> None:
    name, way, what, where = INTO[case]
    spec = arm(name)
    guard, ruler = Guard(spec), Ruler(spec)
    set_points = SetPoints(spec, guard=guard)
    set_points.reset(spec.home)
    goal = np.clip(spec.home + np.array(way), spec.lower, spec.upper)
    assert ruler.distance(goal) < guard.margin
    nearest, words = 1.0, ""
    for _ in range(25):
        set_points.go(goal)
        for _ in range(set_points.ticks):
            nearest = min(nearest, ruler.distance(set_points.next().set_point[0]))
        words = set_points.blocked or words
    assert what in words
    assert f"from {where}, " in words
    assert "nearer than guard.margin" in words
    assert guard.margin - TOLERANCE <= nearest < guard.margin + 0.05
    for _ in range(25):
        set_points.go(spec.home)
        for _ in range(set_points.ticks):
            nearest = min(nearest, ruler.distance(set_points.next().set_point[0]))
    assert np.array_equal(set_points.set_point, spec.home)
    assert nearest >= guard.margin - TOLERANCE


@pytest.mark.parametrize(("name", "joint"), [("panda", 1), ("so101", 1)])
def test_an_arm_that_is_too_near_gets_out_and_no_nearer(name: str, joint: int) -> None:
    spec = arm(name)
    guard, ruler = Guard(spec), Ruler(spec)
    low = spec.home.copy()
    while ruler.distance(low) > 0.001:  # within the margin of the table
        low[joint] += 1e-3
    set_points = SetPoints(spec, guard=guard)
    set_points.reset(low)
    start = ruler.distance(low)
    down = low.copy()
    down[joint] += 0.1
    set_points.go(down)
    for _ in range(20):
        assert np.array_equal(set_points.next().set_point[0], low)
    assert set_points.blocked is not None
    for _ in range(25):
        set_points.go(spec.home)
        for _ in range(set_points.ticks):
            assert ruler.distance(set_points.next().set_point[0]) >= start - TOLERANCE
    assert np.array_equal(set_points.set_point, spec.home)


def test_a_collision_between_two_free_poses_is_seen() -> None:
    spec = arm("ur5e")
    guard, ruler = Guard(spec), Ruler(spec)
    one = spec.home + np.array([0.5, -0.3, 1.0, 0.0, 0.0, 0.0, 0.0])
    other = spec.home + np.array([-0.3, -0.5, 0.5, 1.2, 0.0, 0.0, 0.0])
    path = one + np.linspace(0, 1, 120)[:, None] * (other - one)
    distances = np.array([ruler.distance(position) for position in path])
    assert min(distances[0], distances[-1]) > 0.02 > guard.margin > distances.min()
    assert guard.blocked(path) is not None
    free = int(np.argmax(distances < guard.margin))
    assert guard.blocked(path[:free]) is None
    assert guard.blocked(path[: free + 1]) is not None
    assert guard.blocked(path[:1]) is None  # nothing to do


@pytest.mark.parametrize("name", ROBOTS)
def test_it_watches_what_mujoco_lets_collide(name: str) -> None:
    spec = arm(name).model_copy(update={"guard": GuardSpec(margin=0.0)})
    guard, model = Guard(spec), load_model(spec)
    data, binding, rng = mujoco.MjData(model), Binding.of(spec, load_model(spec)), np.random.default_rng(0)
    assert guard.unwatched == ()
    overlaps = 0
    for _ in range(500):
        position = rng.uniform(spec.lower, spec.upper)
        binding.write_qpos(position, data.qpos)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        touching = bool(data.ncon) and data.contact.dist.min() < -1e-4
        overlaps += touching
        assert touching == (guard.nearest(position) < -1e-4)
    assert 5 < overlaps < 495


TINY = """
<mujoco><compiler angle="radian"/><worldbody>
  <geom name="floor" type="plane" size="1 1 1" pos="0 0 -0.5"/>
  <body name="foot"><geom type="sphere" size="0.05"/>
    <body name="upper"><joint name="a" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 0.3" size="0.02"/>
      <body name="lower" pos="0 0 0.3"><joint name="b" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02"/>
        <body name="tool" pos="0.3 0 0"><geom type="sphere" size="0.03"/>
          <body name="left" pos="0.05 0.01 0"><joint name="c" type="slide" axis="0 1 0" range="0 0.04"/>
            <geom type="box" size="0.03 0.005 0.01"/></body>
          <body name="right" pos="0.05 -0.01 0"><joint name="d" type="slide" axis="0 -1 0" range="0 0.04"/>
            <geom type="box" size="0.03 0.005 0.01"/></body>
  </body></body></body></body></worldbody>
  <contact><exclude body1="foot" body2="right"/></contact>
  <actuator><position name="a" joint="a" kp="9"/><position name="b" joint="b" kp="9"/>
    <position name="c" joint="c" kp="9" ctrlrange="0 0.04"/>
    <position name="d" joint="d" kp="9" ctrlrange="0 0.04"/></actuator>
</mujoco>"""


def tiny(tmp_path: Path, guard: GuardSpec | None) -> hal.RobotSpec:
    (tmp_path / "tiny.xml").write_text(TINY)
    limits = {"lower": -3.0, "upper": 3.0, "velocity": 2.0, "acceleration": 10.0}
    content = {
        "name": "tiny",
        "maker": "us",
        "joints": tuple({"name": name, "effort": 1.0, "home": 0.0, **limits} for name in "ab"),
        "gripper": {"name": "g", "force": 1.0, "home": 0.0, **limits, "lower": 0.0, "upper": 0.08},
        "control_hz": 10.0,
        "watchdog_s": 0.5,
        "workspace": {"lower": (-1.0, -1.0, -1.0), "upper": (1.0, 1.0, 1.0)},
        "guard": None if guard is None else guard.model_dump(),
        "mujoco": {
            "mjcf": str(tmp_path / "tiny.xml"),
            "joints": ("a", "b"),
            "actuators": ("a", "b"),
            "gripper_joints": ("c", "d"),
            "gripper_actuators": ("c", "d"),
            "gripper_ctrl_scale": 0.5,
            "tcp_body": "tool",
        },
    }
    return hal.RobotSpec.model_validate(content)


def test_what_is_watched(tmp_path: Path) -> None:
    guard = Guard(tiny(tmp_path, GuardSpec()))
    body = guard._model.geom_bodyid
    names = {tuple(guard._model.body(int(body[geom])).name for geom in pair) for pair in guard._pairs}
    # Not the floor and the foot, which stand still, nor foot and right (excluded), nor left and right, nor neighbours.
    assert names == {
        *(("world", part) for part in ("upper", "lower", "tool", "left", "right")),
        *(("foot", part) for part in ("lower", "tool", "left")),
        *(("upper", part) for part in ("left", "right")),
    }
    assert guard.unwatched == ("foot and upper",)  # the one is around the end of the other


def test_without_self_collision_only_the_table_is_in_the_way(tmp_path: Path) -> None:
    spec = tiny(tmp_path, GuardSpec(self_collision=False, table=-0.1, margin=0.0))
    guard = Guard(spec)
    assert guard.nearest(np.array([0.0, 2.4, 0.0])) > 0.05  # folded on to itself
    assert guard.nearest(np.array([2.0, -1.0, 0.0])) < -0.3  # far below the table
    with pytest.raises(hal.SpecError, match=r"guard.table: at the home pose, \w+ would be -\d.*from the table"):
        Guard(tiny(tmp_path, GuardSpec(table=0.05)))
    with pytest.raises(hal.SpecError, match="has no block 'guard'"):
        Guard(tiny(tmp_path, None))


EXPERTS = [(robot, task) for robot in ROBOTS for task in ("lift", "push", "pick_place", "peg")]
QUICK = ("ur5e", "push")  # whose tips get nearest to the table


@pytest.mark.parametrize(
    ("name", "task"), [pytest.param(*case, marks=() if case == QUICK else pytest.mark.slow) for case in EXPERTS]
)
def test_the_shipped_guard_lets_the_experts_do_their_tasks(name: str, task: str) -> None:
    from envs.batch import BatchArmEnv
    from envs.expert import Expert

    spec, n = hal.load_spec(name), 2 if (name, task) == QUICK else 8
    env = BatchArmEnv(spec, task, n, seed=3)
    expert, everyone = Expert(spec, env.task), np.arange(n)
    env.reset(seed=3)
    guard = Guard(spec)
    arms = [SetPoints(spec, guard=guard) for _ in everyone]
    goals = env.control.set_point(everyone)
    for set_points, goal in zip(arms, goals, strict=True):
        set_points.reset(goal)
    done = 0
    for _ in range(60 if (name, task) == QUICK else 150):
        _, _, success, overtime, _ = env.step(expert.act(env.scene_state()))
        goals = env.control.set_point(everyone)
        for i, set_points in enumerate(arms):
            if success[i] or overtime[i]:
                done += success[i]
                set_points.reset(goals[i])
                continue
            set_points.go(goals[i])
            for _ in range(set_points.ticks):
                set_points.next()
            assert set_points.blocked is None
    env.close()
    assert done >= n
