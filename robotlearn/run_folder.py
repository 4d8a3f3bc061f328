"""A run folder: everything one training run leaves behind, and the lock that keeps a second learner out."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType

from robotlearn.durable import write_atomic
from robotlearn.errors import RunFolderError


class RunFolder:
    """The layout of a run folder.

    config.yaml, run.json (its id), version (the highest ever announced), metrics.jsonl, tensorboard/, checkpoints/,
    segments/ (the learner's log), edges/NAME/ (spools of edges started by `train`), logs/, videos/, curve.png,
    report.html.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.segments = path / "segments"
        self.edges = path / "edges"
        self.logs = path / "logs"
        self.videos = path / "videos"
        self.curve = path / "curve.png"
        self.report = path / "report.html"
        self.address = path / "address"
        self._state = path / "run.json"
        self._version = path / "version"
        self._made = False
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, config_yaml: str, run_id: str) -> "RunFolder":
        """Make a new run folder; raises RunFolderError when `path` already holds a run."""
        folder = cls(path)
        if folder.config.exists():
            raise RunFolderError(f"{path} already holds a run; continue it with --resume or choose another --run")
        folder._made = not path.exists()
        try:
            for directory in (path, folder.checkpoints, folder.segments, folder.edges, folder.logs, folder.videos):
                directory.mkdir(parents=True, exist_ok=True)
            write_atomic(folder._state, json.dumps({"run": run_id}).encode())
            write_atomic(folder._version, _digits(-1))
            # The config comes last: a folder with one is a whole run folder.
            write_atomic(folder.config, config_yaml.encode())
        except OSError as error:
            raise RunFolderError(f"can't make the run folder {path}: {error.strerror}") from error
        return folder

    def discard(self) -> None:
        """Undo `create`, for a run that could not begin: its place may be used anew."""
        if self._made:
            shutil.rmtree(self.path)
        else:
            self.config.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder; raises RunFolderError when `path` holds none."""
        folder = cls(path)
        if not folder.config.is_file():
            raise RunFolderError(f"{path} is not a run folder (no config.yaml in it)")
        return folder

    def __enter__(self) -> "RunFolder":
        """Take the run for one learner; raises RunFolderError when another process holds it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunFolderError(
                f"{self.path} is in use by another learner (process {holder or 'unknown'}); stop it first"
            ) from None
        self.address.unlink(missing_ok=True)  # of a learner that was killed
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def run_id(self) -> str:
        try:
            return str(json.loads(self._state.read_bytes())["run"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self._state} is missing or damaged: {error}") from error

    @property
    def highest_version(self) -> int:
        """The highest version that was ever announced, -1 before the first."""
        try:
            return int(self._version.read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self._version} is missing or damaged: {error}") from error

    def reserve_version(self, version: int) -> None:
        """Note, durably, that `version` is about to be announced.

        After a crash the learner goes on with a higher one, so that a version never names two sets of weights. The
        training loop waits for this, so it is one small write in place; a new file and a rename took ten times as long.
        """
        with self._version.open("r+b", buffering=0) as stream:
            stream.write(_digits(version))
            os.fdatasync(stream.fileno())


def _digits(version: int) -> bytes:
    """Always as long, so that a write in place leaves nothing of the one before."""
    return b"%020d\n" % version
