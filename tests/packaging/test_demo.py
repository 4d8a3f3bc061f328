"""What `make demo` calls, with what, and where its run goes; the program itself is played by a fake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "demo.sh", tmp_path / "scripts" / "demo.sh")
    _program(tmp_path, "robotlearn", 'echo "$*"; [ "$1" != train ] || mkdir -p "$4"')
    _program(tmp_path, "python", "exit 0")
    return tmp_path


def _program(checkout: Path, name: str, script: str) -> None:
    file = checkout / ".venv" / "bin" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


def _demo(checkout: Path) -> subprocess.CompletedProcess[str]:
    script = checkout / "scripts" / "demo.sh"
    return subprocess.run(["bash", str(script)], cwd=os.sep, capture_output=True, text=True, check=False)


def test_the_demo_trains_then_measures_on_new_seeds_and_films(checkout: Path) -> None:
    done = _demo(checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "train configs/laptop.yaml --run runs/demo",
        "eval runs/demo --episodes 200 --seed 1000 --video runs/demo/lift.gif",
    ]


def test_a_second_demo_leaves_the_first_alone(checkout: Path) -> None:
    _demo(checkout)
    second = _demo(checkout).stdout
    assert re.search(r"train configs/laptop.yaml --run runs/demo-[0-9]{8}-[0-9]{6}\n", second)
    assert re.search(r"eval runs/demo-[0-9]{8}-[0-9]{6} ", second)
    assert len(list((checkout / "runs").iterdir())) == 2


def test_without_a_library_to_draw_with_the_demo_says_so_and_goes_on(checkout: Path) -> None:
    _program(checkout, "python", "exit 1")
    done = _demo(checkout)
    assert done.returncode == 0, done.stderr
    assert "demo: no video" in done.stdout and "apt-get install libegl1" in done.stdout
    assert "--video" not in done.stdout and "eval runs/demo --episodes 200 --seed 1000\n" in done.stdout


def test_a_failed_training_is_not_evaluated(checkout: Path) -> None:
    _program(checkout, "robotlearn", '[ "$1" = eval ] && echo evaluated; exit 2')
    done = _demo(checkout)
    assert done.returncode == 2 and "evaluated" not in done.stdout
