"""Robots as resources: what a model is (`RobotSpec`), how it is read and commanded (`Robot`), what keeps it safe.

    spec = hal.load_spec("panda")
    limiter = hal.SafetyLimiter(spec)
    with hal.make_robot(spec) as robot:
        limiter.reset(robot.read().position[None])
        robot.write(hal.Command(limiter.limit(target[None]).set_point[0]))

Imports no torch and nothing of the packages above it.
"""

from hal.check import check_robot
from hal.data import data_path
from hal.errors import DriverError, HalError, RobotCheckError, RobotFault, SafetyError, SpecError
from hal.kinematics import Chain
from hal.read_only import ReadOnly
from hal.realtime import RealTime
from hal.registry import make_robot, register_driver
from hal.robot import Command, Factors, Health, Reading, Renderable, Robot, Scene, Steppable, Tunable
from hal.safety import Limited, SafetyLimiter
from hal.spec import Box, CameraSpec, GripperSpec, JointSpec, MujocoModel, Rectangle, RobotSpec, load_spec

__all__ = [
    "Box",
    "CameraSpec",
    "Chain",
    "Command",
    "DriverError",
    "Factors",
    "GripperSpec",
    "HalError",
    "Health",
    "JointSpec",
    "Limited",
    "MujocoModel",
    "ReadOnly",
    "Reading",
    "RealTime",
    "Rectangle",
    "Renderable",
    "Robot",
    "RobotCheckError",
    "RobotFault",
    "RobotSpec",
    "SafetyError",
    "SafetyLimiter",
    "Scene",
    "SpecError",
    "Steppable",
    "Tunable",
    "check_robot",
    "data_path",
    "load_spec",
    "make_robot",
    "register_driver",
]
