"""`robotlearn data merge|repair`: several stores put into one, and a damaged one mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robotlearn.commands.data_kept import DryRunOption
from robotlearn.commands.data_stored import JsonOption, WhereArgument, find_store, in_mb
from robotlearn.commands.table import printable, progress_bar


def merge(
    wheres: Annotated[
        list[Path], typer.Argument(metavar="RUN|STORE ...", help="Run folders, or folders of stored segments.")
    ],
    out: Annotated[Path, typer.Option(metavar="STORE", help="The folder of the new store.")],
    append: Annotated[
        bool, typer.Option("--append", help="Add to a store, or go on with a merge that was broken off.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put what several stores hold into a new one, each segment once; the others stay as they are.

    A learner may go on with those that are read. Damaged segments are left out, which is exit status 1.
    """
    from dataclasses import asdict

    from robotlearn.buffer import merge as merging
    from robotlearn.buffer.index import SegmentIndex
    from robotlearn.buffer.store import SegmentStore

    folders = [find_store(where) for where in wheres]
    _check_out(out, folders, append)
    with SegmentStore(out) as store, SegmentIndex(out, store.records, keep=True) as index:
        with progress_bar("merging") as progress:
            merged = merging.merge(folders, store, progress)
        index.update()
        segments = len(index)
    damaged = sum(one.damaged for one in merged)
    if as_json:
        rows = [asdict(one) | {"path": str(one.path)} for one in merged]
        typer.echo(json.dumps({"store": str(out), "segments": segments, "from": rows}))
    else:
        for one in merged:
            more = f", {one.duplicates} were there" if one.duplicates else ""
            more += f", {one.damaged} damaged are left out" if one.damaged else ""
            typer.echo(f"{one.path}: {one.segments} segments, {in_mb(one.nbytes)} MB{more}")
        typer.echo(f"{out}: {segments} segments")
    if damaged:
        raise typer.Exit(1)


def repair(where: WhereArgument, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Mend a damaged store: what is damaged is moved to its folder `quarantine`, and said; the rest stays in place.

    A run whose store it is can be resumed. What was lost stays known, so no edge's copy is stored in its stead. Not
    while a learner runs.
    """
    from robotlearn.buffer import repair as mending

    folder = find_store(where)
    with progress_bar("reading") as progress:
        found = (mending.survey if dry_run else mending.repair)(folder, progress)
    if as_json:
        report = {"store": str(folder), "dry_run": dry_run, "segments": found.segments}
        typer.echo(json.dumps(report | found.report))
        return
    for one in found.damaged:
        at = f"file {one.position.file}, offset {one.position.offset}, {one.position.length} bytes"
        typer.echo(printable(f"{at}: {one.reason}"))
    for file in found.missing:
        typer.echo(f"file {file} is missing")
    for edge, session, ranges in found.ranges():
        numbers = ", ".join(str(low) if high == low + 1 else f"{low} to {high - 1}" for low, high in ranges)
        typer.echo(printable(f"lost: edge {edge}, session {session:016x}, segments {numbers}"))
    if found.nameless:
        typer.echo(f"lost: {found.nameless} segments whose names aren't known")
    if found.without_notes:
        done = "would be" if dry_run else "are"
        typer.echo(f"the notes of what was stored are gone, and {done} made anew: what was evicted is known no more")
    if not (found.damaged or found.missing or found.lost or found.nameless):
        typer.echo(f"{folder}: {found.segments} segments, nothing {'else ' if found.without_notes else ''}to repair")
        return
    done = "would be moved" if dry_run else "moved"
    aside = folder / mending.QUARANTINE
    typer.echo(f"{folder}: {found.segments} segments are well; {len(found.damaged)} damaged pieces {done} to {aside}")


def _check_out(out: Path, folders: list[Path], append: bool) -> None:
    from robotlearn.errors import LogError

    if out.resolve() in (folder.resolve() for folder in folders):
        raise LogError(f"--out {out} is one of the stores to be merged; give another folder")
    if any((folder / "config.yaml").exists() for folder in (out, out.resolve().parent)):
        raise LogError(f"--out {out} is of a run, which would learn from all that is put there; give another folder")
    try:
        there = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise LogError(f"--out {out}: {error.strerror or error}") from error
    if there and not append:
        raise LogError(f"--out {out} is not empty; with --append it is added to, or give another folder")
    if there and "records" not in there:  # which is made first
        raise LogError(f"--out {out} holds something that is no store; give another folder")
