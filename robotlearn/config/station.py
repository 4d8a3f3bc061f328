"""What stands at one workstation: its robots and how they are reached. What is learnt is in a run's config."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from robotlearn.config.address import PublicKeyText, normal_address
from robotlearn.config.estop import EstopConfig
from robotlearn.config.section import ListAsTuple, Misfit, Section

Text = Annotated[str, Field(min_length=1)]
LearnerAddress = Annotated[str, BeforeValidator(partial(normal_address, any_port=False))]


class StationRobot(Section):
    """One robot of the station."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="Its name and its edge's in messages, metrics and file names; no two edges of a run share one."
    )
    robot: Text = Field(description="Its spec: a name in hardware_specs/, or the path of a YAML file.")
    task: Text | None = Field(None, description="Which of the run's tasks it works on; null: the run has only one.")
    driver: Text | None = Field(None, description="What talks to it: lerobot, ros2, ...; null: the spec's.")
    options: dict[str, Any] = Field(default_factory=dict, description="What that driver needs: port, topics, cameras.")

    @model_validator(mode="after")
    def _options_are_plain(self) -> Self:
        _check_plain(self.options, ("options",))
        return self


class StationConfig(Section):
    """One workstation."""

    learner: LearnerAddress | None = Field(
        None, description="Where the learner listens: tcp://HOST:PORT; null: --learner says it."
    )
    learner_key: PublicKeyText | None = Field(
        None, description="The learner's public key; null: what the run's config says (learner.key)."
    )
    config: Text | None = Field(
        None, description="The run's config: a YAML file, or the name of a shipped one; null: --config says it."
    )
    robots: Annotated[tuple[StationRobot, ...], ListAsTuple, Field(min_length=1)] = Field(
        description="The robots that stand here."
    )
    estop: EstopConfig | None = Field(None, description="A hardware e-stop that stops all of them; null: none.")

    @model_validator(mode="after")
    def _robots_are_apart(self) -> Self:
        names = [robot.name for robot in self.robots]
        ports = [robot.options.get("port") for robot in self.robots]
        for index, robot in enumerate(self.robots):
            if robot.name in names[:index]:
                other = names.index(robot.name)
                raise Misfit(
                    ("robots", index, "name"),
                    f"'{robot.name}' is the name of robots.{other} too, expected a name of its own",
                )
            if ports[index] is not None and ports[index] in ports[:index]:
                raise Misfit(
                    ("robots", index, "options", "port"),
                    f"'{ports[index]}' is the port of robots.{ports.index(ports[index])} too, expected one of its own",
                )
        if self.estop is not None and self.estop.serial is not None and self.estop.serial.port in ports:
            owner = self.robots[ports.index(self.estop.serial.port)].name
            raise Misfit(
                ("estop", "serial", "port"),
                f"'{self.estop.serial.port}' is the port of the robot {owner} too, expected one of its own",
            )
        return self


def _check_plain(value: Any, path: tuple[str | int, ...]) -> None:
    """What can't be said in one line of YAML again can't reach an edge."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise Misfit(path, f"{value} is not valid, expected a finite number")
