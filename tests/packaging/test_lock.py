"""requirements.lock pins all that pyproject.toml asks for, for every platform, without an address."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()]
EXTRAS = ("bags", "datasets", "dds", "lerobot", "ray", "viz", "vla")  # of users; the others are for development
BROUGHT = ("cv2", "datasets", "draccus")  # by lerobot, and imported beside it only
ROS = ("rclpy", "action_msgs", "builtin_interfaces", "control_msgs", "sensor_msgs", "std_msgs", "trajectory_msgs")
PACKAGES = ("hal", "envs", "policies", "robotlearn")


def test_every_line_is_one_exact_pin_without_an_address() -> None:
    for pin in LOCK:
        assert pin.url is None and re.fullmatch(r"==[0-9][0-9a-z.+]*", str(pin.specifier)), str(pin)
    names = [canonicalize_name(pin.name) for pin in LOCK if pin.marker is None]
    assert len(names) == len(set(names))


def test_everything_asked_for_is_pinned_within_its_bounds() -> None:
    asked = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in LOCK}
    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


def test_every_import_of_the_packages_is_a_declared_dependency() -> None:
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name in EXTRAS for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]}
    distributions = packages_distributions()
    undeclared: set[str] = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for name in _imported(ast.parse(file.read_text(encoding="utf-8"))):
                if name in sys.stdlib_module_names or name in (*PACKAGES, *BROUGHT, *ROS):
                    continue
                if not declared & {canonicalize_name(one) for one in distributions.get(name, [name])}:
                    undeclared.add(f"{file.relative_to(ROOT)}: {name}")
    assert not undeclared


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
