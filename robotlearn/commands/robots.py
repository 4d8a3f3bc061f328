"""`robotlearn robots`: what robots there are, how they are, what is attached, what comes and goes."""

from pathlib import Path
from typing import Annotated

import typer


def robots(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROBOT|CONFIG]",
            help="Check and show this spec (name or YAML file), or this config's robots.",
            show_default=False,
        ),
    ] = None,
    scan: Annotated[
        bool,
        typer.Option("--scan", help="What is attached: serial arms, cameras, ROS 2 topics, emulators, simulators."),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and tell what comes and goes, until Ctrl-C.")] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a station's file of what is attached, to edit and keep.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --write replace a file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead; with --watch one per change.")
    ] = False,
) -> None:
    """The robots: those that run here and the shipped models; one of its own; a config's; or what is attached.

    Above them, each e-stop that is latched on this machine.
    """
    from robotlearn.robots.scan import show_scan, watch_scan, write_scan
    from robotlearn.robots.table import show_robots

    looks = scan or watch or write is not None
    if what is not None and (looks or as_json):
        raise typer.BadParameter(f"{what!r} can't be told of what is attached: leave it out, or the options")
    if force and write is None:
        raise typer.BadParameter("--force goes with --write FILE")
    if watch and write is not None:
        raise typer.BadParameter("--write looks once, --watch goes on: use one of the two")
    if write is not None:
        write_scan(write, force=force, as_json=as_json)
    elif watch:
        from robotlearn.processes import stop_on_signals

        watch_scan(stop_on_signals(), as_json=as_json)
    elif scan:
        show_scan(as_json=as_json)
    elif as_json:
        from robotlearn.robots.table import robots_json

        typer.echo(robots_json())
    else:
        show_robots(what)
