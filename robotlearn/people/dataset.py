"""Demonstrations as a LeRobotDataset (v3): an export of the log, made anew from all of it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import typer

from hal.spec import RobotSpec
from robotlearn.errors import ExtraError
from robotlearn.people.demonstrated import RecordedEpisode, episodes
from robotlearn.people.errors import RecordingError

ACTION = "action"
_REPO = "repo:"


def check_dataset(text: str) -> None:
    """What `--dataset` says can be written, as far as that can be told without loading LeRobot, which takes long.

    Raises ExtraError, RecordingError.
    """
    for module in ("lerobot", "datasets", "av"):
        if find_spec(module) is None:
            raise ExtraError(f"--dataset needs {module}, which isn't installed here: pip install 'lerobot[dataset]'")
    if not text.startswith(_REPO):
        _free(Path(text))


def export(
    recording: Path, spec: RobotSpec, where: str, say: Callable[[str], object] = lambda text: None
) -> tuple[Path, int]:
    """Writes the successful episodes; where, and how many. What was there is replaced as a whole, once all are written.

    where: a folder, or `repo:USER/NAME`: where LeRobot keeps that repository on this machine.

    Keys are the log's own: observation.state, observation.environment_state, observation.images.CAMERA (PNG, as they
    were seen), action (what was executed), task. Successes only: LeRobot's trainers imitate whatever a dataset holds.

    Raises RecordingError when there is none, or the folder is something else than such a dataset.
    """
    # Where torchcodec can't be loaded that logger shows its traceback, and does without: there are no videos here.
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.constants import HF_LEROBOT_HOME

    repo = where.removeprefix(_REPO) if where.startswith(_REPO) else Path(where).name
    folder = HF_LEROBOT_HOME / repo if where.startswith(_REPO) else Path(where)
    _free(folder)
    kept = [episode for episode in episodes(recording) if episode.success]
    if not kept:
        raise RecordingError(f"{recording} holds no successful demonstration: no dataset is written")
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    dataset = LeRobotDataset.create(
        repo,
        fps=round(spec.control_hz),
        features=_features(spec, kept[0]),
        root=new,
        robot_type=spec.name,
        use_videos=False,
    )
    for number, episode in enumerate(kept, 1):
        say(f"dataset: episode {number} of {len(kept)}")
        for step in range(len(episode)):
            seen = {key: values[step] for key, values in episode.observations.items()}
            dataset.add_frame({**seen, ACTION: episode.executed[step], "task": episode.instruction})
        dataset.save_episode()
    dataset.finalize()
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder, len(kept)


def export_interruptibly(recording: Path, spec: RobotSpec, where: str, successes: int) -> None:
    """As `export`, telling its user what it does. SIGINT and SIGTERM end it: typer.Exit with the shell's status; the
    dataset is then as it was before.
    """

    def end(number: int, frame: object) -> None:
        raise _Interrupted(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    typer.echo(f"writing the dataset: loading LeRobot takes up to a minute (Ctrl-C: later; {recording} is whole)")
    try:
        folder, count = export(recording, spec, where, say=typer.echo)
    except _Interrupted as interrupted:
        typer.echo(
            f"the dataset isn't written; {recording} is whole. The same command with --episodes {successes} writes it, "
            "and needs no robot"
        )
        raise typer.Exit(128 + interrupted.args[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    typer.echo(f"{folder}: a LeRobotDataset of {count} episodes")


class _Interrupted(BaseException):
    """Raised by a signal; not an Exception, which libraries catch while they are imported."""


def _features(spec: RobotSpec, episode: RecordedEpisode) -> dict[str, Any]:
    features: dict[str, Any] = {ACTION: {"dtype": "float32", "shape": (spec.dim,), "names": list(spec.names)}}
    for key, values in episode.observations.items():
        shape = values.shape[1:]
        if values.dtype == np.uint8:
            features[key] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
        else:
            names = list(spec.names) if key == "observation.state" else None
            features[key] = {"dtype": "float32", "shape": shape, "names": names}
    return features


def _free(folder: Path) -> None:
    if folder.exists() and not (folder / "meta" / "info.json").is_file():
        raise RecordingError(f"{folder} exists and is no LeRobotDataset: choose another --dataset")
