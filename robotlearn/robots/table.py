"""`robotlearn robots`: what robots there are and how they are."""

import json
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hal import RobotSpec, load_spec, make_robot
from hal.data import data_path
from hal.document import parse
from hal.errors import DocumentError, HalError, SpecError
from robotlearn.config.config import Config
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.config.load import load_config
from robotlearn.robots.latches import latches
from robotlearn.robots.states import robot_state, robot_states, states_table, wide_console


def show_robots(what: str | None) -> None:
    """Print a table of all shipped specs, of one spec (name or file), or of the robots of a config's edges.

    Above all shipped specs, what e-stops are latched, and the robots that run on this machine, with health and lease.

    Raises ConfigError, SpecError: it is neither, or a model does not fit its spec.
    """
    if what is None:
        for latch in latches():
            print(latch.line())
        if running := robot_states():
            wide_console().print(states_table(running), "")
        rows = [_row(path.stem, load_spec(path.stem)) for path in sorted(_shipped("hardware_specs").values())]
    elif _is_spec(what):
        spec = load_spec(what)
        rows = [_row(Path(what).stem, spec)]
    else:
        loaded = load_config(what)
        rows = []
        for edge in loaded.edges:
            cells = loaded.cells(edge)
            for robot in dict.fromkeys(robot for robot, _ in cells):
                share = sum(one == robot for one, _ in cells) / len(cells)
                arms = round(edge.arms * share) if isinstance(edge, BatchEdgeConfig) else 1
                driver = None if isinstance(edge, BatchEdgeConfig) else edge.driver
                rows.append(_row(edge.name, load_spec(robot), arms, driver))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("robot", "model", "driver", "arms", "joints", "rate", "state"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def robots_json() -> str:
    """What `show_robots(None)` shows, as one JSON object."""
    models = []
    for path in sorted(_shipped("hardware_specs").values()):
        spec = load_spec(path.stem)
        models.append({"name": path.stem, "maker": spec.maker, "driver": spec.driver, "names": list(spec.names),
                       "control_hz": spec.control_hz, "state": _state(spec)})  # fmt: skip
    running, latched = ([one.as_json() for one in found] for found in (robot_states(), latches()))
    return json.dumps({"running": running, "estop": latched, "models": models})


def _row(name: str, spec: RobotSpec, arms: int = 1, driver: str | None = None) -> list[str]:
    gripper = " + gripper" if spec.gripper is not None else ""
    driver, state = driver or spec.driver, robot_state(name)
    if driver == "mujoco":
        how = _state(spec)
    elif state is None:
        how = "offline: nothing here has had it yet"
    else:
        how = f"{state.state}: {state.reason}" if state.reason else state.state
    model = spec.maker if name == spec.name else f"{spec.name} ({spec.maker})"
    return [
        name, model, driver, str(arms), f"{len(spec.joints)}{gripper}",
        f"{spec.control_hz:g} Hz", how,
    ]  # fmt: skip


def _shipped(folder: str) -> dict[str, Path]:
    return {path.stem: path for path in data_path(folder).glob("*.yaml")}


def _is_spec(what: str) -> bool:
    """A spec rather than a config: by its keys where it is a file, by the names that there are where it is none."""
    if Path(what).is_file():
        try:
            data = parse(Path(what).read_text(encoding="utf-8"), what).data
        except (OSError, UnicodeDecodeError, DocumentError):
            return False  # loading it as a config says what is wrong with it
        keys = set(data) if isinstance(data, dict) else set()
        return len(keys & RobotSpec.model_fields.keys()) > len(keys & Config.model_fields.keys())
    specs, configs = _shipped("hardware_specs"), _shipped("configs")
    near = get_close_matches(what, [*specs, *configs], n=1)
    return what not in configs and not (near and near[0] in configs)  # what is like nothing was meant as a robot


def _state(spec: RobotSpec) -> str:
    """How the robot is right after connecting to it; it does not move. Raises SpecError: its model does not fit it."""
    try:
        with make_robot(spec) as robot:
            robot.read()
            health = robot.health()
    except SpecError:
        raise
    except HalError as error:
        return f"fault: {error}"
    return health.state if not health.detail else f"{health.state}: {health.detail}"
