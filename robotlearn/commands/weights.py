"""`robotlearn weights`: the versions of a run, and which of them its edges have."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robotlearn.commands.table import print_table

if TYPE_CHECKING:
    from robotlearn.learner.orders import Orders
    from robotlearn.run_folder import RunFolder

weights = typer.Typer(
    help="The versions of a run's weights, and which of them its edges have.\n\n"
    "An edge's versions only grow: weights that are served again get a new version, and `ls` says whose they are.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_PATIENCE_S = 30.0

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The learner's run folder.")]
VersionArgument = Annotated[int, typer.Argument(min=0, help="One that `ls` lists with a checkpoint.")]


@weights.command("ls")
def ls(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Versions that have a checkpoint, that something was decided about, or that an edge has; the newest last."""
    from robotlearn.learner.orders import Orders
    from robotlearn.run_folder import RunFolder

    folder = RunFolder.open(run)
    orders = Orders(folder)
    rows, pinned = _rows(folder, orders), orders.pinned
    if as_json:
        typer.echo(json.dumps({"versions": rows, "pinned": pinned}))
        return
    columns = {"version": "version", "success": "success", "measured": "measured", "checkpoint": "checkpoint",
               "edges": "edges", "decisions": "decided"}  # fmt: skip
    lines = [[_shown(key, row) for key in columns] for row in rows]
    print_table(tuple(columns.values()), lines, right=("version", "success", "measured"))
    if pinned is not None:
        typer.echo(f"every edge has the weights of version {pinned}, until `robotlearn weights unpin {run}`")


@weights.command()
def pin(run: RunArgument, version: VersionArgument) -> None:
    """Every edge has the weights of VERSION from now on, whatever is newer, until `unpin`; also after a restart.

    Training goes on with what max_staleness allows; what edges collect is stored in any case.
    """
    _order(run, "pin", version)


@weights.command()
def unpin(run: RunArgument) -> None:
    """Edges have the newest weights again, or the approved ones."""
    _order(run, "unpin", 0)


@weights.command()
def rollback(run: RunArgument, version: VersionArgument) -> None:
    """Take the run back to VERSION: policy and optimiser, and what the edges have. Training goes on from there."""
    _order(run, "rollback", version)


@weights.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; must not be there, or be empty.")],
    version: Annotated[
        int | None, typer.Option(min=0, help="A version of the run; by default its newest.", show_default=False)
    ] = None,
) -> None:
    """The policy as a checkpoint of LeRobot, for smolvla, pi0, pi05, act and diffusion; LoRA is merged into it.

    LeRobot's `from_pretrained` loads it, and so does a config's policy.pretrained. Its joints and actions are those of
    robotlearn: rad and m, actions relative to the last set-point.
    """
    from robotlearn import lerobot_checkpoint
    from robotlearn.checkpoint import place
    from robotlearn.run_folder import RunFolder
    from robotlearn.saved_policy import find_policy

    if version is not None:
        kept = RunFolder.open(run).checkpoints
        _check_kept(run, kept, version)
        run = place(kept, version)
    saved = find_policy(run)
    lerobot_checkpoint.write(saved, out)
    typer.echo(f"{out}: version {saved.version} as a checkpoint of LeRobot, {saved.config.policy.kind}")


def _rows(folder: RunFolder, orders: Orders) -> list[dict[str, Any]]:
    from robotlearn.checkpoint import best, list_versions
    from robotlearn.metrics import read_metrics

    highest = best(folder.checkpoints)
    kept = {int(path.name) for path in list_versions(folder.checkpoints)}
    served, decided = orders.served, orders.decisions()
    success, measured = {}, {}
    for row in read_metrics(folder.metrics):
        if row.get("success") is not None:
            success[row["version"]] = row["success"]
        if row.get("eval_success") is not None:
            measured[row["version"]] = row["eval_success"]
    shown = kept | {int(row["version"]) for row in decided} | {version for version in served.values() if version >= 0}
    return [
        {
            "version": version,
            "success": success.get(version),
            "measured": measured.get(version),
            "checkpoint": version in kept,
            "best": version == highest,
            "edges": sorted(name for name, has in served.items() if has == version),
            "decisions": [row for row in decided if row["version"] == version],
        }
        for version in sorted(shown)
    ]


def _shown(key: str, row: dict[str, Any]) -> str:
    value = row[key]
    if key == "decisions":
        return "; ".join(
            row["decision"]
            + (f" (weights of {row['of']})" if row["of"] != row["version"] else "")
            + (f": {row['why']}" if row["why"] else "")
            for row in value
        )
    if key == "edges":
        return ", ".join(value) or "-"
    if key == "checkpoint":
        return "yes, the best" if row["best"] else "yes" if value else "-"
    return "-" if value is None else str(value) if key == "version" else f"{value:.1%}"


def _check_kept(run: Path, checkpoints: Path, version: int) -> None:
    from robotlearn.checkpoint import list_versions
    from robotlearn.errors import CheckpointError

    kept = [int(path.name) for path in list_versions(checkpoints)]
    if version not in kept:
        found = ", ".join(map(str, kept)) or "none"
        raise CheckpointError(f"{run} has no checkpoint of version {version}; it has {found}")


def _order(run: Path, what: Literal["pin", "unpin", "rollback"], version: int) -> None:
    from robotlearn.display import busy
    from robotlearn.errors import CheckpointError
    from robotlearn.learner.orders import Orders
    from robotlearn.run_folder import RunFolder

    folder = RunFolder.open(run)
    if what != "unpin":
        _check_kept(run, folder.checkpoints, version)
    orders = Orders(folder)
    number = orders.give(what, version)
    if not folder.address.exists():
        typer.echo(f"no learner of {run} runs here: it does so when it comes again (--resume)")
        return
    end = time.monotonic() + _PATIENCE_S
    with busy("the learner does it between two updates"):
        while (done := orders.outcome(number)) is None and time.monotonic() < end:
            time.sleep(0.1)
    if done is None:
        typer.echo(f"the learner has not done it within {_PATIENCE_S:.0f} s; it will between two updates", err=True)
        raise typer.Exit(1)
    if done["decision"] == "refused":
        raise CheckpointError(str(done["why"]))
    same = f" with the weights of version {done['of']}" if done["of"] != done["version"] else ""
    typer.echo(f"{done['decision']}: version {done['version']}{same}" if what != "unpin" else "unpinned")
