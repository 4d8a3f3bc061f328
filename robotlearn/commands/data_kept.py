"""`robotlearn data prune`: which episodes of a store are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robotlearn.commands.data_stored import JsonOption, WhereArgument, find_store, in_mb
from robotlearn.commands.table import progress_bar

if TYPE_CHECKING:
    from robotlearn.buffer.compact import Needs, Plan
    from robotlearn.buffer.index import EpisodeEntry, SegmentIndex

Choose = Callable[["SegmentIndex", Mapping[int, int]], "Plan"]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


def prune(
    where: WhereArgument,
    max_gb: Annotated[
        float | None, typer.Option("--max-gb", min=0, help="The oldest, until no more than so many GB are stored.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Those that ended before, by their edge's clock."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=0, help="All but the newest N episodes.")
    ] = None,
    failures: Annotated[bool, typer.Option("--failures", help="Those that ended without success.")] = False,
    versions_below: Annotated[
        int | None, typer.Option("--versions-below", metavar="V", help="Those acted only by weights before version V.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete stored episodes, for good; exactly one option says which.

    Never those in which a person intervened. Files (of 64 MiB) from which the run's newest checkpoint goes on are left
    whole, so that it can be resumed; their episodes may go once there is a newer one. What is deleted stays known: no
    edge's copy of it is stored again. Not while a learner runs.
    """
    from robotlearn.buffer.compact import Needs

    given = (max_gb, older_than, keep, versions_below)
    if sum(value is not None for value in given) + failures != 1:
        raise typer.BadParameter("give exactly one of --max-gb, --older-than, --keep, --failures, --versions-below")
    folder = find_store(where)
    needs = needs_of(folder)
    if max_gb is not None:
        choose = _oldest(folder, int(max_gb * 1e9), needs)
    elif older_than is not None:
        choose = _before(time.time() - older_than * 86400, folder, needs)
    elif keep is not None:
        choose = _all_but(keep, needs)
    elif versions_below is not None:
        choose = _those(lambda one: one.versions[0] >= 0 and one.versions[1] < versions_below, needs)
    else:
        choose = _those(lambda one: one.whole and not one.success, needs)
    said = _plan(folder, choose) if dry_run else _prune(folder, choose)
    if as_json:
        typer.echo(json.dumps({"store": str(folder), "dry_run": dry_run} | said))
        return
    size = f"{said['episodes']} episodes, {said['segments']} segments, {in_mb(said['nbytes'])} MB"
    typer.echo(f"{folder}: {size} {'would go' if dry_run else 'deleted'}")
    if said["starred"]:
        typer.echo(f"{said['starred']} episodes stay because a person intervened in them")
    if said["needed"]:
        whose = "the run's newest checkpoint goes on from their files, which are left whole"
        reason = whose if needs != Needs() else "their files are damaged"
        typer.echo(f"{said['needed']} episodes stay because {reason}")
    if max_gb is not None and not dry_run and said["stored_bytes"] > max_gb * 1e9:
        typer.echo(f"{in_mb(said['stored_bytes'])} MB are left: nothing else may go", err=True)


def needs_of(folder: Path) -> Needs:
    """What the newest checkpoint of the run that a store belongs to goes on from; nothing where it is of no run.

    Raises CheckpointError when there are checkpoints and none can be read.
    """
    from robotlearn import checkpoint
    from robotlearn.buffer.compact import Needs
    from robotlearn.errors import CheckpointError

    found = checkpoint.list_versions(folder.resolve().parent / "checkpoints")
    for path in reversed(found):
        try:
            facts = checkpoint.describe(path).facts
        except CheckpointError:
            if path == found[0]:
                raise
            continue
        return Needs.of([facts])
    return Needs()


def _oldest(folder: Path, max_bytes: int, needs: Needs) -> Choose:
    from robotlearn.buffer import compact

    def choose(index: SegmentIndex, sizes: Mapping[int, int]) -> Plan:
        notes = sum(path.stat().st_size for path in (folder / "seen").glob("*.log"))
        return compact.oldest(index, sizes, max(0, sum(sizes.values()) + notes - max_bytes), needs)

    return choose


def _those(wanted: Callable[[EpisodeEntry], bool], needs: Needs) -> Choose:
    from robotlearn.buffer import compact

    return lambda index, sizes: compact.chosen(index, sizes, filter(wanted, index.episodes()), needs)


def _all_but(newest: int, needs: Needs) -> Choose:
    from robotlearn.buffer import compact

    def choose(index: SegmentIndex, sizes: Mapping[int, int]) -> Plan:
        episodes = list(index.episodes())
        return compact.chosen(index, sizes, episodes[: max(0, len(episodes) - newest)], needs)

    return choose


def _before(wall: float, folder: Path, needs: Needs) -> Choose:
    """Episodes whose last stored step was before `wall` [s since 1970]."""
    from robotlearn.buffer import compact
    from robotlearn.buffer.log_files import LogReader
    from robotlearn.errors import LogError, WireError
    from robotlearn.wire import record

    def choose(index: SegmentIndex, sizes: Mapping[int, int]) -> Plan:
        log = LogReader(folder / "records")

        def ended(one: EpisodeEntry) -> bool:
            try:
                last = log.read(index.of_episode(one.key)[-1])
                return bool(record.decode(last, verify=False, images=False).wall[-1] < wall)
            except (LogError, WireError):  # a repair is to find it
                return False

        return compact.chosen(index, sizes, filter(ended, index.episodes()), needs)

    return choose


def _plan(folder: Path, choose: Choose) -> dict[str, int]:
    from robotlearn.buffer.index import SegmentIndex
    from robotlearn.buffer.log_files import LogReader

    log = LogReader(folder / "records")
    with SegmentIndex(folder, log, keep=False) as index:
        index.update()
        plan = choose(index, log.file_sizes())
    return _said(plan) | {"episodes": plan.episodes, "segments": plan.segments, "nbytes": plan.nbytes}


def _prune(folder: Path, choose: Choose) -> dict[str, int]:
    from robotlearn.buffer import compact
    from robotlearn.buffer.index import SegmentIndex
    from robotlearn.buffer.store import SegmentStore

    plans: list[Plan] = []

    def planned(sizes: Mapping[int, int]) -> Plan:
        plans.append(choose(index, sizes))
        return plans[-1]

    with SegmentStore(folder) as store, SegmentIndex(folder, store.records, keep=True) as index:
        with progress_bar("deleting") as progress:
            done = compact.carry_out(store, index, planned, progress=progress)
        counts = {"episodes": done.episodes, "segments": done.segments, "nbytes": done.nbytes}
        return _said(plans[-1]) | counts | {"evicted": store.evicted, "stored_bytes": store.bytes}


def _said(plan: Plan) -> dict[str, int]:
    return {"starred": plan.starred, "needed": plan.needed}
