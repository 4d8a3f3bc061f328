"""The code in docs/add-your-own-task.md works as it stands there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from envs import make_task, tasks
from hal import load_spec
from tests.pages import Page

PAGE = Page("docs/add-your-own-task.md")


def test_the_expert_of_the_pages_task_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {"__name__": "page"}
    for block in PAGE.blocks("python"):
        exec(block, scope)
    success = float(capsys.readouterr().out.strip().rstrip("%"))
    assert success >= 95


def test_installed_as_the_page_says_it_is_known_by_name(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    (project,) = PAGE.blocks("toml")
    install(project, {"my_package/__init__.py": "", "my_package/press.py": PAGE.blocks("python")[0]})
    for arm in ("panda", "so101"):
        assert type(make_task("press", load_spec(arm))).__name__ == "Press"
    assert tasks.task_of("Press the yellow button.") == "press"
