"""The machine: what draws, GPUs, cores."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robotlearn import gl
from robotlearn.doctor.check import Check
from robotlearn.doctor.children import Found, Probe

BACKENDS = {"egl": "apt install libegl1 libgl1", "osmesa": "apt install libosmesa6", "glfw": ""}
"""How MuJoCo can draw on Linux, and what it takes; the first two need no screen."""
CGROUPS = Path("/sys/fs/cgroup")


def probes() -> dict[str, Probe]:
    """What tries GPUs and backends; elsewhere than on Linux MuJoCo knows one way to draw only."""
    names = [name for name in BACKENDS if name != "glfw" or gl.has_display()] if sys.platform == "linux" else []
    return {"gpu": Probe(["gpu"])} | {name: Probe(["gl"], {"MUJOCO_GL": name}) for name in names}


def check_drawing(found: Found) -> list[Check]:
    """`found`: what the probes said. One backend that draws is enough."""
    if sys.platform != "linux":
        return []
    chosen = os.environ.get("MUJOCO_GL") or gl.available()
    works = [name for name in BACKENDS if "error" not in found.get(name, {"error": ""})]
    checks = []
    for name, remedy in BACKENDS.items():
        used = "; robotlearn draws with it" if name == chosen else ""
        facts = found.get(name, {"error": "no display here"})
        if name in works:
            checks.append(Check("drawing", name, "ok", f"by {facts['by']}{used}"))
        else:
            checks.append(Check("drawing", name, "missing", facts["error"], remedy))
    if not works:
        detail = "nothing draws: no videos and no cameras; what learns from joints alone goes on"
        checks.append(Check("drawing", "pictures", "warning", detail, BACKENDS["egl"]))
    elif chosen not in works:
        detail = f"robotlearn draws with {chosen or 'nothing'}, which does not work here"
        checks.append(Check("drawing", "MUJOCO_GL", "warning", detail, f"export MUJOCO_GL={works[0]}"))
    return checks


def check_gpus(facts: Mapping[str, Any], torch: Mapping[str, Any]) -> Check:
    """`facts` of nvidia-smi, and what torch can use."""
    devices = ", ".join(torch.get("devices", []))
    if "error" in facts:
        return Check("machine", "GPU", "warning", f"nvidia-smi: {facts['error']}", "install NVIDIA's driver again")
    listed = "; ".join(f"{name}, {float(mib) / 1024:.0f} GiB, driver {driver}" for name, mib, driver in facts["gpus"])
    if listed and not devices:
        remedy = "a torch for this driver, or a driver for this torch: https://pytorch.org/get-started/locally"
        return Check("machine", "GPU", "warning", f"{listed}: torch can't use it", remedy)
    return Check("machine", "GPU", "ok", listed or devices or "none that torch can use; the CPU does it all")


def check_cores() -> Check:
    """Cores that this process may use: affinity and cgroup bound what the machine has."""
    whole = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else whole
    quota = cgroup_quota(CGROUPS, Path("/proc/self/cgroup"))
    cores = min(usable, quota or usable)
    detail = f"{cores:g}" + (f" of {whole}" if cores < whole else "")
    if cores < 2:
        return Check("machine", "cores", "warning", f"{detail}: learner and edges take turns", "two are enough")
    return Check("machine", "cores", "ok", detail)


def cgroup_quota(root: Path, membership: Path) -> float | None:
    """Cores that the tightest of this process's groups allows (cgroup v2's cpu.max); None: no bound."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    bounds = []
    for folder in [root / group, *(root / group).parents]:
        if folder.is_relative_to(root) and (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                bounds.append(int(quota) / int(period))
    return min(bounds, default=None)
