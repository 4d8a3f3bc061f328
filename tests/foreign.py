"""A Panda's MJCF as third parties write them: meshes in a folder, general actuators, keyframe, floor, no TCP."""

from __future__ import annotations

from pathlib import Path

SERVO = """<general name="{p}actuator{n}" joint="{p}joint{n}" ctrlrange="{low} {high}"
  gainprm="2000" biasprm="0 -2000 -200"/>"""
# Two fingers on one tendon, driven by 0 .. 255 for 0 .. 0.04 m each, as in MuJoCo Menagerie's Panda.
TENDON = """
<body name="{p}left_finger" pos="0 0 0.0584">{i}
  <joint name="{p}finger_joint1" class="{p}finger"/><geom type="box" size="0.01 0.005 0.02" pos="0 0.005 0.04"/></body>
<body name="{p}right_finger" pos="0 0 0.0584" quat="0 0 0 1">{i}
  <joint name="{p}finger_joint2" class="{p}finger"/><geom type="box" size="0.01 0.005 0.02" pos="0 0.005 0.04"/></body>
---
<tendon><fixed name="{p}split"><joint joint="{p}finger_joint1" coef="0.5"/><joint joint="{p}finger_joint2" coef="0.5"/>
</fixed></tendon>
<equality><joint joint1="{p}finger_joint1" joint2="{p}finger_joint2" solref="0.005 1"/></equality>
<actuator><general name="{p}actuator8" tendon="{p}split" biastype="affine" ctrlrange="0 255" forcerange="-100 100"
  gainprm="0.01568627451" biasprm="0 -100 -10"/></actuator>
"""
# Levers that close as their joints grow, with tips coupled to them, as in Menagerie's 2F-85.
LEVERS = """
<body name="{p}right_driver" pos="0 0.045 0.055">{i}
  <joint name="{p}right_driver_joint" axis="1 0 0" range="0 0.8" armature="0.005" damping="0.1"/>
  <body pos="0 0 0.05">{i}
  <joint name="{p}right_tip" axis="1 0 0"/><geom type="box" size="0.01 0.005 0.02"/></body></body>
<body name="{p}left_driver" pos="0 -0.045 0.055" quat="0 0 0 1">{i}
  <joint name="{p}left_driver_joint" axis="1 0 0" range="0 0.8" armature="0.005" damping="0.1"/>
  <body pos="0 0 0.05">{i}
  <joint name="{p}left_tip" axis="1 0 0"/><geom type="box" size="0.01 0.005 0.02"/></body></body>
---
<tendon><fixed name="{p}split"><joint joint="{p}right_driver_joint" coef="0.5"/>
  <joint joint="{p}left_driver_joint" coef="0.5"/></fixed></tendon>
<equality><joint joint1="{p}right_driver_joint" joint2="{p}left_driver_joint" solref="0.005 1"/>
  <joint joint1="{p}right_tip" joint2="{p}right_driver_joint" polycoef="0 -1 0 0 0" solref="0.005 1"/>
  <joint joint1="{p}left_tip" joint2="{p}left_driver_joint" polycoef="0 -1 0 0 0" solref="0.005 1"/></equality>
<actuator><general name="{p}fingers_actuator" tendon="{p}split" biastype="affine" ctrlrange="0 255" forcerange="-5 5"
  gainprm="0.3137255" biasprm="0 -100 -10"/></actuator>
"""
# Two fingers with a motor each, one of which counts downwards, as in robosuite's Panda hand.
OPPOSED = """
<body name="{p}leftfinger" pos="0 0 0.0584">{i}
  <joint name="{p}finger_joint1" type="slide" axis="0 1 0" range="0 0.04" damping="100"/>
  <geom type="box" size="0.01 0.005 0.02" pos="0 0.005 0.04"/></body>
<body name="{p}rightfinger" pos="0 0 0.0584">{i}
  <joint name="{p}finger_joint2" type="slide" axis="0 1 0" range="-0.04 0" damping="100"/>
  <geom type="box" size="0.01 0.005 0.02" pos="0 -0.005 0.04"/></body>
---
<actuator><position name="{p}gripper_finger_joint1" joint="{p}finger_joint1" ctrlrange="0 0.04" kp="1000"/>
  <position name="{p}gripper_finger_joint2" joint="{p}finger_joint2" ctrlrange="-0.04 0" kp="1000"/></actuator>
"""
_LIMITS = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
_PLACES = (
    'pos="0 0 0.333"',
    'quat="1 -1 0 0"',
    'pos="0 -0.316 0" quat="1 1 0 0"',
    'pos="0.0825 0 0" quat="1 1 0 0"',
    'pos="-0.0825 0.384 0" quat="1 -1 0 0"',
    'quat="1 1 0 0"',
    'pos="0.088 0 0" quat="1 1 0 0"',
)
_CUBE = "".join(f"v {x} {y} {z}\n" for x in (0, 0.05) for y in (0, 0.05) for z in (0, 0.05)) + "".join(
    f"f {face}\n" for face in ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
)
_SCENE = """<mujoco model="panda scene"><include file="panda.xml"/><statistic center="0.3 0 0.4" extent="1"/>
<visual><global azimuth="120"/></visual>
<asset><texture type="skybox" builtin="gradient" rgb1="0.3 0.5 0.7" rgb2="0 0 0" width="64" height="64"/>
<texture type="2d" name="groundplane" builtin="checker" rgb1="0.2 0.3 0.4" rgb2="0.1 0.2 0.3" width="64" height="64"/>
<material name="groundplane" texture="groundplane" texrepeat="5 5"/></asset>
<worldbody><light pos="0 0 1.5" dir="0 0 -1" directional="true"/>
<geom name="floor" size="0 0 0.05" type="plane" material="groundplane"/></worldbody></mujoco>"""


def write_mjcf(folder: Path, gripper: str = TENDON, prefix: str = "", servo: str = SERVO) -> Path:
    """Writes panda.xml, which scene.xml includes, and assets/; gives panda.xml. `servo`: an actuator of the arm."""
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "link.obj").write_text(_CUBE)
    fingers, coupling = gripper.format(p=prefix, i=_SMALL).split("---")
    body = f'<body name="{prefix}hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834">{_INERTIAL}{fingers}</body>'
    actuators = []
    for i in reversed(range(7)):
        low, high = _LIMITS[i]
        body = (
            f'<body name="{prefix}link{i + 1}" {_PLACES[i]}>{_INERTIAL}<joint name="{prefix}joint{i + 1}" '
            f'range="{low} {high}"/><geom class="{prefix}visual" mesh="link"/>{body}</body>'
        )
        actuators.insert(0, servo.format(p=prefix, n=i + 1, low=low, high=high))
    (folder / "panda.xml").write_text(
        f"""<mujoco model="panda"><compiler angle="radian" meshdir="assets" autolimits="true"/>
<option integrator="implicitfast"/>
<default><default class="{prefix}panda"><joint armature="0.1" damping="1" axis="0 0 1"/>
<general dyntype="none" biastype="affine" forcerange="-87 87"/>
<default class="{prefix}finger"><joint axis="0 1 0" type="slide" range="0 0.04"/></default>
<default class="{prefix}visual"><geom type="mesh" contype="0" conaffinity="0" group="2"/></default></default></default>
<asset><mesh name="link" file="link.obj"/></asset>
<worldbody><light name="top" pos="0 0 2" mode="trackcom"/><body name="{prefix}link0" childclass="{prefix}panda">
{_INERTIAL}{body}</body></worldbody>
<actuator>{"".join(actuators).replace("<general ", f'<general class="{prefix}panda" ')}</actuator>{coupling}
<keyframe><key name="home" qpos="{"0 " * (11 if gripper is LEVERS else 9)}"/></keyframe></mujoco>"""
    )
    (folder / "scene.xml").write_text(_SCENE)
    return folder / "panda.xml"


_INERTIAL = '<inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>'
_SMALL = '<inertial pos="0 0 0" mass="0.03" diaginertia="1e-5 1e-5 1e-5"/>'
