"""`robotlearn eval`: from a saved policy to a measured success rate."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robotlearn.cells import cells_of, env_options
from robotlearn.display import busy
from robotlearn.evaluation import Evaluation, evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.saved_policy import SavedPolicy


def evaluate_run(saved: SavedPolicy, *, episodes: int, seed: int, video: Path | None, quiet: bool) -> Evaluation:
    """Measure a saved policy, showing on a terminal how far it is. Raises CheckpointError when it is damaged."""
    with busy("loading the policy"):
        policy, cells = saved.load(), cells_of(saved.config)
    if video is not None:  # what can't be written is said before the episodes, not after
        video.parent.mkdir(parents=True, exist_ok=True)
        video.open("ab").close()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    disable = quiet or not console.is_terminal  # elsewhere it would leave an empty line
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        bar = progress.add_task("", total=max(episodes, len(cells)))
        return evaluate_cells(
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
