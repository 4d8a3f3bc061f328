"""What the tests under attack start: `python -m tests.fuzz.child learner|edge FOLDER [ADDRESS]`.

A learner says its address. Each line that comes is a command, answered by one line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np

from robotlearn.wire.weights import WeightsClient
from tests.wire.make import make_segment
from tests.wire.rig import CONTRACT, Edge, Learner


def learner(folder: Path) -> None:
    """Stores what comes, and publishes new weights with each command."""
    rig = Learner(folder)
    ended: list[BaseException] = []

    def train() -> None:
        try:
            while True:
                rig.server.take_stored(0.1)
        except BaseException as error:
            ended.append(error)

    threading.Thread(target=train, daemon=True).start()
    print(rig.address, flush=True)
    for version, line in enumerate(sys.stdin, 1):
        rig.server.check()
        rig.publisher.publish(version, {"w": np.full(30_000, version, np.float32)})
        rig.publisher.settle()
        answer: dict[str, object] = {**rig.server.stats(), "version": version, "ended": list(map(repr, ended))}
        if line.strip() == "stored":
            answer["stored of honest"] = [s.sequence for _, s in rig.store.scan() if s.edge == "honest"]
        print(json.dumps(answer), flush=True)
    rig.close()


def edge(folder: Path, address: str) -> None:
    """Records a segment with each command."""
    rig = Edge(folder, address, name="honest", max_bytes=8 << 20)
    weights = WeightsClient(address, edge="honest", session=1, contract=CONTRACT)
    weights.start()
    for number, _ in enumerate(sys.stdin):
        rig.uplink.check()
        weights.check()
        rig.uplink.want(2)
        rig.uplink.take_grants()
        rig.spool.record(make_segment(edge="honest", seed=number))
        newest = weights.newest()
        answer = {
            **rig.uplink.stats(), "state": rig.uplink.state, "weights": newest.version if newest else -1,
            "weights_state": weights.state, "weights_bad_frames": weights.bad_frames, "bad_hashes": weights.bad_hashes,
            "session": rig.spool.session,
        }  # fmt: skip
        print(json.dumps(answer), flush=True)
    weights.close()
    rig.close()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    {"learner": learner, "edge": edge}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
