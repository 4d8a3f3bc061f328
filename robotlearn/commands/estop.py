"""`robotlearn estop`: the latching e-stop of robots on this machine, pressed and released."""

from typing import Annotated

import typer


def estop(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A robot of this machine; without it: every one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All robots of this machine, later ones too.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Release it; needs NAME or --all.")] = False,
    why: Annotated[str, typer.Option("--why", help="What others read as the reason.")] = "",
) -> None:
    """Stop a robot, or all, at its next tick, and keep it stopped, beyond every restart, until --clear.

    Exit status 1: not (yet) as asked for, and the line says why.
    """
    import getpass

    from hal.errors import nearest
    from hal.estop import ALL, EStop
    from hal.runtime import runtime_folder
    from robotlearn.errors import ConfigError

    if name is not None and every:
        raise ConfigError("estop: either a NAME or --all, not both")
    if clear and name is None and not every:
        raise ConfigError("estop --clear releases one robot, by its NAME, or --all: say which")
    if name is not None and (not name or "/" in name or name.startswith((".", "@"))):
        raise ConfigError(f"estop: {name!r} is no robot's name")
    known = sorted(folder.name for folder in runtime_folder("robots").iterdir())
    latch = EStop(ALL if name is None else name)
    what = "all robots" if name is None else name
    if not clear:
        latch.press(f"{getpass.getuser()} at the keyboard", why)
        typer.echo(f"e-stop pressed: {what}. Release it with: robotlearn estop --clear {name or '--all'}")
        if name is not None and name not in known:
            typer.echo(f"no robot {name!r} has run on this machine yet: {nearest(name, known)}", err=True)
            raise typer.Exit(1)
        return
    pressed = latch.clear()
    typer.echo(f"e-stop released: {what}" if pressed else f"the e-stop of {what} was not pressed")
    others = [EStop(ALL)] if name is not None else [EStop(one) for one in known]
    for one in others:
        if one.pressed:
            which, flag = ("all robots", "--all") if one.name == ALL else (one.name, one.name)
            typer.echo(f"still pressed: that of {which}, {one.reason()}; robotlearn estop --clear {flag}", err=True)
    if any(one.pressed for one in others):
        raise typer.Exit(1)
