"""Who may import whom: the layers of the project, held by reading every import and by looking at what gets loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"hal", "envs", "policies", "robotlearn"}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("hal", set()), ("envs", {"hal"}), ("policies", set()), ("robotlearn", {"hal", "envs", "policies"})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_package_imports_only_the_layers_below_it(package: str, allowed: set[str]) -> None:
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            wrong += [f"{file.relative_to(ROOT)}:{node.lineno}: {top}" for top in tops & OURS - allowed - {package}]
    assert wrong == []


def test_ray_which_is_an_extra_is_imported_by_the_cluster_alone() -> None:
    where = {
        file.relative_to(ROOT).parent.as_posix()
        for package in OURS
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.partition(".")[0] == "ray"
    }
    assert where == {"robotlearn/cluster"}


@pytest.mark.parametrize(
    "module", ["hal", "envs", "robotlearn", "robotlearn.config", "robotlearn.errors", "robotlearn.report.compare"]
)
def test_what_runs_beside_the_robot_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
