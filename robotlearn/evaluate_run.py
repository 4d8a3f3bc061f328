"""`robotlearn eval`: from a run folder to a measured success rate."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hal.spec import load_spec
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.environment import env_options
from robotlearn.errors import CheckpointError
from robotlearn.evaluation import Evaluation, evaluate
from robotlearn.learner import checkpoint
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder


@dataclass(frozen=True)
class RunEvaluation(Evaluation):
    """An evaluation, and the version that was measured."""

    version: int


def evaluate_run(run: Path, *, episodes: int, seed: int, video: Path | None, quiet: bool) -> RunEvaluation:
    """Measure the newest checkpoint of a run, or the checkpoint that `run` is.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says.
    """
    if not run.exists():
        raise CheckpointError(f"{run}: there is no such run folder or checkpoint")
    single = (run / "checkpoint.json").is_file()
    folder = RunFolder.open(run.resolve().parent.parent if single else run)
    config = load_config(folder.config)
    spec = load_spec(config.robot)
    saved = checkpoint.load(run if single else checkpoint.newest(folder.checkpoints), contract(config, spec))
    policy = build_policy(config, spec)
    policy.load_state_dict(saved.policy)
    if video is not None:  # what can't be written is said before the episodes, not after
        video.parent.mkdir(parents=True, exist_ok=True)
        video.open("ab").close()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=episodes)
        measured = evaluate(
            policy,
            spec,
            config.task,
            episodes=episodes,
            seed=seed,
            threads=2,
            options=env_options(config),
            video=video,
            progress=lambda done: progress.update(bar, completed=done),
        )
    return RunEvaluation(**measured.as_json(), version=saved.version)
