"""`make venv` where it can't go on: one line, exit status not 0. The machine's faults are played by fakes on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NO_PYTHON = "echo 'pyenv: python: command not found' >&2; exit 127"
PYTHON_311 = '[ "$1" = --version ] && echo "Python 3.11.7" && exit; exit 1'
PYTHON_312 = f'exec "{sys.executable}" "$@"'


class Machine:
    """A checkout with only what the set-up reads, and a PATH whose `python3.12`, `python3`, `python`, `df` are ours."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.checkout / "scripts").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in ("python3.12", "python3", "python"):
            self.fake(name, NO_PYTHON)
        self.free_gb(100)

    def fake(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def free_gb(self, gigabytes: int) -> None:
        available = gigabytes * 1024 * 1024
        self.fake("df", f"echo Filesystem 1024-blocks Used Available; echo /dev/x 999999999 1 {available} 1% /")

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.checkout,
            env={**inherited, "PATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def refusal(self, **environment: str) -> str:
        """The one line of a set-up that must fail (Make adds its own line about the failed target)."""
        done = self.make("venv", **environment)
        assert done.returncode != 0
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("setup: ")
        assert not (self.checkout / ".venv" / ".ready").exists()
        return lines[0]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_python(machine: Machine) -> None:
    assert "needs Python 3.12 as python3.12 or python3, found no Python 3;" in machine.refusal()


def test_another_python(machine: Machine) -> None:
    machine.fake("python3", PYTHON_311)
    assert "needs Python 3.12 as python3.12 or python3, found Python 3.11.7;" in machine.refusal()
    assert not (machine.checkout / ".venv").exists()


@pytest.mark.parametrize("name", ["python3.12", "python3", "python"])
def test_python_312_is_found_under_each_of_its_names(machine: Machine, name: str) -> None:
    machine.fake("python3", PYTHON_311)
    machine.fake(name, PYTHON_312)
    machine.free_gb(0)  # stops right after the interpreter was accepted
    assert "disk space" in machine.refusal()


def test_no_venv_module(machine: Machine) -> None:
    machine.fake("python3.12", f'case "$*" in *ensurepip*) exit 1;; esac; {PYTHON_312}')
    assert "python3.12 has no venv module; on Debian and Ubuntu: apt-get install python3.12-venv" in machine.refusal()


def test_no_space(machine: Machine) -> None:
    machine.fake("python3.12", PYTHON_312)
    machine.free_gb(6)
    assert "needs 7 GB of disk space in" in (line := machine.refusal()) and line.endswith("there are 6 GB free")


def test_what_an_unfinished_setup_has_taken_already_counts_as_space(machine: Machine) -> None:
    machine.fake("python3.12", f'case "$*" in *ensurepip*) exit 0;; *venv*) exit 1;; esac; {PYTHON_312}')
    machine.free_gb(6)
    machine.fake("du", "echo 2097152 .venv")
    assert "making .venv failed" in machine.refusal()


def test_no_network(machine: Machine, tmp_path: Path) -> None:
    machine.fake("python3.12", PYTHON_312)
    line = machine.refusal(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert line == "setup: installing uv with pip failed (no network?); see .venv/setup.log"
    assert "ERROR" in (machine.checkout / ".venv" / "setup.log").read_text(encoding="utf-8")


def test_a_full_disk_is_not_called_a_network(machine: Machine) -> None:
    machine.fake(
        "python3.12",
        f'case "$*" in *ensurepip*) ;; *venv*) echo "OSError: [Errno 28] No space left"; exit 1;; esac; {PYTHON_312}',
    )
    assert "the disk is full; see .venv/setup.log" in machine.refusal()


def test_a_venv_of_another_python_is_left_alone(machine: Machine) -> None:
    machine.fake("python3.12", PYTHON_312)
    other = machine.checkout / ".venv" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    other.chmod(0o755)
    assert ".venv holds another Python than 3.12; remove the folder" in machine.refusal()
    assert other.exists()


def test_the_setup_runs_again_only_when_what_it_reads_has_changed(machine: Machine) -> None:
    ready = machine.checkout / ".venv" / ".ready"
    ready.parent.mkdir()
    ready.touch()
    for name in ("pyproject.toml", "requirements.lock", "scripts/setup.sh"):
        newer = ready.stat().st_mtime + 10
        assert machine.make("-q", "venv").returncode == 0
        os.utime(machine.checkout / name, (newer, newer))
        assert machine.make("-q", "venv").returncode == 1
        os.utime(ready, (newer + 10, newer + 10))


def test_every_target_of_help_exists_and_needs_no_setup_to_be_shown(machine: Machine) -> None:
    shown = machine.make().stdout
    for target in ("venv", "demo", "test", "test-slow", "bench", "lint", "clean"):
        assert f"make {target} " in shown
        assert machine.make("-n", target).returncode == 0
