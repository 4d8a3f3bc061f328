"""`robotlearn record`."""

from pathlib import Path
from typing import Annotated

import typer

from robotlearn.people.options import Options, with_options


@with_options
def record(
    out: Annotated[Path, typer.Option(help="The folder of the demonstrations; one that has some already gets more.")],
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="The run that they are for, a YAML file or a shipped config: what it observes is recorded.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Overrides of the config.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Successes that the folder is to hold.")] = 10,
    robot: Annotated[
        str | None,
        typer.Option(help="A spec's name or YAML file; of a config, which of its robots.", show_default=False),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="A task's name; of a config, which of its tasks.", show_default=False)
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|repo:USER/NAME",
            help="Write all successes of --out as a LeRobotDataset, too: into a folder, or where LeRobot keeps that "
            "repository on this machine.",
            show_default=False,
        ),
    ] = None,
    reset: Annotated[
        str,
        typer.Option(
            metavar="pose|key|time:SECONDS",
            help="What an episode waits for when the arm is back at its start: nothing, a key, a time.",
        ),
    ] = "pose",
    longest: Annotated[float, typer.Option(min=0.1, help="Seconds after which an episode has failed.")] = 60.0,
    *,
    options: Options,
) -> None:
    """A person demonstrates a task, into a log and a LeRobotDataset. Space is the e-stop.

    An episode begins with the first motion and ends with y (success), n (failure) or Backspace (discard, once more), or
    when the task itself sees that it is done. The status line tells how far the tool is from the task's objects, and
    which way; --view shows them. A killed recording loses the running episode; started anew it goes on.
    """
    from robotlearn.people import record

    record.record(
        config,
        overrides or [],
        options,
        robot=robot,
        task=task,
        episodes=episodes,
        out=out,
        dataset=dataset,
        reset=reset,
        longest=longest,
    )
