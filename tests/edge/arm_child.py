"""An arm process that tests start, stop and kill: serves a recording arm until it is told to end.

Run by path, `python tests/edge/arm_child.py NAME PORT BIND [HUNG_S]`. Its lines: the address, then one JSON object per
line that it reads.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import types
from pathlib import Path

# A package of this name may be installed beside us, and would win over a folder without __init__.py.
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]


def main(name: str, port: str, bind: str, hung_s: float = 10.0) -> None:
    import hal
    from hal import ownership
    from robotlearn.edge import served_arm
    from robotlearn.processes import stop_on_signals
    from tests.arms import RecordingArm, fast_spec
    from tests.fakes import write_spec

    ownership.HUNG_S = hung_s
    arms = []
    servers = []

    def make(spec: hal.RobotSpec, *, port: str) -> hal.Robot:
        arms.append(RecordingArm(spec, port=port))
        return arms[0]

    class Server(served_arm.ArmServer):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            servers.append(self)

    def answer() -> None:
        for _ in sys.stdin:
            arm = arms[0]
            last = arm.written[-1][0] if arm.written else None
            counts = {"writes": len(arm.written), "last": last, "stops": len(arm.stops)}
            refused = servers[0]._leases.refused
            print(json.dumps({**servers[0].stats(), **counts, "lease_refused": refused}), flush=True)

    hal.register_driver("recording", make)
    served_arm.ArmServer = Server
    stop = stop_on_signals()
    threading.Thread(target=answer, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "fast.yaml"
        write_spec(spec, fast_spec())
        served_arm.serve_arm(
            str(spec),
            "recording",
            {"port": port},
            name=name,
            bind=bind or None,
            key=None,
            insecure_public=False,
            stop=stop,
            say=lambda line: print(line, flush=True),
        )


if __name__ == "__main__":
    from hal import HalError

    try:
        main(*sys.argv[1:4], *map(float, sys.argv[4:]))
    except HalError as error:
        print(f"robotlearn: {error}", file=sys.stderr)
        sys.exit(2)
