"""What the doctor makes of what it found: packages, backends, GPUs, cores."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from robotlearn import gl
from robotlearn.doctor.check import Check
from robotlearn.doctor.children import Probe, run_probes
from robotlearn.doctor.installed import Requirement, check_packages, requirements
from robotlearn.doctor.machine import cgroup_quota, check_drawing, check_gpus
from robotlearn.doctor.report import show

BOUNDS = [
    (">=2.0,<2.3", "2.2.6", True), (">=2.0,<2.3", "2.3", False), (">=2.0,<2.3", "1.26.4", False),
    (">=3.10", "3.9.2", False), (">=3.10", "3.10.0rc1", True), ("==2.11.0", "2.11.0+cu130", True),
    ("==2.11.0", "2.10.0", False), ("==2.11.*", "2.11.3", True), ("!=8.3.*,>=5.3", "8.3.1", False),
    ("~=1.4.2", "1.4.9", True), ("~=1.4.2", "1.5.0", False), ("", "0.1", True),
]  # fmt: skip


@pytest.mark.parametrize(("bounds", "version", "allowed"), BOUNDS)
def test_bounds(bounds: str, version: str, allowed: bool) -> None:
    assert Requirement("x", bounds).allows(version) is allowed


def test_the_project_is_read_as_it_is_written() -> None:
    needs = {need.name: need for need in requirements()}
    assert needs["numpy"] == Requirement("numpy", ">=2.0,<2.3", "")
    assert needs["rerun-sdk"].extra == "viz" and "pytest" not in needs
    for need in needs.values():
        assert need.bounds
        need.allows("1.0")  # ValueError: a bound that it does not know
    assert Requirement.parse("ray (>=2.50) ; extra == 'ray'") == Requirement("ray", ">=2.50", "ray")
    assert Requirement.parse("moviepy[a,b]>=1") == Requirement("moviepy", ">=1")


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version, more in (("companion", "1.0", "Requires-Dist: numpy==1.0\n"), ("viewer", "0.2", "")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")
    monkeypatch.syspath_prepend(tmp_path)
    needs = [
        Requirement("numpy", ">=2"), Requirement("rich", ">=999"), Requirement("no-such-thing", ">=3"),
        Requirement("msgspec", ">=0.1"), Requirement("xxhash", ""), Requirement("companion", ""),
        Requirement("viewer", ">=0.3", "viz"), Requirement("another-thing", ">=1,<2", "ray"),
    ]  # fmt: skip
    found = {"numpy": {"file": ""}, "msgspec": {"error": "crashed (SIGILL)"}, "companion": {"file": ""}}
    checks = check_packages(found, needs)
    assert [(check.name, check.state, check.remedy) for check in checks] == [
        ("numpy", "ok", ""),
        ("rich", "broken", "pip install 'rich>=999'"),
        ("no-such-thing", "broken", "pip install 'no-such-thing>=3'"),
        ("msgspec", "broken", "pip install --force-reinstall 'msgspec>=0.1'"),
        ("xxhash", "warning", ""),
        ("companion", "warning", "pip install --upgrade companion numpy"),
        ("viewer", "warning", "pip install 'viewer>=0.3'"),
        ("another-thing", "missing", "pip install 'another-thing>=1,<2'"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="MuJoCo draws in one way only")
def test_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "available", lambda: "egl")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    well, ill = {"by": "a GPU"}, {"error": "crashed (SIGSEGV)"}

    def last(**found: dict[str, object]) -> tuple[str, str, str]:
        check = check_drawing(found)[-1]
        return check.name, check.state, check.remedy

    assert last(egl=well, osmesa=ill) == ("glfw", "missing", "")
    assert last(egl=ill, osmesa=well) == ("MUJOCO_GL", "warning", "export MUJOCO_GL=osmesa")
    assert last(egl=ill, osmesa=ill) == ("pictures", "warning", "apt install libegl1 libgl1")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert last(egl=ill, osmesa=well) == ("glfw", "missing", "")
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert last(egl=well) == ("MUJOCO_GL", "warning", "export MUJOCO_GL=egl")


SMI = {
    "two": ("echo 'NVIDIA X1, 81920, 550.1'; echo 'NVIDIA X1, 81920, 550.1'", "ok", "NVIDIA X1, 80 GiB, driver 550.1;"),
    "fails": ("echo 'Driver/library version mismatch'; exit 18", "warning", "nvidia-smi: RuntimeError: Driver/library"),
}


@pytest.mark.parametrize("case", SMI)
def test_gpus(case: str, tmp_path: Path) -> None:
    script, state, begins = SMI[case]
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    found = run_probes({"gpu": Probe(["gpu"], {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})})
    check = check_gpus(found["gpu"], {"devices": ["NVIDIA X1", "NVIDIA X1"]})
    assert check.state == state and check.detail.startswith(begins)
    assert check_gpus(found["gpu"], {"error": "crashed"}).state == "warning", "a GPU that torch can't use"


def test_no_gpu(tmp_path: Path) -> None:
    found = run_probes({"gpu": Probe(["gpu"], {"PATH": str(tmp_path)})})
    assert found["gpu"] == {"gpus": []}
    assert check_gpus(found["gpu"], {"devices": []}).state == "ok"
    assert check_gpus(found["gpu"], {"devices": ["Apple GPU (mps)"]}).detail == "Apple GPU (mps)"


def test_the_tightest_group_bounds_the_cores(tmp_path: Path) -> None:
    root, group = tmp_path / "cgroup", tmp_path / "cgroup" / "a" / "b"
    group.mkdir(parents=True)
    membership = tmp_path / "self"
    membership.write_text("0::/a/b\n")
    assert cgroup_quota(root, membership) is None
    (root / "cpu.max").write_text("max 100000\n")
    (root / "a" / "cpu.max").write_text("150000 100000\n")
    (group / "cpu.max").write_text("400000 100000\n")
    assert cgroup_quota(root, membership) == 1.5
    membership.write_text("1:cpu:/old\n")
    assert cgroup_quota(root, membership) is None
    assert cgroup_quota(root, tmp_path / "nowhere") is None


def test_what_is_printed() -> None:
    stream = io.StringIO()
    checks = [
        Check("packages", "numpy", "ok", "2.2.6"),
        Check("packages", "mujoco", "broken", "not installed", "pip install " + "x" * 60),
        Check("packages", "torch", "ok", "2.11.0, CUDA 13.0"),
        Check("machine", "GPU", "ok", "a name " * 8),
    ]
    show("about", checks, Console(file=stream, width=50))
    assert stream.getvalue().splitlines() == [
        "about", "",
        "packages",
        "  ok       numpy 2.2.6, torch 2.11.0 CUDA 13.0",
        "  BROKEN   mujoco: not installed",
        "           pip install " + "x" * 60, "",
        "machine",
        "  ok       GPU: a name a name a name a name a name",
        "           a name a name a name",
    ]  # fmt: skip
