"""`robotlearn eval`: from a run folder to a measured success rate."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robotlearn.evaluation import Evaluation, evaluate
from robotlearn.saved_policy import find_policy


@dataclass(frozen=True)
class RunEvaluation(Evaluation):
    """An evaluation, and the version that was measured."""

    version: int


def evaluate_run(run: Path, *, episodes: int, seed: int, video: Path | None, quiet: bool) -> RunEvaluation:
    """Measure the newest checkpoint of a run, or the checkpoint that `run` is.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says.
    """
    saved = find_policy(run)
    policy = saved.load()
    if video is not None:  # what can't be written is said before the episodes, not after
        video.parent.mkdir(parents=True, exist_ok=True)
        video.open("ab").close()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=episodes)
        measured = evaluate(
            policy,
            saved.spec,
            saved.config.task,
            episodes=episodes,
            seed=seed,
            threads=2,
            episode_steps=saved.config.episode_steps,
            video=video,
            progress=lambda done: progress.update(bar, completed=done),
        )
    return RunEvaluation(**measured.as_json(), version=saved.version)
