"""docs/datasets.md: its code runs, and its table names what a dataset has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hal import load_spec
from robotlearn.datasets import labels
from robotlearn.datasets.frames import features
from tests.datasets.runs import make_run, whole
from tests.pages import Page

PAGE = Page("docs/datasets.md")


def test_the_code_labels_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "lift")
    monkeypatch.chdir(tmp_path)
    [code] = PAGE.blocks("python")
    exec(compile(code, "docs/datasets.md", "exec"), {})
    written = labels.read(tmp_path / "runs" / "lift" / "segments", "outcome")
    assert (len(written), written.version) == (4, 1)
    for episode in whole(tmp_path / "runs" / "lift"):
        values, given = written.of(episode.key, len(episode))
        assert given.all() and (values == float(episode.success)).all()


def test_the_table_names_every_feature(tmp_path: Path) -> None:
    found = features(load_spec("panda"), whole(make_run(tmp_path / "run"))[0], {"NAME": 1}, video=False)
    rows = [line.split("|")[1] for line in PAGE.text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert named - {"observation.images.CAMERA"} == set(found)
