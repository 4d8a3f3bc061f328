"""Replay with images: steps added and samples drawn per second, and memory, against four peers and the limit.

First, how fast one camera's images are gathered from wherever they lie, in processor time (from the disk: in seconds).
Then two cameras of 128 x 128 pixels, a state of 14 and an action of 7; a sample has all of it before and after its
step: 10,000 steps, and 60,000, of which ours, with 1 GiB for images, has most on disk only: 6 GB. "cold" is with none
of that in the page cache. What takes more than half of the machine's free memory is measured with fewer steps or left
out, and a line says so. Each contender has a process of its own and one thread; its memory is split into its own
(anonymous) and mapped files. torchrl gets an environment in the user's cache, once: 5 GB where torch comes with CUDA.
    python -m benchmarks replay
    python -m benchmarks.replay --steps 10000 --only ours ring --folder /var/tmp
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.replay_contenders import CAMERAS, CONTENDERS, SIDE, Found, T, stored

ROOT = Path(__file__).parent.parent
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
SIZES, BATCHES = (10_000, 60_000), (64, 256)
ROUNDS, GATHERED = 40, 8192
TORCHRL = "0.14.1"
UNITS = {
    "add": "steps/s",
    "durable": "steps/s",
    **{f"sample.{batch}": "samples/s" for batch in BATCHES},
    f"sample.{BATCHES[-1]}.cold": "samples/s",
    "open": "s",
    "own": "bytes/step",
    "mapped": "bytes/step",
    "in_memory": "of all images",
}


# ---- one contender, in its own process


def measure(name: str, steps: int, folder: Path) -> Found:
    torch.set_num_threads(1)
    contender = CONTENDERS[name]
    for module in contender.imports:
        importlib.import_module(module)
    before = _memory()
    sample, found = contender.fill(steps, folder)
    for what, now, then in zip(("own", "mapped"), _memory(), before, strict=True):
        found[what] = (now - then) / steps
    for batch in BATCHES:
        found[f"sample.{batch}"] = batch / _median(lambda batch=batch: sample(batch))
    if found.get("in_memory", 1) < 1:
        found[f"sample.{batch}.cold"] = batch / _median(lambda: sample(batch), lambda: _cool(folder))
    return found


def gathers(folder: Path) -> Found:
    """Rows/s of one camera's images from memory, from files in the page cache and from disk; "bare" is index_select.

    Processor time, but from disk: so it says little of what else the machine does meanwhile.
    """
    from robotlearn.buffer.store import SegmentStore
    from robotlearn.replay.images import ImageRows

    torch.set_num_threads(1)
    key, shape, rng = CAMERAS[0], (SIDE, SIDE, 3), np.random.default_rng(0)
    store, half = SegmentStore(folder), GATHERED // T * (T + 1) // 2
    camera = ImageRows(key, shape, half * math.prod(shape))
    for position, encoded, _ in stored(GATHERED, store):
        camera.append(store.records, position, encoded, load=True)
    bare = torch.randint(256, (half, math.prod(shape)), dtype=torch.uint8)
    found: Found = {}
    for batch in BATCHES:
        out = torch.zeros(batch, *shape, dtype=torch.uint8)
        flat = out.view(batch, -1)
        ways: dict[str, tuple[int, Callable[[np.ndarray], object]]] = {
            "bare": (0, lambda rows, flat=flat: torch.index_select(bare, 0, torch.from_numpy(rows), out=flat)),
            "memory": (half, lambda rows, out=out: camera.gather(rows, out)),
            "files": (0, lambda rows, out=out: camera.gather(rows, out)),
            "cold": (0, lambda rows, out=out: camera.gather(rows, out)),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS + 3):
            for way, (first, work) in ways.items():
                rows = first + rng.integers(0, half, batch)
                if way == "files":
                    work(rows)
                if way == "cold":
                    _cool(folder)
                clock = time.perf_counter if way == "cold" else time.thread_time
                begun = clock()
                work(rows)
                took[way].append(clock() - begun)
        found |= {f"{batch}.{way}": batch / statistics.median(each[3:]) for way, each in took.items()}
    return found


def _memory() -> tuple[int, int]:
    """Bytes of this process's memory: its own, and of mapped files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    return found["Anonymous"], found["Rss"] - found["Anonymous"]


def _median(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    took = []
    for _ in range(ROUNDS + 3):
        prepare()
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took[3:])


def _cool(folder: Path) -> None:
    for path in folder.rglob("*.log"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- all of them


def torchrl_python() -> str:
    """The interpreter of an environment with torchrl, made where there is none; raises OSError saying why not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "robotlearn" / f"torchrl-{TORCHRL}"
    python, uv = folder / "bin" / "python", [sys.executable, "-m", "uv"]
    if python.exists() and not subprocess.run([python, "-c", "import torchrl"], capture_output=True).returncode:
        return str(python)
    install = [*uv, "pip", "install", "--python", str(python), f"torchrl=={TORCHRL}", "numpy"]
    done = subprocess.run(
        [*uv, "venv", "--clear", "--python", sys.executable, str(folder)], capture_output=True, text=True
    )
    # Without CUDA it is small, but comes from another server, which can't be reached from everywhere.
    for command in ([*install, "--torch-backend", "cpu"], install):
        if not done.returncode:
            done = subprocess.run(command, capture_output=True, text=True)
            if not done.returncode:
                return str(python)
            done.returncode = 0
    raise OSError((done.stderr.strip().splitlines() or ["uv failed"])[-1].strip())


def fitting(name: str, steps: int) -> int:
    """Steps that a contender can be measured with here, 0: not at all; says so where these are fewer."""
    per_step = CONTENDERS[name].in_memory
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    most = int(free.split()[1]) * 1024 // 2
    if per_step * steps <= most:
        return steps
    fewer = 0 if steps > SIZES[0] else most // per_step // T * T
    instead = f"measured with {fewer:,}" if fewer else "left out"
    print(f"# {name}: {steps:,} steps take {per_step * steps / 2**30:.1f} GiB of memory: {instead}", flush=True)
    return fewer


def contend(name: str, steps: int, parent: Path) -> Found:
    """What a contender (or `gathers`) found; nothing, and a line that says why, where it can't be measured."""
    try:
        python = torchrl_python() if name == "torchrl" else sys.executable
    except OSError as error:
        print(f"# torchrl {TORCHRL} can't be installed here: {error}", flush=True)
        return {}
    with tempfile.TemporaryDirectory(prefix="robotlearn-replay-", dir=parent) as folder:
        command = [python, "-m", "benchmarks.replay", "--contender", name, "--steps", str(steps), "--folder", folder]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
        )
    if done.returncode:
        print(f"# {name} failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}", flush=True)
        return {}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def run(sizes: Sequence[int] = SIZES, only: Sequence[str] = tuple(CONTENDERS), parent: Path | None = None) -> None:
    from benchmarks.report import report

    parent = parent or Path(os.environ.get("BENCH_DIR", "/var/tmp"))
    if "ours" in only and (found := contend("gathers", 0, parent)):
        against = {"memory": ("bare", "bare index_select"), "files": ("memory", "memory"), "cold": ("memory", "memory")}
        for batch in BATCHES:
            for way, (other, said) in against.items():
                report(
                    f"replay.gather.{batch}.{way}", found[f"{batch}.{way}"], "rows/s", said, found[f"{batch}.{other}"]
                )
    for size in sizes:
        steps = {name: fitting(name, size // T * T) for name in only}
        runs = [{name: contend(name, steps[name], parent) for name in only if steps[name]} for _ in range(RUNS)]
        medians = {
            name: {what: statistics.median(found[name][what] for found in runs) for what in runs[0][name]}
            for name in runs[0]
            if all(found[name] for found in runs)
        }
        mine = medians.pop("ours", {})
        for what, unit in UNITS.items():
            name = f"replay.{size}.{what}"
            if what in mine and not any(what in theirs for theirs in medians.values()):
                report(name, mine[what], unit)
            for peer, theirs in medians.items():
                if what in mine and what in theirs:
                    report(name, mine[what], unit, CONTENDERS[peer].said, theirs[what])
                elif what in theirs:
                    report(f"{name}.{peer}", theirs[what], unit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile; /var/tmp unless given")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        alone = options.contender == "gathers"
        found = gathers(options.folder) if alone else measure(options.contender, options.steps[0], options.folder)
        print(json.dumps(found))
    else:
        run(options.steps, options.only, options.folder)
