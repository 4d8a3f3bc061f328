"""`robotlearn keys`: who may connect to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(
    help="Keys: whom a learner or a served arm lets in, and who it proves to be.\n\n"
    "Where edges come from other machines: `keys new learner` at the learner, and the public key that it prints goes "
    "into the run's config as learner.key; `keys new NAME` at each edge, and what it prints is told to the learner by "
    "`keys allow NAME PUBLIC`. Secret keys stay in the folder where they were made.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FOLDER",
        help="Of keys and the list; by default $ROBOTLEARN_KEYS, else ~/.config/robotlearn/keys.",
        show_default=False,
    ),
]


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="`learner`, or the edge's name in the config; an arm's operator: any.")],
    folder: FolderOption = None,
) -> None:
    """Make a key on this machine and print its public half, alone on its line."""
    from robotlearn.wire.keys import Keys

    store = Keys(folder)
    public = store.new(name).public
    typer.echo(public)
    typer.echo(
        f"the secret half is in {store.path}; a learner's: learner.key={public} goes into the run's config; an edge's: "
        f"at the learner, robotlearn keys allow {name} {public}",
        err=True,
    )


@keys.command()
def allow(
    name: Annotated[str, typer.Argument(help="Who has that key; an edge speaks under this name only.")],
    public: Annotated[str, typer.Argument(metavar="PUBLIC", help="What `robotlearn keys new` printed there.")],
    role: Annotated[
        list[str],
        typer.Option(
            help="What it may do; may be given several times. edge: send segments and have weights; weights: only have "
            "them; arm: move arms that `robotlearn serve` serves here."
        ),
    ] = ["edge"],  # noqa: B006
    folder: FolderOption = None,
) -> None:
    """Let the holder of a key in; servers that run take it up within half a second."""
    from robotlearn.wire.keys import Keys, PublicKey, roles

    store = Keys(folder)
    key = PublicKey.parse(public)
    before = store.allow(name, key, roles(role))
    typer.echo(f"{name} may, by {store.allowed_file}: {', '.join(role)}")
    for one in before:
        if (one.name, one.key) != (name, key):
            typer.echo(f"{one.name} ({one.key}) is let in no more: a key has one name, and a name one key", err=True)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|PUBLIC", help="Whom not to let in any more.")],
    folder: FolderOption = None,
) -> None:
    """Let it in no more, and end its connections, within half a second."""
    from robotlearn.wire.keys import Keys

    gone = Keys(folder).revoke(name)
    typer.echo(f"{gone.name} ({gone.key}) is let in no more")


@keys.command("ls")
def ls(
    folder: FolderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """This machine's own keys, and whom its servers let in."""
    from robotlearn.wire.keys import Keys

    store = Keys(folder)
    own = [(name, str(store.own(name).public)) for name in store.names()]
    allowed = [(one.name, str(one.key), list(one.roles)) for one in store.allowed()]
    if as_json:
        told = {
            "folder": str(store.path),
            "own": [{"name": name, "key": key} for name, key in own],
            "allowed": [{"name": name, "key": key, "roles": what} for name, key, what in allowed],
        }
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{store.path}\nown:")
    for name, key in own:
        typer.echo(f"  {name:<20} {key}")
    typer.echo("allowed here:")
    for name, key, what in allowed:
        typer.echo(f"  {name:<20} {key}  {', '.join(what)}")
