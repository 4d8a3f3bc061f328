"""The picture of a generalisation suite: for each split a start of an episode, and a bar with its interval."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from envs import BatchArmEnv
from envs.spaces import IMAGES
from robotlearn.suite import Outcome, Trial

COLOURS = {"seen": "tab:gray", "vision": "tab:blue", "semantics": "tab:orange", "execution": "tab:green"}
WIDTH, ROW, FOOT, HEAD = 9.6, 0.62, 0.8, 0.45
"""Inches: of the picture, of a row, of what is below and above the rows."""
LEFT = 0.41
"""Where the bars begin, from 0 to 1."""


def starts(trials: Sequence[Trial], seed: int) -> list[np.ndarray]:
    """How an episode of each trial begins, (H, W, 3) uint8: by its first camera, without one from the front.

    Raises EnvError where nothing can be drawn.
    """
    pictures = []
    for trial in trials:
        env = BatchArmEnv(trial.cell.spec, trial.cell.task, 1, seed=seed, options=trial.options)
        try:
            seen, _ = env.reset()
            if trial.options.cameras:
                pictures.append(seen[IMAGES + trial.options.cameras[0]][0])
            else:
                pictures.append(env.render()[0])
        finally:
            env.close()
    return pictures


def draw(path: Path, outcomes: Sequence[Outcome], pictures: Sequence[np.ndarray], title: str) -> None:
    """Write the picture as a PNG. `pictures`: one for each outcome, or none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(outcomes)
    high = FOOT + ROW * n + HEAD
    figure = Figure(figsize=(WIDTH, high), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT, FOOT / high, 0.97 - LEFT, ROW * n / high))
    several = len({outcome.cell for outcome in outcomes}) > 1
    for row, outcome in enumerate(outcomes):
        rate, colour = outcome.measured, COLOURS[outcome.split.axis]
        middle = (FOOT + ROW * (n - row - 0.5)) / high
        axes.barh(row, 100 * rate.success, 0.62, color=colour, alpha=0.55)
        ends = [[100 * (rate.success - rate.low)], [100 * (rate.high - rate.success)]]
        axes.errorbar(100 * rate.success, row, xerr=ends, color="black", capsize=3, linewidth=1)
        if outcome.drop is None:
            last = max(index for index, one in enumerate(outcomes) if one.cell == outcome.cell)
            axes.plot([100 * rate.success] * 2, [row - 0.5, last + 0.5], color="tab:gray", linestyle=":", linewidth=1)
        name = f"{outcome.split.name}, {outcome.cell}" if several else outcome.split.name
        figure.text(0.085, middle + 0.03 / high, name, va="bottom", fontsize=10, color=colour, weight="bold")
        figure.text(0.085, middle - 0.03 / high, outcome.split.what, va="top", fontsize=8, color="#555555")
        if pictures:
            side = 0.94 * ROW
            place = figure.add_axes((0.075 - side / WIDTH, middle - side / 2 / high, side / WIDTH, side / high))
            place.imshow(_square(pictures[row]))
            place.set_axis_off()
    axes.set(xlim=(0, 102), ylim=(n - 0.5, -0.5), yticks=[])
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"success, %, with its 95 % interval, of {outcomes[0].measured.episodes} episodes each")
    axes.grid(axis="x", alpha=0.3)
    kinds = dict.fromkeys(outcome.split.axis for outcome in outcomes)
    keys = [axes.barh(-9, 0, color=COLOURS[kind], alpha=0.55) for kind in kinds]
    figure.legend(keys, [*kinds], loc="lower left", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, format="png")


def _square(picture: np.ndarray) -> np.ndarray:
    """Its middle, as wide as high."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]
