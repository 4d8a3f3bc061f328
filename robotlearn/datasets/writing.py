"""Writing a LeRobotDataset (v3) with LeRobot itself: the only place that does."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hal.spec import RobotSpec
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.frames import DONE, LABEL, LOG_PROB, STEPS, VERSION, check_alike, columns, features
from robotlearn.datasets.sidecar import SidecarWriter
from robotlearn.datasets.stored import Episode
from robotlearn.errors import ExtraError

REPO = "repo:"
_SCALARS = {*STEPS, DONE, VERSION, LOG_PROB}
Array = NDArray[Any]


def check_target(where: str, option: str) -> None:
    """Whether a dataset can be written there, as far as that can be told without loading LeRobot, which takes long.

    where: a folder, or `repo:USER/NAME`. option: what the user said it with. Raises ExtraError, DatasetError.
    """
    for module in ("lerobot", "datasets", "av"):
        if find_spec(module) is None:
            raise ExtraError(f"{option} needs {module}, which isn't installed here: pip install 'lerobot[dataset]'")
    _check_free(folder_of(where), option)


def folder_of(where: str) -> Path:
    """The folder that is meant: `repo:USER/NAME` lies where LeRobot keeps it on this machine."""
    if not where.startswith(REPO):
        return Path(where)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    home = Path(os.environ.get("HF_HOME", cache)) / "lerobot"
    return Path(os.environ.get("HF_LEROBOT_HOME", home)).expanduser() / where.removeprefix(REPO)


class DatasetWriter:
    """A dataset in a new folder, which takes the place of `where` when `finish` is called, and not before.

    A kill at any moment leaves what was there before; what it leaves beside it (NAME.new) the next one removes. The
    first call takes up to a minute: LeRobot is loaded. labels: the width of each label that `add` is given.

    Raises DatasetError when `where` is something else than a dataset.
    """

    def __init__(
        self,
        where: str,
        spec: RobotSpec,
        first: Episode,
        *,
        labels: Mapping[str, int] | None = None,
        video: bool = False,
        about: Mapping[str, Any] | None = None,
        option: str = "--out",
    ) -> None:
        """first: an episode like all that will be added. about: what the recording says of itself, if it is one."""
        self.folder, self._first, self._labels = folder_of(where), first, dict(labels or {})
        if first.steps("action_executed").shape[1] != spec.dim:
            raise DatasetError(f"the actions of {first.embodiment} don't have the {spec.dim} entries of {spec.name}")
        _check_free(self.folder, option)
        self._new = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.parent.mkdir(parents=True, exist_ok=True)
        # Where torchcodec can't be loaded that logger shows its traceback, and does without: PyAV does it here.
        logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
        import datasets
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        datasets.disable_progress_bars()  # there is one per episode
        self._dataset = LeRobotDataset.create(
            where.removeprefix(REPO) if where.startswith(REPO) else self.folder.name,
            fps=round(spec.control_hz),
            features=features(spec, first, self._labels, video=video),
            root=self._new,
            robot_type=spec.name,
            use_videos=video,
            streaming_encoding=video,
        )
        self._sidecar = SidecarWriter(self._new, about)
        self.episodes = 0

    def add(self, episode: Episode, labels: Mapping[str, tuple[Array, Array]] | None = None) -> None:
        """labels: of each name (T, W) float32, and (T,) bool: where there is one. Raises DatasetError: it is unlike."""
        check_alike(self._first, episode)
        rows = columns(episode)
        for name in self._labels:
            rows[LABEL + name], rows[f"{LABEL}{name}.given"] = (labels or {})[name]
        for step in range(len(episode)):
            # What has one number per frame has the shape (1,) there.
            frame = {key: values[step : step + 1] if values.ndim == 1 else values[step] for key, values in rows.items()}
            self._dataset.add_frame({**frame, "task": episode.instruction})
        self._dataset.save_episode()
        self._sidecar.add(self.episodes, episode)
        self.episodes += 1

    def finish(self) -> Path:
        """The dataset is in its place, whole; where that is."""
        self._sidecar.close()
        self._dataset.finalize()
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.rename(self.folder, old)
        os.rename(self._new, self.folder)
        shutil.rmtree(old, ignore_errors=True)
        return self.folder

    def abandon(self) -> None:
        """Nothing is left of it."""
        with suppress(Exception):  # else it would write what it still holds when it is collected
            self._dataset.finalize()
        shutil.rmtree(self._new, ignore_errors=True)


class Interrupted(BaseException):
    """Raised by a signal, its number; not an Exception, which libraries catch while they are imported."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP raise `Interrupted`. Of the main thread only."""

    def end(number: int, frame: object) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_free(folder: Path, option: str) -> None:
    if folder.exists() and not (folder / "meta" / "info.json").is_file():
        raise DatasetError(f"{folder} exists and is no LeRobotDataset: choose another {option}")
