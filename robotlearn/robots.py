"""`robotlearn robots`: what robots there are and how they are."""

from rich.console import Console
from rich.table import Table

from hal import RobotSpec, load_spec, make_robot
from hal.data import data_path
from hal.errors import HalError
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.config.load import load_config


def show_robots(config: str | None) -> None:
    """Print a table of the robots of a config's edges, or of all shipped specs. Raises ConfigError, SpecError."""
    if config is None:
        rows = [(path.stem, load_spec(path.stem), 1) for path in sorted(data_path("hardware_specs").glob("*.yaml"))]
    else:
        loaded = load_config(config)
        rows = []
        for edge in loaded.edges:
            cells = loaded.cells(edge)
            for robot in dict.fromkeys(robot for robot, _ in cells):
                share = sum(one == robot for one, _ in cells) / len(cells)
                arms = round(edge.arms * share) if isinstance(edge, BatchEdgeConfig) else 1
                rows.append((edge.name, load_spec(robot), arms))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("robot", "model", "driver", "arms", "joints", "rate", "state"):
        table.add_column(column)
    for name, spec, arms in rows:
        gripper = " + gripper" if spec.gripper is not None else ""
        joints = f"{len(spec.joints)}{gripper}"
        table.add_row(
            name, f"{spec.name} ({spec.maker})", spec.driver, str(arms), joints, f"{spec.control_hz:g} Hz", _state(spec)
        )
    Console().print(table)


def _state(spec: RobotSpec) -> str:
    """How the robot is right after connecting to it; it does not move."""
    try:
        with make_robot(spec) as robot:
            robot.read()
            health = robot.health()
    except HalError as error:
        return f"fault: {error}"
    return health.state if not health.detail else f"{health.state}: {health.detail}"
