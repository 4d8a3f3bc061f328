"""Drivers by name: ours, registered ones, and those that other packages bring."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hal
from hal import registry
from tests.fakes import FakeRobot, small_spec


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `thirdparty` whose metadata names two drivers, one of them broken."""
    (tmp_path / "thirdparty.py").write_text("from tests.fakes import FakeRobot\n")
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[robotlearn.drivers]\ntheirs = thirdparty:FakeRobot\nbroken = thirdparty:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "thirdparty", raising=False)


def test_the_spec_names_its_driver() -> None:
    robot = hal.make_robot(hal.load_spec("panda"))
    assert type(robot).__name__ == "MujocoRobot"
    assert "mujoco" in registry.drivers()


def test_a_registered_driver() -> None:
    hal.register_driver("fake", FakeRobot)
    hal.register_driver("fake", FakeRobot)
    assert "fake" in registry.drivers()
    assert isinstance(hal.make_robot(small_spec()), FakeRobot)
    with pytest.raises(hal.DriverError, match="'fake' is taken"):
        hal.register_driver("fake", lambda spec: FakeRobot(spec))
    with pytest.raises(hal.DriverError, match="'mujoco' is taken"):
        hal.register_driver("mujoco", FakeRobot)


def test_a_driver_of_another_package(installed: None) -> None:
    assert {"theirs", "broken"} <= set(registry.drivers())
    robot = hal.make_robot(small_spec(), "theirs")
    assert type(robot).__name__ == "FakeRobot"
    hal.check_robot(robot)
    with pytest.raises(hal.DriverError, match="'broken' of the package thirdparty can't be loaded: AttributeError"):
        hal.make_robot(small_spec(), "broken")
    with pytest.raises(hal.DriverError, match="'theirs' is taken"):
        hal.register_driver("theirs", FakeRobot)


def test_unknown_driver_and_options() -> None:
    with pytest.raises(hal.DriverError, match="unknown driver 'mojuco': did you mean 'mujoco'"):
        hal.make_robot(small_spec(), "mojuco")
    hal.register_driver("fake", FakeRobot)
    with pytest.raises(hal.DriverError, match=r"'fake', called with the options \['speed'\]: .*unexpected"):
        hal.make_robot(small_spec(), speed=3)


def test_a_package_may_register_what_its_entry_point_names(installed: None) -> None:
    class FakeRobot:
        pass

    with pytest.raises(hal.DriverError, match="'theirs' is taken"):
        hal.register_driver("theirs", FakeRobot)  # type: ignore[arg-type]
    FakeRobot.__module__, FakeRobot.__qualname__ = "thirdparty", "FakeRobot"
    hal.register_driver("theirs", FakeRobot)  # type: ignore[arg-type]
