"""Drivers by name: ours, those registered in code, those of installed packages (entry points `robotlearn.drivers`)."""

from __future__ import annotations

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


def _mujoco(spec: RobotSpec, **options: Any) -> Robot:
    from hal.drivers.mujoco import MujocoRobot

    return MujocoRobot(spec, **options)


_OURS: dict[str, Factory] = {"mujoco": _mujoco}


def register_driver(name: str, factory: Factory) -> None:
    """Makes `factory(spec, **options) -> Robot`, not yet connected, known as the driver `name` in this process.

    Raises DriverError when the name is taken by another factory: two drivers of one name would be told apart by luck.
    """
    if _OURS.get(name, factory) is not factory or _registered.get(name, factory) is not factory or name in _installed():
        raise DriverError(f"the driver name {name!r} is taken: register under another one")
    _registered[name] = factory


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
    factory = _OURS.get(name) or _registered.get(name) or _load(name)
    try:
        inspect.signature(factory).bind(spec, **options)
    except TypeError as error:
        raise DriverError(f"driver {name!r}, called with the options {sorted(options)}: {error}") from None
    return factory(spec, **options)


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
