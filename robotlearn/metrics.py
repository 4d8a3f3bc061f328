"""A run's figures: one JSON object per line, the same as TensorBoard scalars, and the picture of the curve."""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robotlearn.config.learner import LearnerConfig
from robotlearn.run_folder import RunFolder

RECENT = 5
"""Updates whose training success is averaged for `learner.stop_success`."""


class MetricsLog:
    """Appends to `metrics.jsonl` and to the TensorBoard files of a run; a resumed run goes on in the same file."""

    def __init__(self, folder: RunFolder) -> None:
        # Imported here: it takes a second, and only a learner pays for it.
        from torch.utils.tensorboard import SummaryWriter

        self._stream = folder.metrics.open("a", encoding="utf-8")
        if not _ends_a_line(folder.metrics):
            self._stream.write("\n")  # after what a crash cut short, which would take the next row with it
        self._board = SummaryWriter(str(folder.tensorboard))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row; it must hold `version`, or `imitation_steps`. `time` (seconds since the epoch) is added.

        JSON knows no infinite number and no NaN: they are written as null.
        """
        row = {"time": round(time.time(), 3), **row}
        row = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()
        along = "version" if "version" in row else "imitation_steps"
        for key, value in row.items():
            if key not in ("time", along) and isinstance(value, int | float):
                self._board.add_scalar(key, value, row[along], walltime=row["time"])

    def close(self) -> None:
        self._stream.close()
        self._board.close()


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 1))
        return size == 0 or stream.read() == b"\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a line that a crash cut short is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def ended(settings: LearnerConfig, updates: int, successes: Sequence[float]) -> bool:
    """Whether nothing is left to train after so many updates, the last of which had this training success."""
    recent = list(successes)[-RECENT:]
    reached = (
        settings.stop_success is not None
        and len(recent) == RECENT
        and statistics.fmean(recent) >= settings.stop_success
    )
    return reached or updates >= settings.updates


def draw_curve(folder: RunFolder, title: str) -> Path | None:
    """Draw success and staleness over environment steps to `curve.png`; None while there is no update to draw."""
    rows = [row for row in read_metrics(folder.metrics) if row.get("updates")]
    if not rows:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=(3, 1))
    steps = [row["env_steps"] / 1000 for row in rows]
    above.plot(steps, [100 * row["success"] for row in rows], color="tab:blue", label="training episodes (sampled)")
    measured = [row for row in read_metrics(folder.metrics) if row.get("eval_success") is not None]
    above.errorbar(
        [row["env_steps"] / 1000 for row in measured],
        [100 * row["eval_success"] for row in measured],
        yerr=[
            [100 * (row["eval_success"] - row["eval_low"]) for row in measured],
            [100 * (row["eval_high"] - row["eval_success"]) for row in measured],
        ],
        fmt="o",
        color="tab:orange",
        capsize=3,
        label="evaluation (no exploration), 95 % interval",
    )
    above.set(ylabel="success, %", ylim=(0, 102), title=title)
    above.grid(alpha=0.3)
    above.legend(loc="best")
    below.plot(steps, [row["staleness_max"] for row in rows], color="tab:red", label="max")
    below.plot(steps, [row["staleness_mean"] for row in rows], color="tab:gray", label="mean")
    below.set(xlabel="environment steps, thousands", ylabel="staleness")
    below.grid(alpha=0.3)
    below.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(folder.curve, dpi=110)
    pyplot.close(figure)
    return folder.curve
