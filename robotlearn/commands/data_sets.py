"""`robotlearn data export|import|import-bag|labels`: episodes as datasets of LeRobot, and back; labels beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from robotlearn.commands.table import print_table, printable

Progress = Callable[[int, int], object]
WhereArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|STORE|RECORDING", help="A run folder, one of stored segments, or what `robotlearn record` made."
    ),
]
RobotOption = Annotated[
    str, typer.Option("--robot", metavar="SPEC", help="What arm this is: a spec's name or YAML file.")
]
OutOption = Annotated[
    Path, typer.Option(help="The folder of the demonstrations; one that has some of this robot already gets more.")
]
ImageSizeOption = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="HEIGHT WIDTH", help="Scale images to it; by default they stay.", show_default=False),
]
_SILENCE_S = 1.0


def export(
    where: WhereArgument,
    out: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|repo:USER/NAME", help="Where to: a folder, or where LeRobot keeps that repository here."
        ),
    ],
    only: Annotated[
        Literal["all", "successes", "failures", "interventions"],
        typer.Option(help="Which whole episodes; interventions: those in which a person acted."),
    ] = "all",
    robot: Annotated[
        str | None,
        typer.Option(help="Only of this robot or model of robot; or a spec's YAML file.", show_default=False),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Only those in whose task these words are.", show_default=False)
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Images as videos: a fraction of the bytes, but not the same pixels.")
    ] = False,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", metavar="NAME[@VERSION]", help="Labels as a feature label.NAME; may come repeatedly."),
    ] = None,
) -> None:
    """Stored episodes as a LeRobotDataset (v3); a learner may go on meanwhile.

    What was at --out is replaced once all is written; killed before, it stays. `data import` makes of it what it was
    made of. LeRobot's trainers imitate whatever a dataset holds: --only successes for those.
    """
    from robotlearn.datasets.export import Wanted
    from robotlearn.datasets.export import export as write
    from robotlearn.datasets.writing import Interrupted, check_target, interruptible

    check_target(out, "--out")
    wanted = Wanted(only, robot, task, tuple(labels or ()), video)
    typer.echo("loading LeRobot takes up to a minute", err=True)
    try:
        with interruptible(), _bar("exporting") as progress:
            done = write(where, out, wanted, progress=progress)
    except Interrupted as interrupted:
        typer.echo(f"{out} isn't written; {where} is as it was", err=True)
        raise typer.Exit(128 + interrupted.args[0]) from None
    typer.echo(f"{done.folder}: a LeRobotDataset of {done.episodes} episodes, {done.frames} frames")
    if done.failures:
        typer.echo(f"{done.failures} of them failed: what imitates all of it learns that, too (--only successes)")
    if done.gone:
        typer.echo(f"{done.gone} episodes could not be read any more, and are not in it", err=True)
        raise typer.Exit(1)


def import_(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A LeRobotDataset (v3): a folder, or USER/NAME in LeRobot's cache."),
    ],
    out: OutOption,
    robot: RobotOption,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FROM=TO",
            help="A key of the dataset, and what it is here, such as observation.images.front; FROM= leaves it out.",
        ),
    ] = None,
    actions: Annotated[
        Literal["deltas", "absolute"] | None,
        typer.Option(
            help="What the actions are: joint deltas from the last set-point, as ours, or absolute set-points, as most "
            "others'. By default deltas where the dataset is of `data export`, else absolute.",
            show_default=False,
        ),
    ] = None,
    unit: Annotated[
        Literal["si", "deg", "lerobot"],
        typer.Option(help="Of state and actions: rad and m, degrees, or as the spec's block lerobot says."),
    ] = "si",
    every: Annotated[int, typer.Option(min=1, help="Frames that make one step.")] = 1,
    image_size: ImageSizeOption = None,
) -> None:
    """A LeRobotDataset as demonstrations, for demonstrations.path=OUT. Started again it goes on where it was.

    One of `data export` becomes what it was made of. Of another one every episode is a success, with reward 1 at its
    end, unless next.success, next.done or next.reward say otherwise.
    """
    from hal.spec import load_spec
    from robotlearn.datasets.conversion import Conversion
    from robotlearn.datasets.importing import import_dataset

    how = Conversion(_pairs(rename, "--rename", "FROM=TO"), actions, unit, every, image_size)
    with _bar("importing") as progress:
        done = import_dataset(dataset, out, load_spec(robot), how, progress=progress)
    what = f"{done.added} episodes came in, {done.successes} of them successes"
    there = f"; {done.there} were there already" if done.there else ""
    typer.echo(f"{out}: {what}{there}")
    if done.left_out:
        typer.echo(f"not taken: {', '.join(map(printable, done.left_out))} (--rename FROM=TO takes one)")


def import_bag(
    bag: Annotated[
        Path, typer.Argument(metavar="BAG", help="A folder of `ros2 bag record`, or an .mcap or .db3 file.")
    ],
    out: OutOption,
    robot: RobotOption,
    joint_states: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="By default /joint_states.", show_default=False)
    ] = None,
    commands: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC",
            help="JointTrajectory, Float64MultiArray (in the spec's order) or JointState; without one an action leads "
            "to where the joints are measured next.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="CAMERA=TOPIC", help="Images of a camera of the spec.")
    ] = None,
    task: Annotated[str, typer.Option(help="The instruction of its episodes.")] = "",
    hz: Annotated[
        float | None,
        typer.Option(min=0.1, help="Steps a second; by default the robot's control_hz.", show_default=False),
    ] = None,
    episode_gap: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="A longer silence of any of these topics ends an episode; by default a bag is one.",
            show_default=False,
        ),
    ] = None,
    image_size: ImageSizeOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="key=value",
            help="As for the driver ros2: unit=deg, joints={elbow: {joint: NAME, scale: -1}}, gripper={joint: NAME}.",
        ),
    ] = None,
) -> None:
    """A ROS 2 bag as demonstrations, sampled at the robot's rate; ROS is not needed. Started again it goes on.

    At each tick the latest joint states and images; actions are joint deltas from one commanded set-point to the next.
    """
    from hal.spec import load_spec
    from robotlearn.config.load import driver_options
    from robotlearn.datasets.bag_import import BagOptions
    from robotlearn.datasets.bag_import import import_bag as take

    given = driver_options(option, such_as="unit=deg")
    images = _pairs(image, "--image", "CAMERA=TOPIC")
    how = BagOptions(joint_states, commands, images, task, hz, episode_gap, image_size, given)
    with _bar("importing") as progress:
        done = take(bag, out, load_spec(robot), how, progress=progress)
    there = f"; {done.there} were there already" if done.there else ""
    typer.echo(f"{out}: {done.added} episodes came in{there}; {done.steps} steps, all as successes")
    if done.silence_s > _SILENCE_S:
        typer.echo(f"within an episode a topic was silent for {done.silence_s:.1f} s: --episode-gap SECONDS cuts there")


def labels(
    where: WhereArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """The labels of stored episodes and steps, all versions; `data export --labels NAME` takes them along."""
    from robotlearn.datasets import labels as labelling
    from robotlearn.datasets.stored import store_folder

    folder = store_folder(where)
    rows = []
    for one in labelling.versions(folder):
        read = labelling.read(folder, one.name, one.version)
        rows.append(
            {"name": one.name, "version": one.version, "labels": len(read), "episodes": read.episodes,
             "numbers": read.width, "file": str(one.path)}
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"labels": rows}))
    elif rows:
        columns = tuple(rows[0])
        print_table(columns, [[str(row[column]) for column in columns] for row in rows], right=columns[1:-1])
    else:
        typer.echo(f"{folder} has no labels")


def _pairs(given: list[str] | None, flag: str, form: str) -> dict[str, str]:
    from robotlearn.datasets.errors import DatasetError

    found = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise DatasetError(f"{flag} {text}: expected {form}")
        found[key] = value
    return found


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar on standard error, of episodes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
