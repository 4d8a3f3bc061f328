"""The code in docs/add-your-own-task.md works as it stands there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envs import make_task, tasks
from hal import load_spec
from tests.pages import Page

PAGE = Page("docs/add-your-own-task.md")


@pytest.mark.parametrize("name", ["Press", "Ring"])
def test_the_expert_of_the_pages_task_succeeds(tmp_path: Path, name: str) -> None:
    task, watch, words = PAGE.blocks("python")
    if name == "Ring":
        task, watch = words, watch.replace("from press", "from ring").replace("Press", "Ring")
    (tmp_path / f"{name.lower()}.py").write_text(task)
    (tmp_path / "watch.py").write_text(watch)
    done = subprocess.run([sys.executable, "watch.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.strip().rstrip("%")) >= 95


def test_installed_as_the_page_says_it_is_known_by_name(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    (project,) = PAGE.blocks("toml")
    install(project, {"my_package/__init__.py": "", "my_package/press.py": PAGE.blocks("python")[0]})
    for arm in ("panda", "so101"):
        assert type(make_task("press", load_spec(arm))).__name__ == "Press"
    assert tasks.task_of("Press the yellow button.") == "press"
