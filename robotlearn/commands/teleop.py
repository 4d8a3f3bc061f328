"""`robotlearn teleop`."""

from typing import Annotated

import typer

from robotlearn.people.options import Options, with_options


@with_options
def teleop(
    robot: Annotated[str, typer.Argument(metavar="ROBOT", help="A spec's name or YAML file.")], options: Options
) -> None:
    """A person drives an arm, real or simulated, until q or Ctrl-C. Space is the e-stop."""
    from robotlearn.people import teleop

    teleop.teleop(robot, options)
