"""Packages called like ours, in folders of the user's: found by a fresh interpreter with that path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOK = """
import json, pathlib, sys
from dataclasses import asdict
from robotlearn.doctor.names import check_names
print(json.dumps([asdict(check) for check in check_names(pathlib.Path(sys.argv[1]), pathlib.Path.cwd())]))
print([name for name in ("hal", "envs", "policies") if name in sys.modules])
"""


def look(here: Path, *path: Path, ours: Path = ROOT) -> list[tuple[str, str, str]]:
    """Name, state and detail of what has to do with the folders of this test."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK, str(ours)], cwd=here, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
    )  # fmt: skip
    checks, imported = done.stdout.splitlines()
    assert imported == "[]"
    theirs = str(here.parent)
    return [
        (one["name"], one["state"], one["detail"].replace(theirs, ""))
        for one in json.loads(checks)
        if theirs in one["detail"] or one["state"] == "broken" or "installs" in one["detail"]
    ]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def write(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def test_none_of_them(here: Path) -> None:
    assert look(here, ROOT) == []


def test_one_that_comes_before_ours(here: Path, tmp_path: Path) -> None:
    write(tmp_path / "ros" / "envs" / "__init__.py")
    write(tmp_path / "ros" / "hal.py")
    assert look(here, tmp_path / "ros", ROOT) == [
        ("hal", "broken", f"`import hal` finds /ros/hal.py, not {ROOT}/hal"),
        ("envs", "broken", f"`import envs` finds /ros/envs, not {ROOT}/envs"),
    ]


def test_one_that_comes_after_ours(here: Path, tmp_path: Path) -> None:
    write(tmp_path / "ros" / "policies" / "__init__.py")
    assert look(here, ROOT, tmp_path / "ros") == [
        ("policies", "warning", f"/ros/policies is hidden: `import policies` finds {ROOT}/policies")
    ]


def test_one_where_the_user_works(here: Path) -> None:
    write(here / "envs" / "__init__.py")
    ((name, state, detail),) = look(here, ROOT)
    assert (name, state) == ("envs", "warning")
    assert detail.startswith("/here/envs takes its place in scripts started here")


@pytest.mark.parametrize("file", ["envs/reach.py", "envs/reach/__init__.py"])
def test_a_folder_without_init_is_hidden_wherever_it_is(here: Path, tmp_path: Path, file: str) -> None:
    write(here / file)
    write(tmp_path / "ros" / file)
    assert [(name, state, detail.split(":")[0]) for name, state, detail in look(here, tmp_path / "ros", ROOT)] == [
        ("envs", "warning", "/here/envs is hidden"),
        ("envs", "warning", "/ros/envs is hidden"),
    ]


def test_a_folder_of_other_things_hides_nothing(here: Path) -> None:
    """Conda keeps its environments in a folder `envs`."""
    write(here / "envs" / "base" / "bin" / "python")
    assert look(here, ROOT) == []


def test_another_robotlearn_is_told_of_once(here: Path, tmp_path: Path) -> None:
    for name in ("robotlearn/__init__.py", "robotlearn/version.py", "hal/__init__.py", "envs/__init__.py"):
        write(tmp_path / "old" / name)
    assert [name for name, _, _ in look(here, ROOT, tmp_path / "old")] == ["robotlearn"]


def test_a_distribution_that_writes_over_our_files(here: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(site / "envs" / "__init__.py")
    write(site / "gymkit-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: gymkit\nVersion: 1.0\n")
    write(site / "gymkit-1.0.dist-info" / "RECORD").write_text("envs/__init__.py,,\n")
    found = {name: (state, detail) for name, state, detail in look(here, site, ROOT, ours=site)}
    state, detail = found["envs"]
    assert state == "warning" and detail.startswith("gymkit installs a package envs too")
