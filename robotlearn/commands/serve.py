"""`robotlearn serve`: an arm process by itself, for whoever gets its lease, on this machine or another."""

import logging
from typing import Annotated

import typer


def serve(
    robot: Annotated[str, typer.Argument(metavar="ROBOT", help="A robot's spec: its name, or a YAML file.")],
    driver: Annotated[
        str | None, typer.Option("--driver", help="By default the spec's own.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="What the driver takes, as in YAML: port=/dev/ttyACM0."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What this one arm is called; by default the spec's name.")
    ] = None,
    estop: Annotated[
        list[str] | None,
        typer.Option(
            "--estop",
            metavar="KEY=VALUE",
            help="A button as e-stop, as in a station's file: evdev.device=PATH and evdev.key=KEY_SPACE, or "
            "serial.port=PATH and serial.line=cts.",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            "--bind",
            metavar="ADDRESS",
            help="ipc://PATH or tcp://HOST:PORT (* takes a free one); by default ipc in the runtime folder.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="NAME",
            help="Encrypt, prove this key (`robotlearn keys new NAME`), and hear only whom `robotlearn keys allow ... "
            "--role arm` named. Needed beyond this machine; clients take its public half as the option `key`.",
            show_default=False,
        ),
    ] = None,
    insecure_public: Annotated[
        bool,
        typer.Option(
            "--insecure-public",
            help="Bind beyond this machine without keys: whoever reaches the port can then move the arm.",
        ),
    ] = False,
) -> None:
    """Serve a robot to others as the driver `remote`, one holder of its lease at a time; prints its address first."""
    from hal.errors import DriverError
    from hal.spec import load_spec
    from robotlearn.config.estop_button import estop_button
    from robotlearn.config.load import driver_options
    from robotlearn.edge.served_arm import serve_arm
    from robotlearn.processes import stop_on_signals
    from robotlearn.robots.driver_hint import other_drivers

    logging.getLogger("robotlearn.edge.arm_server").setLevel(logging.INFO)
    stop = stop_on_signals()
    options = driver_options(option)
    try:
        serve_arm(
            robot,
            driver,
            options,
            name=name,
            button=estop_button(estop),
            bind=bind,
            key=key,
            insecure_public=insecure_public,
            stop=stop,
            say=typer.echo,
        )
    except DriverError as error:
        raise DriverError(f"{error}{other_drivers(load_spec(robot), driver, options, '--driver {}')}") from None
