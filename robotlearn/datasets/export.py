"""Stored episodes as a LeRobotDataset: of a learner that may go on meanwhile, of one that ended, of a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hal.errors import SpecError
from hal.spec import RobotSpec, load_spec
from robotlearn.buffer.index import EpisodeEntry
from robotlearn.datasets import labels as labelling
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.frames import check_alike
from robotlearn.datasets.labels import Labels
from robotlearn.datasets.stored import Episode, EpisodeKey, Only, StoredEpisodes, recording_of
from robotlearn.datasets.writing import DatasetWriter, Interrupted, interruptible
from robotlearn.errors import LogError

if TYPE_CHECKING:
    from robotlearn.config.config import Config


@dataclass(frozen=True)
class Wanted:
    """Which episodes. robot: a robot's name or its model's, or a spec's YAML file; None: there is only one model.

    task: words of the instruction. labels: NAME or NAME@VERSION, each a feature of the dataset.
    """

    only: Only = "all"
    robot: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    video: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written where. gone: episodes that the learner deleted, or that can't be read, meanwhile."""

    folder: Path
    episodes: int
    frames: int
    failures: int
    gone: int


def export(
    where: Path,
    out: str,
    wanted: Wanted,
    *,
    spec: RobotSpec | None = None,
    progress: Callable[[int, int], object] = lambda done, of: None,
    option: str = "--out",
) -> Exported:
    """Writes the whole episodes of a run, a store or a recording; what was at `out` is replaced once all are written.

    out: a folder, or `repo:USER/NAME`: where LeRobot keeps that repository on this machine. spec: of the robot, where
    it is known already. progress(done, of) is told before the first episode and after each.

    Raises DatasetError, LogError, SpecError: before LeRobot is loaded, which takes long, wherever that can be told.
    """
    model = wanted.robot
    if model is not None and model.endswith((".yaml", ".yml")):
        spec = load_spec(model)
        model = spec.embodiment
    with StoredEpisodes(where) as stored:
        entries = stored.entries(model, wanted.task, wanted.only)
        if not entries:
            what = "whole episode" if wanted == Wanted() else "such episode that is whole"
            raise DatasetError(f"{where} holds no {what}: no dataset is written")
        first = _first(stored, entries)
        found = spec or _spec_of(where, first.embodiment)
        chosen = {one.name: one for one in (labelling.read(stored.folder, text) for text in wanted.labels)}
        about, gone, frames, failures = _about(where), 0, 0, 0
        writer = DatasetWriter(
            out,
            found,
            first,
            labels={name: one.width for name, one in chosen.items()},
            video=wanted.video,
            about=about,
            option=option,
        )
        try:
            progress(0, len(entries))
            for number, entry in enumerate(entries, 1):
                try:
                    episode = stored.read(entry)
                except LogError:
                    gone += 1
                    continue
                writer.add(episode, {name: _rows(one, episode) for name, one in chosen.items()})
                frames += len(episode)
                failures += not episode.success
                progress(number, len(entries))
            if not writer.episodes:
                raise DatasetError(f"{where}: all {gone} episodes are gone meanwhile: no dataset is written")
            return Exported(writer.finish(), writer.episodes, frames, failures, gone)
        except BaseException:
            writer.abandon()
            raise


def export_interruptibly(recording: Path, spec: RobotSpec, where: str, successes: int) -> None:
    """The successes of a recording as a dataset, telling its user what it does. SIGINT, SIGTERM and SIGHUP end it:
    typer.Exit with the shell's status; the dataset is then as it was before.
    """
    typer.echo(f"writing the dataset: loading LeRobot takes up to a minute (Ctrl-C: later; {recording} is whole)")

    def say(done: int, of: int) -> None:
        if done:
            typer.echo(f"dataset: episode {done} of {of}")

    try:
        with interruptible():
            done = export(recording, where, Wanted("successes"), spec=spec, progress=say, option="--dataset")
    except Interrupted as interrupted:
        typer.echo(
            f"the dataset isn't written; {recording} is whole. The same command with --episodes {successes} writes it, "
            "and needs no robot"
        )
        raise typer.Exit(128 + interrupted.args[0]) from None
    typer.echo(f"{done.folder}: a LeRobotDataset of {done.episodes} episodes")


def _first(stored: StoredEpisodes, entries: Sequence[EpisodeEntry]) -> Episode:
    """One episode, like which all others are, as far as one of each robot and task tells. Raises DatasetError."""
    first: Episode | None = None
    each: dict[tuple[str, str], EpisodeEntry] = {}
    for one in entries:
        each.setdefault((one.embodiment, one.task), one)
    for one in each.values():
        try:
            episode = stored.read(one)
        except LogError:
            continue  # it is counted later
        if first is not None:
            check_alike(first, episode)
        first = first or episode
    if first is None:
        raise DatasetError(f"{stored.folder}: the episodes can't be read: `robotlearn data verify` says why")
    return first


def _about(where: Path) -> Mapping[str, Any] | None:
    """What the recording says of itself, or the task of a run that has one."""
    config = _config(where)
    if config is None or len({task for _, task in config.cells()}) != 1:
        return recording_of(where)
    return {"task": config.cells()[0][1]}


def _config(where: Path) -> Config | None:
    """That of the run that this is, or whose store it is. Raises ConfigError."""
    for folder in (where, where.parent):
        if (folder / "config.yaml").is_file():
            from robotlearn.config.load import load_config

            return load_config(folder / "config.yaml")
    return None


def _spec_of(where: Path, embodiment: str) -> RobotSpec:
    """The spec of that name: of the run's config, else a shipped one. Raises DatasetError naming --robot."""
    config = _config(where)
    for name in [*(config.robot if config is not None else ()), embodiment]:
        try:
            spec = load_spec(name)
        except SpecError:
            continue
        if spec.embodiment == embodiment:
            return spec
    raise DatasetError(f"no spec of {embodiment} is known here: give its YAML file with --robot")


def _rows(labels: Labels, episode: Episode) -> tuple[labelling.Array, labelling.Array]:
    return labels.of(EpisodeKey(*episode.key), len(episode))
