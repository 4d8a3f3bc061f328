"""Labels beside the data: what is written is read, each version stays, and what can't be is refused."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.buffer.store import SegmentStore
from robotlearn.datasets import labels
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.labels import WHOLE, Labels
from robotlearn.datasets.stored import EpisodeKey
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.wire.make import make_segment


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


def of_steps(values: list[float], edge: str = "a", session: int = 2**62 + 1, episode: int = 2**61) -> Labels:
    n = len(values)
    return Labels([edge] * n, [session] * n, [episode] * n, np.arange(n), np.array(values))


def test_each_version_stays_as_it_was_written(tmp_path: Path) -> None:
    assert labels.write(tmp_path, "advantage", of_steps([1.0, 2.0])) == 1
    first = (tmp_path / "labels" / "advantage" / "v0001.npz").read_bytes()
    assert labels.write(tmp_path, "advantage", of_steps([3.0])) == 2
    assert labels.write(tmp_path, "outcome", of_steps([0.25], "b")) == 1
    assert (tmp_path / "labels" / "advantage" / "v0001.npz").read_bytes() == first
    assert [(one.name, one.version) for one in labels.versions(tmp_path)] == [
        ("advantage", 1), ("advantage", 2), ("outcome", 1),
    ]  # fmt: skip
    newest, old = labels.read(tmp_path, "advantage"), labels.read(tmp_path, "advantage@1")
    assert (newest.version, newest.value.tolist(), newest.name) == (2, [[3.0]], "advantage")
    assert (old.version, old.value.tolist()) == (1, [[1.0], [2.0]])
    assert labels.read(tmp_path, "advantage", 1).session.tolist() == [2**62 + 1] * 2
    assert not [path for path in (tmp_path / "labels").rglob("*") if path.name.endswith(".new")]


def test_a_step_has_its_own_label_else_its_episodes() -> None:
    given = Labels(["a", "a", "b"], [1, 1, 1], [7, 7, 7], [WHOLE, 2, 0], [[0.5, 1], [2, 3], [9, 9]])
    values, where = given.of(EpisodeKey("a", 1, 7), 4)
    assert values.tolist() == [[0.5, 1], [0.5, 1], [2, 3], [0.5, 1]] and where.all()
    values, where = given.of(EpisodeKey("b", 1, 7), 2)
    assert values.tolist() == [[9, 9], [0, 0]] and where.tolist() == [True, False]
    values, where = given.of(EpisodeKey("b", 2, 7), 2)
    assert not values.any() and not where.any() and values.dtype == np.float32
    assert (len(given), given.width, given.episodes) == (3, 2, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": [1.0, np.nan]}, "not finite"),
        ({"step": [0, 0]}, "two labels"),
        ({"step": [0, -2]}, "below -1"),
        ({"step": [0.0, 1.0]}, "whole numbers"),
        ({"session": [1]}, r"session has shape \(1,\)"),
        ({"value": np.zeros((2, 2, 2))}, r"expected \(K, W\)"),
        ({"value": np.zeros((2, 0))}, r"expected \(K, W\)"),
    ],
    ids=lambda value: str(value)[:25],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], said: str) -> None:
    fields = {"edge": ["a", "a"], "session": [1, 1], "episode": [2, 2], "step": [0, 1], "value": [1.0, 2.0]}
    with pytest.raises(DatasetError, match=said):
        Labels(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a.", "a@1", "x" * 65])
def test_names_are_names_of_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="labels can't be called"):
        labels.write(tmp_path, name, of_steps([1.0]))
    assert not (tmp_path / "labels").exists()


def test_what_is_not_there_or_damaged_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no labels 'advantage'; there are: none"):
        labels.read(tmp_path, "advantage")
    labels.write(tmp_path, "advantage", of_steps([1.0]))
    with pytest.raises(DatasetError, match="no labels 'advantages'; there are: advantage"):
        labels.read(tmp_path, "advantages")
    with pytest.raises(DatasetError, match="no version 2 of the labels 'advantage'; the newest is 1"):
        labels.read(tmp_path, "advantage@2")
    with pytest.raises(DatasetError, match="the version is a number"):
        labels.read(tmp_path, "advantage@new")
    file = tmp_path / "labels" / "advantage" / "v0001.npz"
    whole = file.read_bytes()
    for data in (whole[:-30], b"", b"no zip"):
        file.write_bytes(data)
        with pytest.raises(DatasetError, match="is damaged"):
            labels.read(tmp_path, "advantage")
    np.savez(file, edge=np.array([object()]), allow_pickle=True)
    with pytest.raises(DatasetError, match="is damaged"):
        labels.read(tmp_path, "advantage")


def _write(folder: Path, count: int) -> None:
    for number in range(count):
        labels.write(folder, "advantage", of_steps([float(number)]))


def test_processes_that_write_at_once_get_a_version_each(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    writers = [multiprocessing.get_context("spawn").Process(target=_write, args=(tmp_path, 20)) for _ in range(3)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0, 0, 0]
    assert [one.version for one in labels.versions(tmp_path)] == list(range(1, 61))


def test_the_command_lists_them_and_the_store_stays_as_it_is(tmp_path: Path) -> None:
    with SegmentStore(tmp_path / "segments") as store:
        store.append([record.encode(make_segment(last=True), session=7, sequence=0)])
    assert said("labels", tmp_path).stdout == f"{tmp_path / 'segments'} has no labels\n"
    labels.write(tmp_path / "segments", "advantage", of_steps([1.0, 2.0]))
    lines = said("labels", tmp_path).stdout.splitlines()
    assert lines[0].split() == ["name", "version", "labels", "episodes", "numbers", "file"]
    assert lines[1].split()[:5] == ["advantage", "1", "2", "1", "1"]
    [told] = json.loads(said("labels", tmp_path, "--json").stdout)["labels"]
    assert told["file"] == str(tmp_path / "segments" / "labels" / "advantage" / "v0001.npz")
    assert said("verify", tmp_path).stdout.endswith("all well\n")
    with SegmentStore(tmp_path / "segments") as store:
        assert store.stored == 1
    assert isinstance(said("labels", tmp_path / "nowhere").exception, LogError)
