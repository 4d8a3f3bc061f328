"""`robotlearn station`: the robots of one workstation, from one file."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

station = typer.Typer(
    help="The robots of this workstation, from one file.", no_args_is_help=True, rich_markup_mode=None
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="STATION", help="A station's file; `robotlearn robots --scan --write FILE` makes one.")
]
LearnerOption = Annotated[
    str | None,
    typer.Option(
        "--learner", help="Where the learner listens: tcp://HOST:PORT; goes before the file's.", show_default=False
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="The run's config, a YAML file or a shipped one's name; goes before the file's.",
                 show_default=False),
]  # fmt: skip
OnlyOption = Annotated[
    str | None, typer.Option("--only", metavar="NAME", help="This robot of the file alone.", show_default=False)
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", help="A ROS 2 namespace: before each robot's name and topics.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


@station.command()
def up(
    file: FileArgument,
    learner: LearnerOption = None,
    config: ConfigOption = None,
    only: OnlyOption = None,
    namespace: NamespaceOption = "",
    logs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what they print; by default ~/.local/state/robotlearn/logs (XDG_STATE_HOME).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start an edge per robot (arm process, policy server, uplink), and again when it ends by itself, until Ctrl-C.

    The exit status is 2 when one could not work for a fault that its user must mend; the others went on.
    """
    from robotlearn.processes import stop_on_signals
    from robotlearn.state_folder import state_folder
    from robotlearn.station.file import StationFile
    from robotlearn.station.up import StationUp

    stop = stop_on_signals()
    processes = StationFile(file).processes(learner=learner, config=config, only=only, namespace=namespace)
    raise typer.Exit(StationUp(processes, logs or state_folder() / "logs").run(stop))


@station.command()
def check(file: FileArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Whether the file is valid, its robots and its e-stop are attached, and they can learn what the run's config says.

    It opens no port and connects to none: nothing moves. The exit status is 0 when all is well, 1 when something is not
    attached, 2 when something is wrong: an option, a calibration that is missing, a robot that the run has not.
    """
    from dataclasses import asdict

    from hal.discovery import scan
    from robotlearn.robots.states import robot_states, wide_console
    from robotlearn.station.check import check_estop, check_robots, left_over, show_checked
    from robotlearn.station.file import StationFile

    read = StationFile(file)
    if config is not None or read.config.config is not None:
        read.check_learnable(config)
    robots = read.robots()
    found, lacking = scan()
    checked = check_robots(robots, found, robot_states())
    estop = [] if read.config.estop is None else [check_estop(read.config.estop)]
    more = left_over(robots, found)
    if as_json:
        content = {"robots": checked, "estop": estop, "more": more}
        lists = {key: [asdict(one) for one in value] for key, value in content.items()}  # type: ignore[call-overload]
        typer.echo(json.dumps({**lists, "lacking": lacking}))
    else:
        show_checked([*checked, *estop], wide_console())
        for one in more:
            typer.echo(f"attached, and no robot of {file}: {one.where} ({one.what})")
        for what, why in lacking.items():
            typer.echo(f"{what} can't be looked for: {why}", err=True)
    bad = {one.state for one in [*checked, *estop]}
    raise typer.Exit(2 if "wrong" in bad else 1 if "absent" in bad else 0)


@station.command()
def processes(
    file: FileArgument,
    learner: LearnerOption = None,
    config: ConfigOption = None,
    only: OnlyOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """What `station up` starts: a command per process, which may as well be started by hand or by another supervisor.

    Above each, as a comment, the name of its robot.
    """
    import shlex

    from robotlearn.station.file import StationFile

    listed = StationFile(file).processes(learner=learner, config=config, only=only, namespace=namespace)
    python = [sys.executable, "-m", "robotlearn"]
    if as_json:
        told = {one.name: {"robot": one.robot, "command": [*python, *one.arguments]} for one in listed}
        typer.echo(json.dumps(told))
    else:
        for one in listed:
            typer.echo(f"# {one.name}\n{shlex.join([*python, *one.arguments])}")
