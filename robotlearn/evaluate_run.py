"""`robotlearn eval`: from a run folder to a measured success rate."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robotlearn.cells import cells_of, env_options
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.errors import CheckpointError
from robotlearn.evaluation import Evaluation, evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.learner import checkpoint
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder


def evaluate_run(run: Path, *, episodes: int, seed: int, video: Path | None, quiet: bool) -> tuple[int, Evaluation]:
    """Measure the newest checkpoint of a run, or the checkpoint that `run` is; returns its version with it.

    Raises RunFolderError, CheckpointError: nothing there, or it belongs to another policy than the run's config says.
    """
    if not run.exists():
        raise CheckpointError(f"{run}: there is no such run folder or checkpoint")
    single = (run / "checkpoint.json").is_file()
    folder = RunFolder.open(run.resolve().parent.parent if single else run)
    config = load_config(folder.config)
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    saved = checkpoint.load(run if single else checkpoint.newest(folder.checkpoints), contract(config, cells))
    policy = build_policy(config, inputs)
    policy.load_state_dict(saved.policy)
    if video is not None:  # what can't be written is said before the episodes, not after
        video.parent.mkdir(parents=True, exist_ok=True)
        video.open("ab").close()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=episodes)
        measured = evaluate_cells(
            policy,
            inputs,
            cells,
            episodes=episodes,
            seed=seed,
            threads=2,
            options=env_options(config),
            video=video,
            progress=lambda done: progress.update(bar, completed=done),
        )
    return saved.version, measured
