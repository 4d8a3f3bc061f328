"""A run's figures: one JSON object per line, the same as TensorBoard scalars, and the picture of the curve."""

import errno
import io
import json
import logging
import math
import os
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robotlearn.config.learner import LearnerConfig
from robotlearn.run_folder import RunFolder

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000

RECENT = 5
"""Updates whose training success is averaged for `learner.stop_success`."""


class MetricsLog:
    """Appends to `metrics.jsonl` and to a TensorBoard file of a run; a resumed run goes on in the same `metrics.jsonl`.

    What a full disk has no room for is kept, and written as soon as it has.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Raises OSError where the files can't be opened."""
        self._rows = Appended(folder.metrics, lines=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        folder.tensorboard.mkdir(parents=True, exist_ok=True)
        self._board = Appended(folder.tensorboard / name)
        self._board.append(_event(time.time(), file_version="brain.Event:2"))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row; it must hold `version`, or `imitation_steps`. `time` (seconds since the epoch) is added.

        JSON knows no infinite number and no NaN: they are written as null. Raises OSError when the disk fails, or is
        full for 10,000 rows.
        """
        row = {"time": round(time.time(), 3), **row}
        row = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        self._rows.append((json.dumps(row, allow_nan=False) + "\n").encode())
        along = "version" if "version" in row else "imitation_steps"
        values = {
            key: float(value)
            for key, value in row.items()
            if key not in ("time", along) and isinstance(value, int | float)
        }
        self._board.append(_event(row["time"], step=row[along], scalars=values))

    def close(self) -> None:
        self._rows.close()
        self._board.close()


class Appended:
    """A file that takes pieces whole and in order; those for which there is no space wait for the next `append`."""

    def __init__(self, path: Path, *, lines: bool = False) -> None:
        """Raises OSError where it can't be opened."""
        self._path = path
        self._stream = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        if lines and not _ends_a_line(path):
            self.append(b"\n")  # after what a crash cut short, which would take the next row with it

    def append(self, piece: bytes) -> None:
        """Raises OSError when the disk fails, or too many pieces wait."""
        self._waiting.append(piece)
        data, end = b"".join(self._waiting), self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._stream.truncate(end)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or len(self._waiting) > _MOST_WAITING:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            if len(self._waiting) == 1:
                log.error("%s: %s; what comes is kept, and written when there is space", self._path, error.strerror)
        else:
            self._waiting.clear()

    def close(self) -> None:
        """What waits gets its last chance."""
        try:
            if self._waiting:
                self.append(b"")
            if self._waiting:
                log.error("%s: its last %d rows are lost, there is no space", self._path, len(self._waiting) - 1)
        finally:
            self._stream.close()


def _event(moment: float, **fields: Any) -> bytes:
    """A record of a TensorBoard file: its version, or the values of one step."""
    # Imported here: it takes long, and only a learner pays for it.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    scalars = fields.pop("scalars", {})
    event = Event(wall_time=moment, **fields)
    if scalars:
        event.summary.CopyFrom(Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]))
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


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
