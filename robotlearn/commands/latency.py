"""`robotlearn latency`: what a policy takes for a batch, before robots wait for it."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer


def latency(
    what: Annotated[
        str,
        typer.Argument(
            metavar="POLICY|CONFIG", help="A run folder, one of its checkpoints, or a config (YAML file or name)."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Overrides of a config.")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1024, help="Robots served at once; repeatable. By default 1, 2, 4, 8 and 16."),
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Batches of each size that are measured.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """How long a policy takes for chunks of so many robots on this machine, and what control rates that allows.

    A robot that executes whole chunks needs one per horizon: `at most` is the rate at which the slowest of a hundred is
    still in time. `ahead` is what edges.N.execution.ahead must be at the robot's own rate for a chunk never to be late.
    """
    from robotlearn.commands.table import print_table, progress_bar
    from robotlearn.display import busy
    from robotlearn.errors import ConfigError

    with busy("loading the policy"):
        from robotlearn.latency import measure, policy_of  # only now: it imports torch

        if overrides and Path(what).is_dir():
            raise ConfigError(f"{' '.join(overrides)}: {what} is a run, whose config stays as it is")
        with redirect_stdout(sys.stderr):  # LeRobot tells of what it loads
            config, policy = policy_of(what, overrides or [])
    with progress_bar("measuring") as progress:
        rows = measure(config, policy, sorted(set(batch or (1, 2, 4, 8, 16))), chunks, progress)
    if as_json:
        typer.echo(json.dumps({"policy": config.policy.kind, "horizon": policy.horizon, "batches": rows}))
        return
    columns = ("robots", "p50 ms", "p99 ms", "chunks/s", "at most", "ahead")
    lines = [
        [
            f"{row['batch']}",
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "chunks_per_s")),
            f"{row['control_hz_at_most']:.1f} Hz",
            f"{row['ahead']}",
        ]
        for row in rows
    ]
    print_table(columns, lines, right=columns)
