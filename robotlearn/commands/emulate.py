"""`robotlearn emulate`: robots that are not there, for rehearsals and tests: a serial port, or topics of ROS 2."""

import json
import re
import threading
from pathlib import Path
from typing import Annotated, Any

import typer


def emulate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="so101: a serial bus of servos. ros2-ROBOT, dds-ROBOT: topics of that spec's arm."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What it is called, if several run; by default WHAT.", show_default=False)
    ] = None,
    port: Annotated[
        Path | None, typer.Option(help="so101: where its port is made; by default in the runtime folder.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Topics: what their names begin with.")] = "",
    camera: Annotated[list[str] | None, typer.Option(help="Topics: a camera of the spec; may be repeated.")] = None,
    view: Annotated[bool, typer.Option("--view", help="Show it in a window.")] = False,
) -> None:
    """A robot that is not there, down to its wire, with a MuJoCo arm behind it; prints its port or topic first, then
    what an edge's config, or a station's file, says to reach it.

    It runs until it is stopped (Ctrl-C) and is found by `robotlearn robots --scan`.
    """
    from hal.emulators.presence import Presence
    from hal.errors import nearest
    from robotlearn.errors import ConfigError
    from robotlearn.processes import stop_on_signals
    from robotlearn.window import need_display

    kind, _, robot = what.partition("-")
    if what != "so101" and not (kind in ("ros2", "dds") and robot):
        raise ConfigError(f"emulate {what!r}: {nearest(what, ['so101', 'ros2-ROBOT', 'dds-ROBOT'])}")
    _refuse(what, {"--namespace": namespace, "--camera": camera} if what == "so101" else {"--port": port})
    if view:
        need_display()
    stop = stop_on_signals()
    with Presence(name or what) as presence:
        if what == "so101":
            _serial(presence, port, view, stop)
        else:
            _topics(presence, kind, robot, namespace, camera or [], view, stop)


def _refuse(what: str, given: dict[str, object]) -> None:
    from robotlearn.errors import ConfigError

    for flag, value in given.items():
        if value:
            arms = "so101, a serial bus" if what != "so101" else "ros2-ROBOT and dds-ROBOT, whose robots are topics"
            raise ConfigError(f"emulate {what}: {flag} is for {arms}")


def _serial(presence: Any, port: Path | None, view: bool, stop: threading.Event) -> None:
    from hal.emulators.so101 import EmulatedSO101

    path = (presence.folder / "port" if port is None else port).absolute()
    arm = EmulatedSO101(path)
    arm.write_calibration(presence.folder / "calibration" / f"{presence.name}.json")
    try:
        arm.start()
        options = {"port": str(path), "id": presence.name, "calibration_dir": str(presence.folder / "calibration")}
        presence.announce("so101", "lerobot", options)
        _tell(str(path), "lerobot", options)
        _until(stop, arm.model, arm.data, arm.lock, view)
    finally:
        arm.close()


def _topics(
    presence: Any, kind: str, robot: str, namespace: str, cameras: list[str], view: bool, stop: threading.Event
) -> None:
    from hal import load_spec
    from hal.emulators.ros_arm import EmulatedRosArm

    spec, node = load_spec(robot), re.sub(r"\W", "_", presence.name)
    if kind == "ros2":
        from hal.drivers.ros2 import RclpyTransport

        transport: Any = RclpyTransport(node)
    else:
        from hal.drivers.dds import DdsTransport

        transport = DdsTransport(node)
    arm = EmulatedRosArm(spec, transport, namespace=namespace, cameras=cameras)
    arm.start()
    try:
        presence.announce(robot, kind, arm.options)
        _tell(arm.options["joint_states"], kind, arm.options)
        _until(stop, arm.model, arm.data, arm.lock, view)
    finally:
        arm.close()


def _tell(where: str, driver: str, options: dict[str, Any]) -> None:
    typer.echo(where)
    typer.echo(f"driver: {driver}, options: {json.dumps(options)}")


def _until(stop: threading.Event, model: Any, data: Any, lock: threading.Lock, view: bool) -> None:
    if not view:
        stop.wait()
        return
    import mujoco.viewer

    before = threading.enumerate()
    viewer = mujoco.viewer.launch_passive(model, data)
    drawing = [thread for thread in threading.enumerate() if thread not in before]
    try:
        while viewer.is_running() and not stop.wait(1 / 30):
            with lock:
                viewer.sync()
    finally:
        viewer.close()
        for thread in drawing:  # a process that goes while the window is still drawn crashes
            thread.join(5.0)
