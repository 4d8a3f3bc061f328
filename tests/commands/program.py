"""The command line with the commands under test, as a program: `python program.py ARGUMENTS`."""

from __future__ import annotations

from robotlearn import cli
from robotlearn.commands.robots import robots
from robotlearn.commands.station import station

if __name__ == "__main__":
    cli.app.command("robots")(robots)
    cli.app.add_typer(station, name="station")
    cli.main()
