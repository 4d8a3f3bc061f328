"""The driver in docs/robots.md keeps the rules as it stands there, and what breaks one is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

import hal
from robotlearn.config import Config, load_config
from robotlearn.config.station import StationConfig
from tests.pages import Page

PAGE = Page("docs/robots.md")
(CODE,) = PAGE.blocks("python")
STATION, EDGES = (yaml.safe_load(block) for block in PAGE.blocks("yaml"))
VENDOR = """
class Connection:
    here = {home}

    def __init__(self, address):
        if address == "nowhere":
            raise OSError("no route")

    def positions(self):
        return list(self.here)

    def velocities(self):
        return [0.0] * len(self.here)

    def move_to(self, target):
        self.here = target

    def close(self):
        pass
"""


@pytest.fixture
def package(install: Callable[..., None]) -> Callable[[list[float]], None]:
    (project,) = PAGE.blocks("toml")
    return lambda home: install(
        project, {"my_arm/__init__.py": CODE, "my_arm/vendor.py": VENDOR.replace("{home}", repr(home))}
    )


def test_the_driver_is_found_and_keeps_the_rules(package: Callable[[list[float]], None]) -> None:
    assert len(CODE.splitlines()) < 60
    spec = hal.load_spec("so101")
    package(spec.home.tolist())
    hal.check_robot(hal.make_robot(spec, "my-arm", address="10.0.0.3"))
    with pytest.raises(hal.RobotFault, match="so101: no answer from nowhere: no route"):
        hal.make_robot(spec, "my-arm", address="nowhere").connect()


def test_degrees_are_told(package: Callable[[list[float]], None]) -> None:
    spec = hal.load_spec("so101")
    package([float(joint) * 57.3 for joint in spec.home])
    with pytest.raises(hal.RobotCheckError, match="units, signs or the order of joints are wrong"):
        hal.check_robot(hal.make_robot(spec, "my-arm"))


def test_the_station_and_the_edge_are_valid() -> None:
    StationConfig.model_validate(STATION)
    config = load_config("smoke").model_dump()
    (edge,) = EDGES["edges"]
    assert Config.model_validate(config | {"edges": [edge]}).edges[0].person.device == "gamepad"
