"""`robotlearn data export|import|import-bag|labels`: what is on the command line, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.datasets import writing
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.writing import folder_of
from robotlearn.errors import ConfigError, ExtraError, LogError
from tests.datasets.foreign_sets import make_foreign
from tests.datasets.runs import make_run, whole


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (["export", "nowhere", "--out", "set"], LogError, "nowhere holds no stored segments"),
        (["export", ".", "--out", "."], DatasetError, ". exists and is no LeRobotDataset: choose another --out"),
        (["import", "nowhere", "--out", "demo", "--robot", "panda"], DatasetError, "nowhere is no LeRobotDataset"),
        (["import", ".", "--out", "demo", "--robot", "panda", "--rename", "x"], DatasetError, "expected FROM=TO"),
        (["import-bag", ".", "--out", "demo", "--robot", "panda", "--image", "x"], DatasetError, "CAMERA=TOPIC"),
        (["import-bag", ".", "--out", "demo", "--robot", "panda", "--option", "x"], ConfigError, "such as unit=deg"),
        (["labels", "nowhere"], LogError, "nowhere holds no stored segments"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[Exception], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = said(*arguments).exception
    assert isinstance(found, error) and text in str(found) and "\n" not in str(found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "missing"), [(["export", "."], "lerobot"), (["import", "."], "pyarrow")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], missing: str
) -> None:
    from robotlearn.datasets import reading

    for module in (writing, reading):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    options = ["--out", str(tmp_path / "out"), *(["--robot", "panda"] if arguments[0] == "import" else [])]
    found = said(*arguments, *options).exception
    assert isinstance(found, ExtraError) and f"needs {missing}" in str(found).replace("need ", "needs ")
    assert "pip install" in str(found)


def test_a_repository_lies_where_lerobot_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("lerobot.utils.constants")
    assert folder_of("repo:me/lift") == constants.HF_LEROBOT_HOME / "me" / "lift"
    monkeypatch.setenv("HF_LEROBOT_HOME", "/data/sets")
    assert folder_of("repo:me/lift") == Path("/data/sets/me/lift")
    monkeypatch.delenv("HF_LEROBOT_HOME")
    monkeypatch.setenv("HF_HOME", "/data/hub")
    assert folder_of("repo:me/lift") == Path("/data/hub/lerobot/me/lift")
    assert folder_of("sets/lift") == Path("sets/lift")


@pytest.mark.timeout(300)
def test_there_and_back_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lerobot")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    run = make_run(tmp_path / "run")
    done = said("export", run, "--out", "repo:me/lift", "--only", "successes")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert f"{tmp_path / 'home' / 'me' / 'lift'}: a LeRobotDataset of 1 episodes, 11 frames\n" in done.stdout
    assert "failed" not in done.stdout
    for name in ("me/lift", "repo:me/lift"):
        done = said("import", name, "--out", tmp_path / name.replace("/", "_"), "--robot", "panda")
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        assert "1 episodes came in, 1 of them successes\n" in done.stdout
    assert len(whole(tmp_path / "me_lift")) == 1


@pytest.mark.timeout(300)
def test_what_is_not_taken_is_said(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    way = np.tile(np.array([0, 0, 0, 0, 0, 0.02], np.float32), (5, 1))
    make_foreign(tmp_path / "set", [way], observation__effort=[np.ones(5, np.float32)])
    done = said("import", tmp_path / "set", "--out", tmp_path / "demo", "--robot", "so101")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert "not taken: observation.effort (--rename FROM=TO takes one)" in done.stdout
