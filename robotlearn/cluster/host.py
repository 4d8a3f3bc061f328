"""The Ray actor of one process of a run: starts the ordinary command line as its child, and tells how it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ray

from robotlearn.cluster.run_keys import lay_down
from robotlearn.processes import Child
from robotlearn.run_folder import RunFolder
from robotlearn.wire.keys import KEYS_VARIABLE

REPORT_S = 1.0
_TICK_S = 0.1
_RELEASE_S = 15.0
"""A child whose actor was killed ends within 10 s; until then it holds its folder, and perhaps a robot."""


@dataclass(frozen=True)
class Part:
    """What to start, `robotlearn COMMAND [CONFIG] ARGUMENTS`: `config` is the text of the file that becomes CONFIG.

    `learner_node` (an id) is where the learner is, with `run_folder` on its file system. An edge has its name in `edge`
    and the run's id in `run`. `keys` are the files of a folder of keys made for this run; none: the node's own folder.
    """

    command: str
    arguments: tuple[str, ...]
    config: str
    run_folder: str
    learner_node: str
    edge: str = ""
    run: str = ""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Report:
    """How a process is: `status` is None while it runs, `output` what it has printed since the report before.

    `log` is where all its output is, "" for the learner's, which only the driver shows. The rest is what the learner's
    run folder tells, on its node: where it listens, the run's id, the newest checkpoint; each "" while there is none.
    """

    status: int | None
    output: str
    node: str
    process: int
    log: str = ""
    address: str = ""
    run: str = ""
    checkpoint: str = ""


class Host:
    """Runs one child. When this process is killed, the child sees its pipe close and ends by itself.

    The child's folder lies on this node's file system: the run folder or, for an edge beside the learner, a folder in
    it; for an edge elsewhere `$XDG_STATE_HOME/robotlearn/runs/RUN/NAME`, so that no two runs share the log of what is
    still to be sent. Call `start`, then `report` again and again; `terminate` from another thread.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._run = RunFolder(Path(part.run_folder))
        self._node = ray.get_runtime_context().get_node_id()
        self._child: Child
        self._log = ""
        self._told: tuple[str, str] = ("", "")

    def start(self) -> Report:
        """Start the child, once the one before it has let go of the folder. Raises OSError."""
        if self._part.edge:
            self._start_edge()
        else:
            self._start_learner()
        return self._report()

    def report(self) -> Report:
        """How the child is now: at once when it printed something or ended, at the latest after `REPORT_S`."""
        deadline = time.monotonic() + REPORT_S
        while True:
            report = self._report()
            news = report.status is not None or report.output or (report.address, report.checkpoint) != self._told
            if news or time.monotonic() > deadline:
                self._told = (report.address, report.checkpoint)
                return report
            time.sleep(_TICK_S)

    def terminate(self) -> None:
        """Ask the child, once `start` has returned, to end."""
        self._child.terminate()

    def _start_learner(self) -> None:
        part = self._part
        _wait_until_released(self._run.path / "lock")
        self._run.address.unlink(missing_ok=True)  # of a learner that was killed
        with tempfile.TemporaryDirectory(prefix="robotlearn-") as folder:
            given = self._written(Path(folder) / "config.yaml")
            self._start([part.command, *given, *part.arguments, "--run", str(self._run.path)], Path(folder) / "output")
            # It has read its config when the run folder has one.
            while given and self._child.status is None and not self._run.config.exists():
                time.sleep(_TICK_S)

    def _start_edge(self) -> None:
        part = self._part
        if self._node == part.learner_node:
            state, log = self._run.edges / part.edge, self._run.logs / f"edge-{part.edge}.log"
        else:
            home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
            state = home / "robotlearn" / "runs" / part.run / part.edge
            log = state / "edge.log"
        state.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        _wait_until_released(state / "spool" / "records" / "lock")
        given = self._written(state / "config.yaml")
        self._log = str(log)
        self._start([part.command, *given, *part.arguments, "--state", str(state)], log)

    def _written(self, path: Path) -> list[str]:
        if not self._part.config:
            return []
        path.write_text(self._part.config, encoding="utf-8")
        return [str(path)]

    def _start(self, arguments: list[str], log: Path) -> None:
        environment = {}
        if self._part.keys:
            self._keys = tempfile.TemporaryDirectory(prefix="robotlearn-keys-")  # gone with this process
            lay_down(self._part.keys, Path(self._keys.name))
            environment[KEYS_VARIABLE] = self._keys.name
        log.touch()
        self._output = log.open("rb")
        self._output.seek(0, os.SEEK_END)
        self._child = Child(self._part.edge or self._part.command, arguments, log, environment)

    def _report(self) -> Report:
        status = self._child.status  # before the output: then that is whole when it has ended
        output = self._output.read()
        if status is None:
            whole = output.rfind(b"\n") + 1
            self._output.seek(whole - len(output), os.SEEK_CUR)
            output = output[:whole]
        known: dict[str, str] = {}
        if not self._part.edge:
            checkpoints = sorted(self._run.checkpoints.glob("[0-9]*/checkpoint.json"))
            with contextlib.suppress(FileNotFoundError):
                known["address"] = self._run.address.read_text()
                known["run"] = self._run.run_id
            known["checkpoint"] = str(checkpoints[-1].parent) if checkpoints else ""
        return Report(status, output.decode(errors="replace"), self._node, self._child.process.pid, self._log, **known)


def _wait_until_released(lock: Path) -> None:
    """Wait until nobody holds a lock file; if that takes long, leave it to the child to say who does."""
    deadline = time.monotonic() + _RELEASE_S
    while lock.exists() and time.monotonic() < deadline:
        with lock.open("rb") as stream, contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_TICK_S)
