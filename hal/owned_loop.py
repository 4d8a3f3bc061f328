"""`owned_loop`: the control loop of a robot that this process owns."""

from collections.abc import Callable

from hal.control_loop import ControlLoop
from hal.estop import EStop
from hal.estop_input import Contact
from hal.lease import Leases
from hal.ownership import Ownership
from hal.realtime import RealTime
from hal.robot import Robot, Steppable


def owned_loop(
    robot: Robot, owned: Ownership, *, button: Contact | None = None, also: Callable[[], None] = lambda: None
) -> ControlLoop:
    """With the e-stop, which `button` presses too, and the leases of the robot's runtime folder.

    Each tick beats for `owned`, and does `also`. A robot that can be stepped runs by the wall clock. Connects nothing.
    """

    def beat() -> None:
        owned.beat()
        also()

    if robot.capability(Steppable) is not None:  # type: ignore[type-abstract]
        robot = RealTime(robot)
    return ControlLoop(robot, estop=EStop(owned.name), button=button, leases=Leases(owned.folder / "token"), beat=beat)
