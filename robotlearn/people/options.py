"""What `teleop` and `record` are both told on the command line. It imports next to nothing: `--help` is quick."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

KeyValues = list[str] | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Each field is an option of both commands."""

    driver: Annotated[
        str | None, typer.Option(help="What talks to it; by default the spec's.", show_default=False)
    ] = None
    option: Annotated[
        KeyValues, typer.Option(metavar="key=value", help="The driver's own, such as port=/dev/ttyACM0.")
    ] = None
    device: Annotated[str, typer.Option(metavar="keyboard|gamepad|leader", help="What the person holds.")] = "keyboard"
    device_option: Annotated[
        KeyValues, typer.Option(metavar="key=value", help="The device's own, such as path=/dev/input/js1.")
    ] = None
    leader: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="LeRobot's type of the leader arm, such as so101_leader; `emulated` is an arm of `robotlearn "
            "emulate`, with --leader-option name=NAME.",
            show_default=False,
        ),
    ] = None
    leader_option: Annotated[
        KeyValues, typer.Option(metavar="key=value", help="LeRobot's own of that type, such as port and id.")
    ] = None
    speed: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the robot's speeds.")] = 0.25
    name: Annotated[
        str | None,
        typer.Option(help="The robot's, by which its e-stop is known; by default the spec's.", show_default=False),
    ] = None
    estop: Annotated[
        KeyValues,
        typer.Option(
            metavar="key=value",
            help="A button as e-stop, as in a station's file: evdev.device=PATH and evdev.key=KEY_SPACE, or "
            "serial.port=PATH and serial.line=cts.",
        ),
    ] = None
    view: Annotated[
        bool,
        typer.Option(
            "--view",
            help="Show the arm in MuJoCo's window, a real one as its model at the measured joints, with the objects of "
            "a virtual scene, such as the ball of reach.",
        ),
    ] = False


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each of `Options`' fields in place of its own last one, `options`."""
    shared = inspect.signature(Options).parameters
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "options"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(options=Options(**{name: given.pop(name) for name in shared}), **given)

    signature = inspect.Signature([*own, *shared.values()])
    # What typer reads of a function.
    run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run
