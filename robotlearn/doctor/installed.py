"""What is installed, against what pyproject.toml asks for."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from robotlearn.doctor.check import Check
from robotlearn.doctor.children import Found, Probe

ROOT = Path(__file__).resolve().parents[2]
"""Of the checkout, or site-packages."""
MODULES = {"imageio-ffmpeg": "imageio_ffmpeg", "pillow": "PIL", "pyserial": "serial", "pyyaml": "yaml", "pyzmq": "zmq"}
"""What is imported of a distribution, where it has another name."""
TRIED_APART = ("torch", "mujoco", "torchvision")
"""The first two by probes of their own. Importing torchvision takes longer than torch itself; its version has to do."""
FOR_DEVELOPERS = ("dev", "bench")
USES = {
    "lerobot": "the driver lerobot, datasets",
    "cyclonedds": "the driver dds",
    "rerun-sdk": "--rerun, a live view of a run",
    "ray": "train --ray, a run placed on a cluster",
}


class Requirement(NamedTuple):
    """A distribution and what its version must be, such as ">=2.0,<2.3"; `extra` is "" for what is always needed."""

    name: str
    bounds: str
    extra: str = ""

    @classmethod
    def parse(cls, line: str, extra: str = "") -> "Requirement":
        """Of a line of pyproject.toml or of a distribution's metadata."""
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", line)
        if match is None:
            raise ValueError(f"not a requirement: {line!r}")
        marker = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        return cls(match[1], match[2].replace(" ", ""), marker[1] if marker else extra)

    def allows(self, version: str) -> bool:
        """By the numbers; letters (rc1, +cu128) don't count. Raises ValueError for a bound that it does not know."""
        here = _numbers(version)
        for bound in filter(None, self.bounds.split(",")):
            operator, there = re.split(r"(?=\d)", bound, maxsplit=1)[0], _numbers(bound.lstrip("<>=!~"))
            width = max(len(here), len(there))
            a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (here, there))
            alike = here[: len(there)] == there if bound.endswith("*") else a == b
            holds = {">=": a >= b, "<=": a <= b, ">": a > b, "<": a < b, "==": alike, "!=": not alike,
                     "~=": a >= b and a[: len(there) - 1] == there[:-1]}  # fmt: skip
            if operator not in holds:
                raise ValueError(f"{self.name}: unknown bound {bound!r}")
            if not holds[operator]:
                return False
        return True

    @property
    def install(self) -> str:
        return f"pip install '{self.name}{self.bounds}'"


def requirements() -> list[Requirement]:
    """Of the checkout's pyproject.toml, which its installation may be older than; else of the installed package."""
    project = ROOT / "pyproject.toml"
    if project.exists():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = table["optional-dependencies"].items()
        lines = [(line, "") for line in table["dependencies"]]
        lines += [(line, extra) for extra, many in extras for line in many]
    else:
        lines = [(line, "") for line in metadata.requires("robotlearn") or []]
    return [need for need in (Requirement.parse(*line) for line in lines) if need.extra not in FOR_DEVELOPERS]


def probes(needs: list[Requirement]) -> dict[str, Probe]:
    """What tries them."""
    modules = [_module(need.name) for need in needs if not need.extra and need.name not in TRIED_APART]
    return {"packages": Probe(["import", *modules]), "torch": Probe(["torch"]), "mujoco": Probe(["mujoco"])}


def check_packages(found: Found, needs: list[Requirement]) -> list[Check]:
    """`found`: what the probes said. What is always needed comes first."""
    return [
        *(_needed(need, found, needs) for need in needs if not need.extra),
        *(_optional(need) for need in needs if need.extra),
    ]


def _needed(need: Requirement, found: Found, needs: list[Requirement]) -> Check:
    section, name = "packages", need.name
    version = _version(name)
    if version is None:
        return Check(section, name, "broken", "not installed", need.install)
    if not need.allows(version):
        return Check(section, name, "broken", f"{version}, and robotlearn needs {need.bounds}", need.install)
    facts = found.get(_module(name))
    if facts is None and name != "torchvision":
        return Check(section, name, "warning", f"{version}, not tried: what was tried before it crashed")
    if facts is not None and "error" in facts:
        again = need.install.replace("install", "install --force-reinstall", 1)
        return Check(section, name, "broken", f"{version}, {facts['error']}", again)
    for other in _demands(name, needs):
        here = _version(other.name)
        if here is not None and not other.allows(here):
            detail = f"{version}, which goes with {other.name}{other.bounds}, and here is {here}"
            return Check(section, name, "warning", detail, f"pip install --upgrade {name} {other.name}")
    if name == "torch" and facts is not None:
        version += f", CUDA {facts['cuda']}" if facts["cuda"] else ", without CUDA"
    return Check(section, name, "ok", version)


def _optional(need: Requirement) -> Check:
    """By its metadata alone: importing LeRobot or Ray takes many seconds."""
    use = USES.get(need.name, f"the extra {need.extra!r}")
    version = _version(need.name)
    if version is None:
        return Check("optional", need.name, "missing", f"not installed ({use})", need.install)
    if not need.allows(version):
        detail = f"{version}, and {use} needs {need.bounds}"
        return Check("optional", need.name, "warning", detail, need.install)
    return Check("optional", need.name, "ok", f"{version} ({use})")


def _demands(name: str, needs: list[Requirement]) -> list[Requirement]:
    """What a distribution asks of others that are in `needs`."""
    names = {need.name for need in needs if not need.extra}
    lines = [line for line in metadata.requires(name) or [] if ";" not in line]
    return [one for one in map(Requirement.parse, lines) if one.name in names]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _module(distribution: str) -> str:
    return MODULES.get(distribution, distribution)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(map(int, match[1].split("."))) if match else ()
