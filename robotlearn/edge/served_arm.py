"""An arm process by itself: one robot with its control loop, served to whoever gets its lease. Imports no torch."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import Event
from typing import Any

from hal import RobotFault, load_spec, make_robot
from hal.estop_input import Contact
from hal.owned_loop import owned_loop
from hal.ownership import Ownership
from robotlearn.edge.arm_server import ArmServer
from robotlearn.edge.arm_state import ArmStateFile
from robotlearn.processes import freeze_heap
from robotlearn.wire.door import named_keys

_LOOK_S = 0.1
_TOLD_S = 0.5  # within which clients hear of a fault before the process ends


def serve_arm(
    robot: str,
    driver: str | None,
    options: Mapping[str, Any],
    *,
    name: str | None,
    button: Contact | None = None,
    bind: str | None,
    key: str | None,
    insecure_public: bool,
    stop: Event,
    say: Callable[[str], object],
) -> None:
    """Own the robot and serve it at `bind`, by default at ipc in its runtime folder, until `stop`; a simulated one runs
    by the wall clock. The first line said is the address. button: its hardware e-stop. key: the name of the key that it
    proves, and then only who is allowed the role `arm` is heard.

    Raises OwnershipError when name or port belong to another process, AddressError, DriverError; RobotFault when the
    robot isn't well, now or later: the process that starts this one may then start it again.
    """
    spec = load_spec(robot)
    name = name or spec.name
    made = make_robot(spec, driver, **options)
    with ExitStack() as stack:
        owned = stack.enter_context(Ownership(name, *made.addresses()))
        loop = owned_loop(made, owned, button=button, also=lambda: server.tick())  # which is made next
        server = ArmServer(
            loop,
            bind or f"ipc://{owned.folder}/arm",
            name=owned.name,
            keys=named_keys(key),
            insecure_public=insecure_public,
        )
        stack.callback(server.close)
        state = stack.enter_context(
            ArmStateFile(owned, robot=spec.name, driver=driver or spec.driver, address=server.address)
        )
        state.watch(loop)
        state.frames = lambda: server.frames
        stack.callback(loop.close)
        loop.connect()
        server.start()
        freeze_heap()
        say(server.address)
        while not stop.wait(_LOOK_S):
            server.check()
            if loop.activity == "fault":
                stop.wait(_TOLD_S)
                raise RobotFault(f"{name}: {loop.health().detail}")
