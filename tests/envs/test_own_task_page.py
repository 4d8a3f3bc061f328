"""The code in docs/add-your-own-task.md works as it stands there."""

import re
import tomllib
from pathlib import Path

import pytest

from envs import make_task, tasks
from hal import load_spec

PAGE = (Path(__file__).parents[2] / "docs" / "add-your-own-task.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_expert_of_the_pages_task_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {"__name__": "page"}
    for block in blocks("python"):
        exec(block, scope)
    success = float(capsys.readouterr().out.strip().rstrip("%"))
    assert success >= 95


def test_installed_as_the_page_says_it_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    points = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]["robotlearn.tasks"]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "press.py").write_text(blocks("python")[0])
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[{tasks.GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    for arm in ("panda", "so101"):
        assert type(make_task("press", load_spec(arm))).__name__ == "Press"
    assert tasks.task_of("Press the yellow button.") == "press"
