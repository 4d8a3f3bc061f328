"""`robotlearn eval`: from a run folder to a measured success rate."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robotlearn.cells import cells_of, env_options
from robotlearn.evaluation import Evaluation, evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.learner.display import busy
from robotlearn.saved_policy import find_policy


def evaluate_run(run: Path, *, episodes: int, seed: int, video: Path | None, quiet: bool) -> tuple[int, Evaluation]:
    """Measure the newest checkpoint of a run, or the checkpoint that `run` is; returns its version with it.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says.
    """
    with busy("loading the policy"):
        saved = find_policy(run)
        policy, cells = saved.load(), cells_of(saved.config)
    if video is not None:  # what can't be written is said before the episodes, not after
        video.parent.mkdir(parents=True, exist_ok=True)
        video.open("ab").close()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=episodes)
        measured = evaluate_cells(
            policy,
            Inputs(saved.config, cells),
            cells,
            episodes=episodes,
            seed=seed,
            threads=2,
            options=env_options(saved.config),
            video=video,
            progress=lambda done: progress.update(bar, completed=done),
        )
    return saved.version, measured
