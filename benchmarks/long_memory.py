"""A run whose images don't fit in memory, killed three times: what it learns, and whether all that was recorded is
there.

Soft actor-critic on reach, from numbers and one camera of 64 x 64 pixels, for 20 minutes; --cache-mb is to be a
tenth at most of the images that there are at the end, which is printed. At a quarter, a half and three quarters of the
time every process gets kill -9, and `train --resume` goes on. The curve is drawn to `docs/media/memory.png` with
--picture.
    python -m benchmarks.long_memory [--minutes N] [--cache-mb N] [--folder DIR] [--picture]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.log_files import LogReader
from robotlearn.buffer.verify import verify
from robotlearn.metrics import read_metrics

ROOT = Path(__file__).parent.parent
PIXELS = 64
CONFIG = (
    "observations.cameras=[front]", f"observations.image_size=[{PIXELS},{PIXELS}]", "replay.batch_size=64",
    "replay.steps_per_update=32", "replay.update_to_data=0.1", "learner.updates=1000000", "learner.stop_success=null",
    "learner.eval_every=50", "learner.checkpoint_every=20", "edges.0.arms=16",
)  # fmt: skip
KILLS = 3


def processes(run: Path) -> list[int]:
    """Every process of the run: those whose command line or environment names its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                said = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(run).encode() in said and b"long_memory" not in said:
                found.append(int(entry.name))
    return found


def train(run: Path, cache: int, *, resume: bool) -> subprocess.Popen[bytes]:
    given = ["--resume"] if resume else [*CONFIG, f"replay.cache_bytes={cache}"]
    command = [sys.executable, "-m", "robotlearn", "train", "configs/reach-sac.yaml", *given, "--run", str(run)]
    with (run.parent / "train.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    if process.wait(300):
        raise SystemExit(f"the run ended with status {process.returncode}: see train.log")


def live(run: Path, minutes: float, cache: int) -> list[float]:
    """The run, with its kills; when they were, in minutes."""
    began, killed = time.monotonic(), []
    process = train(run, cache, resume=False)
    for number in range(1, KILLS + 1):
        time.sleep(max(0.0, began + 60 * minutes * number / (KILLS + 1) - time.monotonic()))
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with status {process.returncode}: see train.log")
        for pid in processes(run):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        killed.append((time.monotonic() - began) / 60)
        process = train(run, cache, resume=True)
    time.sleep(max(0.0, began + 60 * minutes - time.monotonic()))
    finish(process)
    return killed


def recorded(run: Path) -> tuple[int, int]:
    """Segments that the learner has, and steps."""
    folder = run / "segments"
    with SegmentIndex(folder, LogReader(folder / "records"), keep=False) as index:
        index.update()
        found = [entry.steps for entry in index.segments()]
    return len(found), sum(found)


def left(run: Path) -> int:
    """Records that edges have and the learner does not, known by (edge, session, sequence)."""
    from robotlearn.wire import record

    there = SegmentIndex(run / "segments", LogReader(run / "segments" / "records"), keep=False)
    there.update()
    known = {(entry.edge, entry.session, entry.sequence) for entry in there.segments()}
    lacking = 0
    for folder in run.glob("edges/*/spool/records"):
        for _, view in LogReader(folder).scan():
            header = record.peek(view)
            lacking += (header.edge, header.session, header.sequence) not in known
    return lacking


def draw(rows: list[dict[str, Any]], killed: list[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    start = rows[0]["time"]
    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    for name, label in (("success", "training, last 50 episodes"), ("eval_success", "without exploration")):
        points = [((row["time"] - start) / 60, row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*np.array(points).T, "-" if name == "success" else "o", label=label)
    for number, minute in enumerate(killed):
        axes.axvline(minute, color="0.6", linestyle=":", label="kill -9 of every process" if not number else None)
    axes.set(xlabel="minutes", ylabel="success", ylim=(0, 1.02))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--cache-mb", type=float, default=200.0, help="for images")
    parser.add_argument("--folder", type=Path, default=None, help="kept; else a temporary one")
    parser.add_argument("--picture", action="store_true", help="draw docs/media/memory.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")) as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = folder.resolve() / "run"
        killed = live(run, options.minutes, int(options.cache_mb * 1e6))
        rows = [row for row in read_metrics(run / "metrics.jsonl") if "version" in row]
        segments, steps = recorded(run)
        checked = verify(run / "segments")
        images = steps * PIXELS * PIXELS * 3
        last = [row for row in rows if row.get("updates")][-1]
        report("long_memory.images", images / 1e6, "MB", "cache", options.cache_mb)
        report("long_memory.drawn_from_memory", 100 * last["replay/hits"], "% of images since the last start")
        report("long_memory.update_to_data", last["update_to_data"], "optimiser steps per environment step")
        measured = [row["eval_success"] for row in rows if row.get("eval_success") is not None]
        report("long_memory.eval_success", 100 * measured[-1], "% of episodes, at the end")
        counts = {
            "segments_stored": segments,
            "faults": checked.wrong,
            "left_at_edges": left(run),
            "steps": steps,
            "steps_learnt_from": last["env_steps"],
            "updates": last["updates"],
            "versions_grow": _grows(rows),
            "killed_at_minutes": killed,
        }
        print(json.dumps(counts))
        draw(rows, killed, ROOT / "docs/media/memory.png" if options.picture else folder / "memory.png")


def _grows(rows: list[dict[str, Any]]) -> bool:
    versions = [row["version"] for row in rows if row.get("updates")]
    return versions == sorted(set(versions))


if __name__ == "__main__":
    main()
