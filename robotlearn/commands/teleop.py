"""`robotlearn teleop`."""

from typing import Annotated

import typer

RobotArgument = Annotated[str, typer.Argument(metavar="ROBOT", help="A spec's name or YAML file.")]
DriverOption = Annotated[str | None, typer.Option(help="What talks to it; by default the spec's.", show_default=False)]
OptionOption = Annotated[
    list[str] | None, typer.Option("--option", metavar="key=value", help="The driver's own, such as port=/dev/ttyACM0.")
]
DeviceOption = Annotated[str, typer.Option(metavar="keyboard|gamepad|leader", help="What the person holds.")]
DeviceOptions = Annotated[
    list[str] | None,
    typer.Option("--device-option", metavar="key=value", help="The device's own, such as path=/dev/input/js1."),
]
LeaderOption = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="LeRobot's type of the leader arm, such as so101_leader; `emulated` is an arm of `robotlearn emulate`, "
        "with --leader-option name=NAME.",
        show_default=False,
    ),
]
LeaderOptions = Annotated[
    list[str] | None,
    typer.Option("--leader-option", metavar="key=value", help="LeRobot's own of that type, such as port and id."),
]
SpeedOption = Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the robot's speeds.")]
NameOption = Annotated[
    str | None,
    typer.Option(help="The robot's, by which its e-stop is known; by default the spec's.", show_default=False),
]


def teleop(
    robot: RobotArgument,
    driver: DriverOption = None,
    option: OptionOption = None,
    device: DeviceOption = "keyboard",
    device_option: DeviceOptions = None,
    leader: LeaderOption = None,
    leader_option: LeaderOptions = None,
    speed: SpeedOption = 0.25,
    name: NameOption = None,
    view: Annotated[bool, typer.Option("--view", help="Show a simulated arm in MuJoCo's window.")] = False,
) -> None:
    """A person drives an arm, real or simulated, until q or Ctrl-C. Space is the e-stop."""
    from robotlearn.people.drive import teleop as drive

    drive(
        robot,
        driver=driver,
        options=option,
        device=device,
        device_options=device_option,
        leader=leader,
        leader_options=leader_option,
        speed=speed,
        name=name,
        view=view,
    )
