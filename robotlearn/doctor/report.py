"""Puts the looks together, prints them as a table or as JSON, and says with which status the command ends."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robotlearn.doctor import machine, shadow
from robotlearn.doctor.check import WAYS, Check
from robotlearn.doctor.children import Found, run_probes
from robotlearn.doctor.installed import OWN_PROBE, ROOT, Requirement, check_installed, requirements

BACKENDS = {
    "egl": "apt install libegl1 libgl1",
    "osmesa": "apt install libosmesa6",
    "glfw": "needs a screen: not needed without one",
}
Progress = Callable[[list[str]], None]


def look(progress: Progress = lambda waiting: None) -> list[Check]:
    """Everything, in a few seconds; no look that fails keeps the others from being done."""
    needs: list[Requirement] = []
    checks = _safely("installed", "requirements", lambda: needs.extend(requirements()) or [])
    found = run_probes(_probes(needs), progress)
    checks += _safely("installed", "packages", lambda: check_installed(found, needs))
    checks += _safely("names", "names", lambda: shadow.check_names(ROOT, Path.cwd()))
    checks += _safely("drawing", "drawing", lambda: drawing(found))
    checks += _safely("machine", "GPU", lambda: [gpus(found.get("gpu", {}), found.get("torch", {}))])
    looks: dict[str, Callable[[], list[Check]]] = {
        "cores": lambda: [machine.cores()], "memory": lambda: [machine.memory()], "disk": machine.disks,
        "open files": lambda: [machine.files()], "shared memory": lambda: [machine.shared_memory()],
        "clock": lambda: [machine.clock()],
    }  # fmt: skip
    for name, one in looks.items():
        checks += _safely("machine", name, one)
    return checks + ways(checks)


def broken(checks: list[Check]) -> list[str]:
    """The names of what a way of use needs and lacks."""
    return [check.name for check in checks if check.state == "broken" and check.ways and check.section != "ways"]


def ways(checks: list[Check]) -> list[Check]:
    """Each way of use: whether all that it needs is well."""
    result = []
    for way, words in WAYS.items():
        lacks = [check.name for check in checks if check.state == "broken" and way in check.ways]
        if lacks:
            result.append(Check("ways", way, "broken", f"{words}: {', '.join(lacks)}", "mend what is broken above"))
        else:
            result.append(Check("ways", way, "ok", words))
    return result


def drawing(found: Found) -> list[Check]:
    """Which of MuJoCo's three ways to draw without or with a screen do; one is enough."""
    from robotlearn import gl

    chosen = os.environ.get("MUJOCO_GL") or gl.available()
    works = [name for name in BACKENDS if found.get(name) and "error" not in found[name]]
    checks = []
    for name, remedy in BACKENDS.items():
        facts = found.get(name, {"error": "it was not looked at"})
        used = ", the one that robotlearn uses" if name == chosen else ""
        if name in works:
            detail = f"{facts['ms']:g} ms per picture of 320 x 240, by {facts['by'] or 'unknown'}{used}"
            checks.append(Check("drawing", name, "ok", detail))
        elif name == chosen and works:
            checks.append(Check("drawing", name, "warning", facts["error"] + used, f"export MUJOCO_GL={works[0]}"))
        else:
            checks.append(Check("drawing", name, "missing", facts["error"], remedy))
    if not works:
        detail = "nothing draws: no videos, no cameras; what learns from joints alone goes on"
        checks.append(Check("drawing", "pictures", "warning", detail, BACKENDS["egl"]))
    return checks


def gpus(facts: Mapping[str, Any], torch: Mapping[str, Any]) -> Check:
    devices = torch.get("devices", [])
    if "error" in facts:
        return Check("machine", "GPU", "warning", f"nvidia-smi: {facts['error']}", "install NVIDIA's driver again")
    listed = [f"{name}, {float(mib) / 1024:.0f} GiB, driver {driver}" for name, mib, driver in facts.get("gpus", [])]
    if listed and not devices:
        remedy = "a driver that torch's CUDA knows, or a torch for this driver: https://pytorch.org/get-started"
        return Check("machine", "GPU", "warning", f"{'; '.join(listed)}: torch can't use it", remedy)
    if not listed:
        return Check("machine", "GPU", "ok", ", ".join(devices) or "none: the CPU does it all")
    return Check("machine", "GPU", "ok", "; ".join(listed))


def _probes(needs: list[Requirement]) -> dict[str, tuple[list[str], dict[str, str]]]:
    plain = [need.name for need in needs if not need.extra and need.name not in OWN_PROBE]
    probes: dict[str, tuple[list[str], dict[str, str]]] = {
        "torch": (["torch"], {}), "imports": (["imports", json.dumps(plain)], {}), "mujoco": (["mujoco"], {}),
        "pyzmq": (["zmq"], {}), "ffmpeg": (["ffmpeg"], {}), "gpu": (["gpu"], {}),
        "rclpy": (["package", "rclpy"], {}), "cyclonedds": (["package", "cyclonedds"], {}),
    }  # fmt: skip
    try:
        from hal.data import data_path

        mjcf = str(data_path("hardware_specs", "panda", "panda.xml"))
    except Exception:  # said by the names, or by the installation; here there is nothing to draw
        return probes
    return probes | {name: (["gl", mjcf], {"MUJOCO_GL": name}) for name in BACKENDS}


def _safely(section: str, name: str, one: Callable[[], list[Check]]) -> list[Check]:
    try:
        return one()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return [Check(section, name, "warning", f"can't be looked at here ({text})")]


# ---- what is printed


MARKS = {"ok": ("ok", "green"), "missing": ("-", "dim"), "warning": ("warning", "yellow"), "broken": ("BROKEN", "red")}


def main(*, as_json: bool) -> int:
    """Look and print; 0 when every way of use works, else 1."""
    if as_json:
        checks = look()
        lacks = broken(checks)
        print(json.dumps({"ok": not lacks, "broken": lacks, "checks": [check.as_json() for check in checks]}))
        return int(bool(lacks))
    checks = _with_progress()
    try:
        _table(checks)
    except ImportError:  # without rich, which is then among what is missing
        for check in checks:
            todo = f" -> {check.remedy}" if check.remedy else ""
            print(f"{check.section:10} {MARKS[check.state][0]:8} {check.name}: {check.detail}{todo}")
    lacks = broken(checks)
    if lacks:
        print(f"robotlearn: broken: {', '.join(lacks)}", file=sys.stderr)
    return int(bool(lacks))


def _with_progress() -> list[Check]:
    try:
        from rich.console import Console
    except ImportError:
        return look()
    console = Console(stderr=True)
    with console.status("looking ...") as status:
        return look(lambda waiting: status.update(f"looking ... {', '.join(waiting)}"))


def _table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("state")
    table.add_column("what", no_wrap=True)
    table.add_column("found", ratio=3, overflow="fold")
    table.add_column("to do", ratio=2, overflow="fold")
    section = ""
    for check in checks:
        if section and check.section != section:
            table.add_row()
        word, style = MARKS[check.state]
        table.add_row(
            Text(check.section if check.section != section else "", style="bold"), Text(word, style=style),
            Text(check.name), Text(check.detail), Text(check.remedy),
        )  # fmt: skip
        section = check.section
    Console().print(table)
