"""`robotlearn data ls|stats|verify`: what a learner has stored, while it goes on or after."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robotlearn.commands.table import print_table, printable

if TYPE_CHECKING:
    from robotlearn.buffer.index import EpisodeEntry, SegmentIndex

WhereArgument = Annotated[
    Path, typer.Argument(metavar="RUN|STORE", help="A run folder, or one of stored segments, such as RUN/segments.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Outcome = Literal["success", "failure", "unfinished"]


def ls(
    where: WhereArgument,
    last: Annotated[int, typer.Option("--last", min=0, help="Show so many, the newest; 0: all.")] = 20,
    robot: Annotated[str | None, typer.Option(help="Only of this robot, or of this model of robot.")] = None,
    task: Annotated[str | None, typer.Option(help="Only those in whose task these words are.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those that ended so.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only those in which a person intervened.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The stored episodes, the newest last; a learner may go on meanwhile.

    An episode is unfinished while its end, or a part of it, has not come.
    """

    def wanted(one: EpisodeEntry) -> bool:
        return (
            robot in (None, one.robot, one.embodiment)
            and (task or "") in one.task
            and outcome in (None, _outcome(one))
            and (one.starred or not starred)
        )

    with _index(where) as index:
        found = [one for one in index.episodes() if wanted(one)]
    shown = found[-last:] if last else found
    if as_json:
        typer.echo(json.dumps({"episodes": [_episode(one) for one in shown], "of": len(found)}))
        return
    print_table(
        ("edge", "robot", "task", "episode", "segments", "steps", "MB", "outcome", "weights", ""),
        [
            (
                one.edge, one.robot, one.task, str(one.episode), str(one.segments), str(one.steps),
                in_mb(one.nbytes), _outcome(one), _versions(one.versions), "intervened" if one.starred else "",
            )
            for one in shown
        ],
        right=("segments", "steps", "MB", "weights"),
    )  # fmt: skip
    if len(shown) < len(found):
        typer.echo(f"the newest {len(shown)} of {len(found)} episodes; --last 0 shows all")


def stats(where: WhereArgument, as_json: JsonOption = False) -> None:
    """How much is stored of each edge, model of robot and task, and how it went."""
    from robotlearn.buffer import snapshots
    from robotlearn.buffer.log_files import LogReader

    folder = find_store(where)
    noted = snapshots.last(folder).settled(LogReader(folder / "records").file_sizes())
    gone = {"evicted": noted.evicted or 0, "lost": noted.lost}
    with _index(where) as index:
        groups: dict[tuple[str, str, str], list[EpisodeEntry]] = defaultdict(list)
        for one in index.episodes():
            groups[one.edge, one.embodiment, one.task].append(one)
    names = ("edge", "model", "task")
    rows = [dict(zip(names, key, strict=True)) | _sums(group) for key, group in sorted(groups.items())]
    total = _sums([one for group in groups.values() for one in group])
    if as_json:
        typer.echo(json.dumps({"groups": rows, "total": total} | gone))
        return
    counted = ("episodes", "success", "unfinished", "intervened", "segments", "steps", "MB", "weights")
    columns, lines = (*names, *counted), rows if len(rows) == 1 else [*rows, dict.fromkeys(names, "") | total]
    print_table(columns, [[_cell(column, row) for column in columns] for row in lines], right=counted)
    if any(gone.values()):
        typer.echo(f"not there any more: {gone['evicted']} segments evicted, {gone['lost']} lost to damage")


def verify(
    where: WhereArgument,
    images: Annotated[bool, typer.Option("--images", help="Decode the images, too, which takes long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read all that is stored and check it: checksums, arrays, that nothing is there twice, the index.

    Nothing is changed, and a learner may go on meanwhile. Exit status 1 when something is wrong.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from robotlearn.buffer import verify as checking

    folder = find_store(where)
    bar = Progress(
        TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        found = checking.verify(
            folder, images=images, progress=lambda done, of: bar.update(task, completed=done, total=of)
        )
    if as_json:
        typer.echo(json.dumps(vars(found)))
    else:
        for line in found.wrong:
            typer.echo(printable(line))
        tail = f"; the last {found.unfinished} bytes are of a write that has not ended" if found.unfinished else ""
        how = f"{len(found.wrong)} faults" if found.wrong else "all well"
        before = f" ({found.evicted} evicted before)" if found.evicted else ""
        before += f" ({found.lost} lost to damage before)" if found.lost else ""
        size = f"{found.segments} segments, {found.steps} steps, {in_mb(found.nbytes)} MB"
        typer.echo(f"{folder}: {size}{before}: {how}{tail}")
    if found.wrong:
        raise typer.Exit(1)


def find_store(where: Path) -> Path:
    """The folder of the store in a run folder, or that folder itself. Raises LogError when there is none."""
    from robotlearn.errors import LogError

    for folder in (where / "segments", where):
        if (folder / "records").is_dir() and not (folder / "ledger").is_dir():  # which an edge's log has
            return folder
    raise LogError(f"{where} holds no stored segments: no folder records in it, nor in {where / 'segments'}")


def _index(where: Path) -> SegmentIndex:
    from robotlearn.buffer.index import SegmentIndex
    from robotlearn.buffer.log_files import LogReader

    folder = find_store(where)
    index = SegmentIndex(folder, LogReader(folder / "records"), keep=False)
    index.update()
    return index


def _outcome(one: EpisodeEntry) -> Outcome:
    return "unfinished" if not one.whole else "success" if one.success else "failure"


def _episode(one: EpisodeEntry) -> dict[str, Any]:
    row = one._asdict() | {"session": f"{one.session:016x}", "outcome": _outcome(one)}
    return {key: value for key, value in row.items() if key not in ("whole", "success")}


def _sums(group: Sequence[EpisodeEntry]) -> dict[str, Any]:
    whole = [one for one in group if one.whole]
    versions = [version for one in group for version in one.versions if version >= 0]
    return {
        "episodes": len(group),
        "success": sum(one.success for one in whole) / len(whole) if whole else None,
        "unfinished": len(group) - len(whole),
        "intervened": sum(one.starred for one in group),
        "segments": sum(one.segments for one in group),
        "steps": sum(one.steps for one in group),
        "nbytes": sum(one.nbytes for one in group),
        "versions": (min(versions), max(versions)) if versions else None,
    }


def _cell(column: str, row: dict[str, Any]) -> str:
    if column == "MB":
        return in_mb(row["nbytes"])
    if column == "weights":
        return _versions(row["versions"])
    value = row[column]
    return "-" if value is None else f"{value:.1%}" if column == "success" else str(value)


def in_mb(nbytes: int) -> str:
    """Bytes as the commands show them."""
    return f"{nbytes / 1e6:.1f}"


def _versions(versions: tuple[int, int] | None) -> str:
    if versions is None or versions[1] < 0:
        return "-"
    return str(versions[0]) if versions[0] == versions[1] else f"{versions[0]} to {versions[1]}"
