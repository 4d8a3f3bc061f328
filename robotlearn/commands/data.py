"""`robotlearn data`: the segments that edges recorded, and what became of those that a learner refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robotlearn.commands.data_kept import prune
from robotlearn.commands.data_mended import merge, repair
from robotlearn.commands.data_sets import export, import_, import_bag, labels
from robotlearn.commands.data_stored import ls, stats, verify
from robotlearn.commands.table import print_table

if TYPE_CHECKING:
    from robotlearn.buffer.quarantine import Quarantined

data = typer.Typer(
    help="The segments that edges recorded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


for _command in (ls, stats, verify, prune, merge, repair, export, labels):
    data.command()(_command)
data.command("import")(import_)
data.command("import-bag")(import_bag)


@data.command()
def quarantine(
    where: Annotated[
        Path,
        typer.Argument(metavar="RUN|STATE", help="A run folder, for all its edges, or the folder of one edge's log."),
    ],
    retry: Annotated[
        bool, typer.Option("--retry", help="Take them out: they are sent again when their edge runs next.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """What a learner refused for good, and why; with --retry it is offered again, once the cause is mended.

    An edge must not run while its log is changed by --retry; it may while one only looks.
    """
    from robotlearn.buffer.quarantine import look
    from robotlearn.errors import LogError

    spools = _spools(where)
    if not spools:
        raise LogError(f"{where} holds no edge's log: neither spool/ nor edges/NAME/spool/")
    found = {path: look(path / "quarantine") for path in spools}
    tried = {str(path): _retry(path, inside) for path, inside in found.items() if inside} if retry else {}
    rows = [_row(one) for inside in found.values() for one in inside]
    if as_json:
        typer.echo(json.dumps({"quarantined": rows, "retried": tried}))
        return
    if rows:
        _print(rows)
    else:
        typer.echo(f"nothing in quarantine: {', '.join(map(str, spools))}")
    for path, count in tried.items():
        typer.echo(f"{path}: {count} taken out, sent again when the edge runs next")
    if retry and (left := len(rows) - sum(tried.values())):
        typer.echo(f"{left} are damaged and stay", err=True)


def _retry(path: Path, found: list[Quarantined]) -> int:
    from robotlearn.buffer.spool import Spool

    whole = [(one, one.header.edge) for one in found if one.header is not None]
    if whole:
        # Its real bound is the edge's; here nothing is to be evicted.
        with Spool(path, edge=whole[0][1], sync="power", max_bytes=1 << 62) as spool:
            for one, _ in whole:
                spool.retry(one.session, one.sequence)
    return len(whole)


def _row(one: Quarantined) -> dict[str, Any]:
    header = one.header
    return {
        "edge": header.edge if header is not None else None,  # damaged
        "session": f"{one.session:016x}",
        "sequence": one.sequence,
        "robot": header.robot if header is not None else None,
        "steps": header.steps if header is not None else None,
        "bytes": one.nbytes,
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.at)),
        "reason": one.reason,
        "file": str(one.path),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("edge", "session", "sequence", "robot", "steps", "bytes", "since", "reason")
    for row in rows:
        row["edge"] = row["edge"] or "damaged"
    lines = [["-" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    print_table(columns, lines, right=("sequence", "steps", "bytes"))


def _spools(where: Path) -> list[Path]:
    places = (where, where / "spool", *sorted(where.glob("edges/*/spool")))
    return [path for path in places if (path / "records").is_dir() and (path / "ledger").is_dir()]
