"""The doctor as its user calls it, in a process of its own, with broken parts put before the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robotlearn import gl

ROOT = Path(__file__).parents[2]
ABORTS = """
import os, sys
if sys.orig_argv[-1] == "gl" and os.environ.get("MUJOCO_GL") == "egl":
    os.abort()
"""


def doctor(here: Path, *path: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "robotlearn", "doctor", *options], cwd=here, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "COLUMNS": "100"}, timeout=110,
    )  # fmt: skip


def test_nothing_is_broken_where_the_tests_run(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout and "broken" not in done.stderr
    assert [line for line in done.stdout.splitlines() if line and not line.startswith((" ", "robotlearn "))] == [
        "packages", "optional", "names", *(["drawing"] if sys.platform == "linux" else []), "machine",
    ]  # fmt: skip
    assert max(map(len, done.stdout.splitlines()[1:])) <= 100


@pytest.mark.skipif(sys.platform != "linux", reason="one backend only: there is no other to tell of")
def test_what_is_broken_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    bad, here = tmp_path / "bad", tmp_path / "here"
    (bad / "envs").mkdir(parents=True)
    (bad / "envs" / "__init__.py").write_text("raise RuntimeError('imported')")
    (bad / "xxhash.py").write_text("raise ImportError('libxxhash.so: wrong\\narchitecture')")
    (bad / "sitecustomize.py").write_text(ABORTS)
    (here / "policies").mkdir(parents=True)
    (here / "policies" / "__init__.py").touch()
    done = doctor(here, bad, options=("--json",))
    assert done.returncode == 1, done.stderr
    assert done.stderr == "robotlearn: broken: xxhash, envs\n"
    said = json.loads(done.stdout)
    assert said["ok"] is False
    found: dict[str, dict[str, Any]] = {}
    for check in said["checks"]:
        found.setdefault(check["name"], check)
    assert found["xxhash"]["detail"].endswith("ImportError: libxxhash.so: wrong architecture")
    assert found["xxhash"]["remedy"].startswith("pip install --force-reinstall 'xxhash>=")
    assert found["envs"]["state"] == "broken" and str(bad / "envs") in found["envs"]["remedy"]
    assert found["policies"]["state"] == "warning" and str(here / "policies") in found["policies"]["detail"]
    assert found["egl"]["state"] == "missing" and found["egl"]["detail"].startswith("crashed (SIGABRT)")
    assert {found[name]["state"] for name in ("numpy", "torch", "mujoco", "cores")} <= {"ok", "warning"}
    if found["osmesa"]["state"] == "ok" and gl.available() == "egl":
        assert found["MUJOCO_GL"]["remedy"] == "export MUJOCO_GL=osmesa"
