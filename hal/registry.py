"""Drivers by name: ours, those registered in code, those of installed packages (entry points `robotlearn.drivers`)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hal.errors import DriverError, nearest
from hal.robot import Robot
from hal.spec import RobotSpec

GROUP = "robotlearn.drivers"
Factory = Callable[..., Robot]

_registered: dict[str, Factory] = {}


_OURS: dict[str, tuple[str, str]] = {
    "mujoco": ("hal.drivers.mujoco", "MujocoRobot"),
    "lerobot": ("hal.drivers.lerobot", "LerobotRobot"),
    "ros2": ("hal.drivers.ros2", "make"),
    "dds": ("hal.drivers.dds", "make"),
}
"""Module and class, imported when they are asked for: what they stand on is large, or not installed."""


def register_driver(name: str, factory: Factory) -> None:
    """Makes `factory(spec, **options) -> Robot`, not yet connected, known as the driver `name` in this process.

    Raises DriverError when the name is taken by another factory: two drivers of one name would be told apart by luck.
    """
    point = _installed().get(name)
    # A package may do both: register when it is imported, and name the same factory as its entry point.
    elsewhere = point is not None and point.value != _where(factory)
    if name in _OURS or _registered.get(name, factory) is not factory or elsewhere:
        raise DriverError(f"the driver name {name!r} is taken: register under another one")
    _registered[name] = factory


def _where(factory: Factory) -> str:
    return f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', '')}"


def drivers() -> tuple[str, ...]:
    """The names of all drivers that `make_robot` knows, sorted."""
    return tuple(sorted({*_OURS, *_registered, *_installed()}))


def check_driver(name: str) -> None:
    """Raises DriverError (the nearest name is suggested) when there is no driver of that name."""
    if name not in drivers():
        raise DriverError(f"unknown driver {name!r}: {nearest(name, drivers())}")


def make_robot(spec: RobotSpec, driver: str | None = None, **options: Any) -> Robot:
    """A robot of that spec, not yet connected.

    driver: a name out of `drivers()`, by default the spec's. options: what that driver's constructor takes besides the
    spec, such as `cameras=("front",)`.

    Raises:
        DriverError: unknown driver (the nearest name is suggested), it can't be loaded, or it doesn't take the options.
    """
    name = spec.driver if driver is None else driver
    factory = _ours(name) if name in _OURS else _registered.get(name) or _load(name)
    try:
        inspect.signature(factory).bind(spec, **options)
    except TypeError as error:
        raise DriverError(f"driver {name!r}, called with the options {sorted(options)}: {error}") from None
    return factory(spec, **options)


def _ours(name: str) -> Factory:
    module, attribute = _OURS[name]
    factory: Factory = getattr(importlib.import_module(module), attribute)
    return factory


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(name: str) -> Factory:
    check_driver(name)
    point = _installed()[name]
    try:
        factory = point.load()
    except Exception as error:
        where = point.dist.name if point.dist is not None else point.value
        raise DriverError(f"the driver {name!r} of the package {where} can't be loaded: {error!r}") from error
    if not callable(factory):
        raise DriverError(f"the driver {name!r} ({point.value}) must be callable with a spec; it is {factory!r}")
    return factory  # type: ignore[no-any-return]
