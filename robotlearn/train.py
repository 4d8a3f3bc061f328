"""`robotlearn train`: learner and edges on this machine as child processes, kept alive, ended together."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event

from hal.registry import check_driver
from robotlearn.cells import cells_of
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.demonstrations_check import check_demonstrations
from robotlearn.edge.paced_arm import HAS_SAID_WHY
from robotlearn.errors import RunFolderError
from robotlearn.people.keyboard import keys_in_a_run
from robotlearn.processes import REFUSED, Child, Keeper, Running, stop_all, stop_on_signals
from robotlearn.robots.states import forget
from robotlearn.run_folder import RunFolder

LEARNER_PATIENCE = 3
"""A learner that ended by itself so often without a new checkpoint is not started again."""


class Training:
    """Starts the learner, which draws the display on this terminal, and the edges, whose output goes to RUN/logs."""

    def __init__(
        self,
        source: str,
        config: Config,
        overrides: Sequence[str],
        path: Path,
        *,
        resume: bool,
        rerun: str | None = None,
    ) -> None:
        """`source` and `overrides` are what `config` was loaded from; `rerun` is for the learner.

        Raises RunFolderError, SpecError, DriverError, ConfigError.
        """
        self._source, self._config, self._overrides = source, config, list(overrides)
        self._folder = RunFolder(path)
        self._resume, self._rerun = resume, rerun
        cells_of(config)  # a robot or a task that isn't there, or can't be: found now, not by each process
        for edge in config.edges:
            if isinstance(edge, PacedEdgeConfig):
                # Its arm process would find out after the imitation.
                check_driver(edge.driver or cells_of(config, edge)[0].spec.driver)
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is not a folder; choose another --run")
        if not resume and self._folder.config.exists():
            raise RunFolderError(f"{path} already holds a run; continue it with --resume or choose another --run")
        if not resume:
            check_demonstrations(config)

    def run(self) -> int:
        """Block until the run ends or a signal comes; returns the exit status.

        Raises RunFolderError; DeviceError where a person's keys have no terminal.
        """
        for index, edge in enumerate(self._config.edges):
            if isinstance(edge, PacedEdgeConfig) and edge.person is not None:
                for text in keys_in_a_run(f"edges.{index}.person", edge.person.device, edge.person.options):
                    self._say(f"{edge.name}: {text}")
        return self._supervise(stop_on_signals())

    def _supervise(self, stop: Event) -> int:
        if self._resume:
            with self._folder:
                pass  # not in use, and without the address of a learner that was killed
        for edge in self._config.edges:
            if isinstance(edge, PacedEdgeConfig):
                forget(edge.name)
        learner = self._start_learner()
        edges: dict[str, Keeper] = {}
        address, failures, checkpoint = "", 0, self._newest()
        closing = ""
        try:
            while not stop.wait(0.1):
                status = learner.status
                if status is not None:
                    if status == 0 or status == REFUSED:
                        return status
                    failures = 1 if self._newest() != checkpoint else failures + 1
                    checkpoint = self._newest()
                    if checkpoint is None or failures > LEARNER_PATIENCE:
                        self._say(f"the learner ended with status {status}; see above")
                        return 1
                    self._say(f"the learner ended with status {status}; it goes on from {checkpoint}")
                    learner.kill()
                    self._resume = True
                    learner = self._start_learner(address)
                if not address and (address := self._address()):
                    for edge in self._config.edges:
                        edges[edge.name] = Keeper(partial(self._start_edge, edge.name, address))
                for name, keeper in edges.items():
                    ended = keeper.tend()
                    if ended == REFUSED:
                        closing = f"edge {name} can't work: {self._last_words(name)}"
                        return REFUSED
                    if ended is not None:
                        self._say(f"edge {name} ended with status {ended} and is started again; see {self._log(name)}")
            self._say("stopping")
            return 0
        finally:
            # Edges first: they still get answers for what they recorded.
            stop_all([keeper.child for keeper in edges.values()], patience_s=5.0)
            stop_all([learner], patience_s=8.0)
            if closing:  # the last line: what its user must mend isn't drawn over
                self._say(closing)

    def _start_learner(self, address: str = "") -> Running:
        options = [*(["--resume"] if self._resume else []), *(["--bind", address] if address else [])]
        options += ["--rerun", self._rerun] if self._rerun is not None else []
        return Child("learner", ["learner", self._source, *self._overrides, "--run", str(self._folder.path), *options])

    def _start_edge(self, name: str, address: str) -> Running:
        state = self._folder.edges / name
        arguments = ["edge", str(self._folder.config), "--learner", address, "--name", name, "--state", str(state)]
        return Child(f"edge {name}", arguments, self._log(name))

    def _log(self, name: str) -> Path:
        return self._folder.logs / f"edge-{name}.log"

    def _last_words(self, name: str) -> str:
        """What it and its own children said at the end."""
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        said = [text.removeprefix("robotlearn: ") for text in lines[-10:] if text.startswith("robotlearn: ")]
        # The child that knows why comes first; that it said so is its parent's word.
        return "; ".join([text for text in said if not text.endswith(HAS_SAID_WHY)] or said) or "no reason given"

    def _address(self) -> str:
        """Where the learner listens, "" before it does."""
        return self._folder.address.read_text() if self._folder.address.exists() else ""

    def _newest(self) -> Path | None:
        versions = sorted(self._folder.checkpoints.glob("[0-9]*/checkpoint.json"))
        return versions[-1].parent if versions else None

    @staticmethod
    def _say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
