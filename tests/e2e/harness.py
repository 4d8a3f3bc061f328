"""Runs robotlearn's own programs as real processes and looks at what they leave; what a whole-system test needs."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from robotlearn.buffer.spool import Counts, Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.checkpoint import list_versions, load
from robotlearn.errors import WireError
from robotlearn.metrics import read_metrics
from robotlearn.wire import record
from robotlearn.wire.record import RecordHeader

MARK = "ROBOTLEARN_E2E_MARK"
HUNG_S = 200.0
"""Longer than anything here takes on a machine that is busy with other work: whoever takes longer hangs."""


def wait_for[T](condition: Callable[[], T], what: str, *watched: Program, deadline_s: float = HUNG_S) -> T:
    """Poll until `condition` holds and return what it gave. Fails after the deadline, or as soon as a watched program
    has ended, with the last lines of each.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        ended = [program for program in watched if program.status is not None]
        found = condition()
        if found:
            return found
        if ended or time.monotonic() > deadline:
            reason = f"{ended[0].name} ended with {ended[0].status}" if ended else f"{deadline_s:.0f} s passed"
            tails = "".join(f"\n--- {program.name}\n{program.tail()}" for program in watched)
            pytest.fail(f"waited for {what}: {reason}{tails}")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """One `robotlearn ...` in a process of its own, its output in a file."""

    def __init__(
        self, name: str, arguments: Iterable[object], folder: Path, environment: Mapping[str, str], cwd: Path | None
    ) -> None:
        self.name = name
        self._log = folder / f"{name}-{secrets.token_hex(3)}.log"
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robotlearn", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll()

    @property
    def lines(self) -> list[str]:
        """What it has printed, errors included."""
        return self._log.read_text(errors="replace").splitlines()

    def tail(self) -> str:
        return "\n".join(self.lines[-25:])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def ended(self, what: str = "its end") -> int:
        """Wait until it has ended by itself; its exit status."""
        try:
            return self.process.wait(HUNG_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"waited for {what} of {self.name} for {HUNG_S:.0f} s\n{self.tail()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; it must do so with status 0."""
        self.send(number)
        assert self.ended() == 0, self.tail()


def tiny(*edges: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """A config with which everything takes a moment; sections given are laid over it. Edges: by default two batches."""
    config: dict[str, Any] = {
        "seed": 1,
        "robot": "panda",
        "task": "reach",
        "episode_steps": 8,
        "policy": {"hidden": [16], "horizon": 4, "denoising_steps": 2},
        "demonstrations": {"episodes": 2},
        "sft": {"steps": 10, "batch_size": 32},
        "start": {"success_band": None},
        "algorithm": {"epochs": 1, "critic_warmup": 0, "value_hidden": [16]},
        "learner": {
            "episodes_per_update": 4,
            "max_staleness": 1,
            "updates": 10**6,
            "checkpoint_every": 2,
            "eval_episodes": 4,
        },
        "edges": list(edges) or [batch("left"), batch("right")],
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section}
    return config


def batch(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "batch", "arms": 4, "segment_steps": 4, **more}


def paced(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "paced", "segment_steps": 4, **more}


class Site:
    """A place to run programs in: a folder, and a mark in the environment by which all their processes are found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(16)
        self.run = folder / "run"
        self.temporary = Path(tempfile.mkdtemp(prefix="rl-"))  # short: Unix sockets are made below it
        self.programs: list[Program] = []

    def config(self, config: dict[str, Any], name: str = "config.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(config))
        return path

    def start(self, name: str, *arguments: object, draw: bool = False, cwd: Path | None = None) -> Program:
        """Start a program, in this process's own folder or in `cwd`. Unless it is to `draw`, films are left out, which
        saves seconds.
        """
        environment = {**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary)}
        if not draw:
            environment["MUJOCO_GL"] = "disable"
        program = Program(name, arguments, self.folder, environment, cwd)
        self.programs.append(program)
        return program

    def learner(self, config: Path, *more: object) -> Program:
        return self.start("learner", "learner", config, "--run", self.run, *more)

    def edge(self, config: Path, name: str, address: str, *more: object) -> Program:
        options = ["--learner", address, "--name", name, "--state", self.state(name)]
        return self.start(name, "edge", config, *options, *more)

    def state(self, name: str) -> Path:
        """Where an edge started by `edge`, or by `train`, has its spool."""
        return self.run / "edges" / name

    def address(self, learner: Program) -> str:
        """Wait until the learner listens; where it does."""
        file = self.run / "address"
        return wait_for(lambda: file.exists() and file.read_text(), "the learner's address", learner)

    def processes(self, *words: str) -> list[int]:
        """The live processes of this site, also those that its programs started, whose command line has these words."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    line = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if all(word in line for word in words):
                        found.append(int(process.name))
        return found

    def gone(self) -> None:
        """Wait until no process of this site is left."""
        wait_for(lambda: not self.processes(), "the end of all processes")

    def close(self) -> None:
        """End what a test left, paused or not."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.programs:
            program.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    # ---- what a run leaves

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that tell of an update."""
        return [row for row in read_metrics(self.run / "metrics.jsonl") if "updates" in row]

    def updates_since(self, version: int, count: int) -> bool:
        """Whether so many updates have come after that version."""
        return sum(row["version"] > version for row in self.rows()) >= count

    def newest(self) -> int:
        """The newest version in the metrics, -1 before the first update."""
        return max((row["version"] for row in self.rows()), default=-1)

    def stored(self, edge: str | None = None) -> list[RecordHeader]:
        """What is in the learner's log as its files are now, read beside the learner that writes it."""
        headers = _headers(self.run / "segments" / "records")
        return [header for header in headers if edge is None or header.edge == edge]

    def recorded(self, edge: str) -> list[RecordHeader]:
        """What is in an edge's log as its files are now, settled or not."""
        return _headers(self.state(edge) / "spool" / "records")

    def delivered(self, recorded: Iterable[RecordHeader]) -> bool:
        """Whether all of these are in the learner's log."""
        stored = {(header.edge, header.session, header.sequence) for header in self.stored()}
        return all((header.edge, header.session, header.sequence) in stored for header in recorded)

    def sessions(self, edge: str) -> set[int]:
        """The sessions of an edge of which something is stored: one for each time that it was started."""
        return {header.session for header in self.stored(edge)}


def _headers(folder: Path) -> list[RecordHeader]:
    headers = []
    for file in sorted(folder.glob("*.log")):
        view, offset = memoryview(file.read_bytes()), 0
        while offset < len(view):
            try:
                length = record.prefix(view, offset).length
                headers.append(record.peek(view[offset : offset + length]))
            except WireError:
                break  # being written
            offset += length
    return headers


Key = tuple[int, int]


@dataclass(frozen=True)
class Accounts:
    """What is where once every process has ended: of each edge its counts, the records in its spool, those stored."""

    counts: dict[str, Counts]
    pending: dict[str, set[Key]]
    stored: dict[str, set[Key]]
    headers: list[RecordHeader]


def accounts(site: Site, *edges: str) -> Accounts:
    """Open the learner's log and the spools offline, and hold the design's invariant with nothing evicted or rejected.

    recorded = stored once + still in the edge's log + evicted + rejected; where an answer was lost on the way, a record
    is stored and still in the edge's log, and counts once.
    """
    with SegmentStore(site.run / "segments") as store:
        keys = [(segment.edge, segment.session, segment.sequence) for _, segment in store.scan()]
        headers = [header for _, header in store.scan_headers()]
        assert store.corrupt == 0
        assert len(set(keys)) == len(keys), "a segment is stored twice"
        assert store.stored == len(keys)
    counts, pending, stored = {}, {}, {}
    for name in edges:
        with Spool(site.state(name) / "spool", edge=name) as spool:
            counts[name] = spool.counts()
            pending[name] = {(out.session, out.sequence) for out in spool.take(1 << 40, 1 << 30)}
        stored[name] = {(session, sequence) for edge, session, sequence in keys if edge == name}
        count = counts[name]
        assert count.evicted == count.rejected == count.refused == 0, (name, count)
        assert count.pending == len(pending[name])
        assert count.recorded == len(stored[name] | pending[name]), (name, count, len(stored[name]))
        assert count.acknowledged == len(stored[name] - pending[name]), (name, count, len(stored[name]))
    assert {edge for edge, _, _ in keys} <= set(edges)
    return Accounts(counts, pending, stored, headers)


def check_metrics(site: Site, max_staleness: float) -> None:
    """Versions rise strictly, over restarts too, and nothing was learnt from that was too stale, nor counted twice."""
    rows = site.rows()
    versions = [row["version"] for row in rows]
    assert versions == sorted(set(versions)), versions
    assert all(row["staleness_max"] <= max_staleness for row in rows), [row["staleness_max"] for row in rows]
    assert all(row["segments_evicted"] == row["segments_rejected"] == 0 for row in rows)
    # A checkpoint knows how far in the log it has read: it has counted each step up to there once.
    facts = load(list_versions(site.run / "checkpoints")[-1]).facts
    with SegmentStore(site.run / "segments") as store:
        read = sum(header.steps for position, header in store.scan_headers() if list(position) < facts["end"])
    assert facts["env_steps"] == read
