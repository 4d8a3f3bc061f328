"""What is installed, against what pyproject.toml asks for."""

import importlib.util
import platform
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from robotlearn.doctor.check import WAYS, Check

ROOT = Path(__file__).resolve().parents[2]
"""Of the checkout, or site-packages."""
ALL = tuple(WAYS)
OWN_PROBE = ("torch", "torchvision", "mujoco", "pyzmq")
SECTION = "installed"
USES = {
    "lerobot": "arms that LeRobot drives, vision-language-action models, datasets",
    "ray": "edges and learner placed on a cluster",
    "rerun-sdk": "--rerun, a live view of a run",
    "rclpy": "arms behind ROS 2 nodes, services and actions among them",
    "cyclonedds": "arms behind ROS 2 topics, without an installation of ROS 2",
}


class Requirement(NamedTuple):
    """One line of pyproject.toml; `extra` is "" for what is always needed."""

    name: str
    bounds: str
    extra: str


def requirements() -> list[Requirement]:
    """Of the checkout's pyproject.toml, which an installation of it may be older than; else of the installed package."""
    project = _project()
    if project is not None:
        lines = [(line, "") for line in project["dependencies"]]
        lines += [(line, extra) for extra, many in project["optional-dependencies"].items() for line in many]
    else:
        lines = [
            (line, match[1] if (match := re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)) else "")
            for line in metadata.requires("robotlearn") or []
        ]
    found = []
    for line, extra in lines:
        name, bounds = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", line).groups()  # type: ignore[union-attr]
        found.append(Requirement(name, bounds.replace(" ", ""), extra))
    return found


def install_line(extra: str = "") -> str:
    """What installs this robotlearn, or one of its extras."""
    part = f"[{extra}]" if extra else ""
    return f"pip install -e '{ROOT}{part}'" if _project() is not None else f"pip install 'robotlearn{part}'"


def check_installed(found: Mapping[str, Mapping[str, Any]], needs: list[Requirement]) -> list[Check]:
    """`found`: what the probes said of each distribution."""
    checks = [_ourselves(), _python()]
    for need in needs:
        if not need.extra:
            checks.append(_needed(need, found.get(need.name, {"error": "it was not looked at"})))
    checks.append(_ffmpeg(found.get("ffmpeg", {})))
    for need in needs:
        if need.extra and need.extra != "dev":
            checks.append(_optional(need))
    for name in ("rclpy", "cyclonedds"):
        if not any(need.name == name for need in needs):
            checks.append(_ros(name, found.get(name, {})))
    return checks


def allows(bounds: str, version: str) -> bool:
    """Whether `version` lies within bounds such as ">=2.0,<2.3"; letters (rc1, +cu128) don't count."""
    here = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        operator, wanted = re.match(r"([<>=!~]+)(.*)", bound).groups()  # type: ignore[union-attr]
        there = _numbers(wanted)
        width = max(len(here), len(there))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (here, there))
        holds = {
            ">=": a >= b, "<=": a <= b, ">": a > b, "<": a < b, "!=": a != b,
            "==": a[: len(there)] == there if wanted.endswith("*") else a == b,
            "~=": a >= b and a[: len(there) - 1] == there[:-1],
        }  # fmt: skip
        if not holds.get(operator, True):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(map(int, match[1].split("."))) if match else ()


def _project() -> dict[str, Any] | None:
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    return project if project.get("name") == "robotlearn" else None


def _ourselves() -> Check:
    from robotlearn.version import __version__

    where = "checkout" if _project() is not None else "installed"
    try:
        known = metadata.version("robotlearn")
    except metadata.PackageNotFoundError:
        detail = f"{__version__}, {where} at {ROOT}, not known to pip: the command `robotlearn` and drivers are missing"
        return Check(SECTION, "robotlearn", "warning", detail, install_line())
    if known != __version__:
        return Check(
            SECTION, "robotlearn", "warning", f"{__version__} at {ROOT}, while pip knows {known}", install_line()
        )
    return Check(SECTION, "robotlearn", "ok", f"{__version__}, {where} at {ROOT}")


def _python() -> Check:
    detail = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < (3, 12):
        return Check(SECTION, "Python", "broken", detail, "robotlearn needs Python 3.12 or later", ALL)
    return Check(SECTION, "Python", "ok", detail, "", ALL)


def _needed(need: Requirement, facts: Mapping[str, Any]) -> Check:
    remedy = f"pip install '{need.name}{need.bounds}'"
    if "error" in facts:
        missing = facts["error"].startswith(("PackageNotFoundError", "ModuleNotFoundError"))
        detail = f"not installed ({facts['error']})" if missing else facts["error"]
        again = remedy if missing else remedy.replace("install", "install --force-reinstall", 1)
        return Check(SECTION, need.name, "broken", detail, again, ALL)
    if not allows(need.bounds, facts["version"]):
        detail = f"{facts['version']}, and robotlearn needs {need.bounds}"
        return Check(SECTION, need.name, "broken", detail, remedy, ALL)
    if need.name == "torch":
        built = f"CUDA {facts['cuda_built']}" if facts["cuda_built"] else "without CUDA"
        devices = ", ".join(facts["devices"]) or "no GPU that it can use"
        return Check(SECTION, "torch", "ok", f"{facts['version']}, {built}: {devices}", "", ALL)
    if need.name == "mujoco" and not facts["batch"]:
        detail = f"{facts['version']} has no mujoco.batch: no batches of arms, which imitation and evaluation need too"
        return Check(SECTION, "mujoco", "broken", detail, "pip install 'mujoco>=3.17'", ALL)
    if need.name == "pyzmq":
        detail = f"{facts['version']}, libzmq {facts['libzmq']}, {'with' if facts['curve'] else 'without'} CURVE"
        if not facts["curve"]:
            remedy = "pip install --force-reinstall --only-binary :all: pyzmq"
            return Check(SECTION, "pyzmq", "warning", f"{detail}: no keys beyond this machine", remedy, ALL)
        return Check(SECTION, "pyzmq", "ok", detail, "", ALL)
    return Check(SECTION, need.name, "ok", facts["version"], "", ALL)


def _ffmpeg(facts: Mapping[str, Any]) -> Check:
    if "error" in facts or not facts:
        return Check(
            SECTION, "ffmpeg", "warning", f"no videos: {facts.get('error', 'it was not looked at')}",
            "pip install --force-reinstall imageio-ffmpeg",
        )  # fmt: skip
    return Check(SECTION, "ffmpeg", "ok", f"{facts['version']}, {facts['file']}")


def _optional(need: Requirement) -> Check:
    """By its metadata alone: importing LeRobot or Ray takes many seconds."""
    use = USES.get(need.name, f"the extra {need.extra}")
    try:
        found = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Check("optional", need.name, "missing", use, install_line(need.extra))
    if not allows(need.bounds, found):
        detail = f"{found}, and robotlearn needs {need.bounds} ({use})"
        return Check("optional", need.name, "warning", detail, install_line(need.extra))
    return Check("optional", need.name, "ok", f"{found} ({use})")


def _ros(name: str, facts: Mapping[str, Any]) -> Check:
    use = USES[name]
    if "error" not in facts and facts:
        return Check("optional", name, "ok", f"{facts['version'] or 'installed'} ({use})")
    error = facts.get("error", "it was not looked at")
    if name == "cyclonedds":
        remedy = "pip install cyclonedds"
    else:
        setups = sorted(Path("/opt/ros").glob("*/setup.bash"))
        remedy = f"source {setups[-1]}" if setups else "apt install ros-jazzy-ros-base, source /opt/ros/jazzy/setup.bash"
    if importlib.util.find_spec(name) is None:
        return Check("optional", name, "missing", use, remedy)
    return Check("optional", name, "warning", f"is there and can't be imported: {error}", remedy)
