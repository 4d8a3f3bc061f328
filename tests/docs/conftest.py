"""A place for each page to be tried in, and its package installed there."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import site

__all__ = ["site"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """install(project, files): what pip leaves of a package, its files and the entry points that `project`, the text of
    its pyproject.toml, declares; found by this process, until the test ends, and by those it starts.
    """
    place = tmp_path / "site-packages"
    known = set(sys.modules)

    def install(project: str, files: dict[str, str]) -> None:
        meta = tomllib.loads(project)["project"]
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
        info = place / f"{meta['name'].replace('-', '_')}-{meta['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {meta['name']}\nVersion: {meta['version']}\n")
        groups = (
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in meta["entry-points"].items()
        )
        (info / "entry_points.txt").write_text("".join(groups))
        monkeypatch.syspath_prepend(place)
        monkeypatch.setenv("PYTHONPATH", str(place), prepend=":")

    yield install
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(place)):
            del sys.modules[name]
