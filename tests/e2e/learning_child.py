"""A learner in a process of its own, as `robotlearn learner` has it but for the film; it can be told where to die.

    python -m tests.e2e.learning_child RUN {new|resume} [WHERE:COUNT]

WHERE: `step`, before an optimiser's COUNTth step; `entry`, at the COUNTth time that a folder of checkpoints has changed
and is about to be synced, twice for each checkpoint.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from robotlearn import checkpoint
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.config import load_config
from robotlearn.display import Display
from robotlearn.learner.learner import Learner
from robotlearn.run_folder import RunFolder


def dying(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function, at whose `count`th call the process is killed."""
    calls = []

    def called(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return called


def main() -> None:
    run, how, *death = sys.argv[1:]
    for where, count in (each.split(":") for each in death):
        if where == "step":
            Optimizer._descend = dying(Optimizer._descend, int(count))  # type: ignore[method-assign]
        else:
            checkpoint.sync_directory = dying(checkpoint.sync_directory, int(count))  # type: ignore[attr-defined]
    Learner._film = lambda self: None  # type: ignore[method-assign]
    with RunFolder.open(Path(run)) as folder:
        learner = Learner(load_config(folder.config), folder, resume=how == "resume")
        with Display(learner.view, Console(file=io.StringIO())) as display:
            learner.run(threading.Event(), display)


if __name__ == "__main__":
    main()
