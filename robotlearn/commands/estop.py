"""`robotlearn estop`: the latching e-stop of robots on this machine, pressed, shown and released."""

from typing import Annotated

import typer


def estop(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A robot of this machine; without it: every one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All robots of this machine, later ones too.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Release it; needs NAME or --all.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Press nothing; show what is latched (for NAME). Status 1: something is.")
    ] = False,
    why: Annotated[str, typer.Option("--why", help="What others read as the reason.")] = "",
) -> None:
    """Stop a robot, or all, at its next tick, and keep it stopped, beyond every restart, until --clear.

    Exit status 1: not (yet) as asked for, and the line says why: a robot that runs didn't stop within 2 s, none of that
    name runs (it is latched all the same), another latch still holds.
    """
    import getpass

    from robotlearn.errors import ConfigError
    from robotlearn.robots.pressing import press

    if name is not None and every:
        raise ConfigError("estop: either a NAME or --all, not both")
    if status and (clear or why):
        raise ConfigError("estop --status presses and releases nothing: leave out --clear and --why")
    if clear and name is None and not every:
        raise ConfigError("estop --clear releases one robot, by its NAME, or --all: say which")
    if name is not None and (not name or "/" in name or name.startswith((".", "@"))):
        raise ConfigError(f"estop: {name!r} is no robot's name")
    if status:
        _status(name)
    elif clear:
        _clear(name)
    else:
        lines, stopped = press(name, f"{getpass.getuser()} at the keyboard", why)
        for line in lines:
            typer.echo(line)
        if not stopped:
            raise typer.Exit(1)


def _status(name: str | None) -> None:
    from robotlearn.robots.latches import latches

    found = latches(name)
    for one in found:
        typer.echo(one.line())
    if found:
        raise typer.Exit(1)
    typer.echo("no e-stop is latched" if name is None else f"no e-stop is latched for {name}")


def _clear(name: str | None) -> None:
    from hal.estop import ALL, EStop
    from robotlearn.robots.latches import latches

    pressed, what = EStop(name or ALL).clear(), name or "all robots"
    typer.echo(f"e-stop released: {what}" if pressed else f"the e-stop of {what} was not pressed")
    others = latches(name)
    for one in others:
        typer.echo(f"still pressed: {one.line()}", err=True)
    if others:
        raise typer.Exit(1)
