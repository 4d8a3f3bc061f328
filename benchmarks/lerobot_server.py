"""LeRobot's own policy server over gRPC, on the CPU with one thread, and a robot that asks it.

`python -m benchmarks.lerobot_server SECONDS` serves and prints its port; SECONDS is its `inference_latency`, the least
time that it takes for an answer (LeRobot's default: 1/30). It
speaks pickle, so its robot here must; both are ours, on loopback.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LEAST_S = {"lerobot": 0.0, "lerobot_as_shipped": 1 / 30}


class LeRobotServer:
    """The server's process."""

    def __init__(self, least_s: float) -> None:
        command = [sys.executable, "-m", "benchmarks.lerobot_server", str(least_s)]
        self._folder = tempfile.TemporaryDirectory(prefix="robotlearn-")  # it writes logs where it is started
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self._folder.name,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("port "):
                self.port = int(line.split()[1])
                return
        raise RuntimeError("LeRobot's policy server did not start")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


class LeRobotRobot:
    """A robot with one camera, `front`, and `dim` joints."""

    def __init__(self, server: LeRobotServer, checkpoint: Path, dim: int, size: tuple[int, int], horizon: int) -> None:
        import grpc
        from lerobot.async_inference.helpers import RemotePolicyConfig
        from lerobot.transport import services_pb2, services_pb2_grpc
        from lerobot.transport.utils import grpc_channel_options

        self._names = [f"joint{i}.pos" for i in range(dim)]
        self._number = 0
        self._messages = services_pb2
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}", grpc_channel_options())
        self._stub: Any = services_pb2_grpc.AsyncInferenceStub(channel)
        self._stub.Ready(services_pb2.Empty())
        features = {
            "observation.state": {"dtype": "float32", "shape": (dim,), "names": self._names},
            "observation.images.front": {
                "dtype": "image", "shape": (*size, 3), "names": ["height", "width", "channels"],
            },
        }  # fmt: skip
        asked = RemotePolicyConfig("smolvla", str(checkpoint), features, horizon, "cpu")
        self._stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(asked)))

    def chunk(self, state: np.ndarray, image: np.ndarray, words: str) -> np.ndarray:
        """Actions (H, dim) for an observation, the image at its full size."""
        from lerobot.async_inference.helpers import TimedObservation
        from lerobot.transport.utils import send_bytes_in_chunks

        self._number += 1
        seen = dict(zip(self._names, state.tolist(), strict=True)) | {"front": image, "task": words}
        timed = TimedObservation(timestamp=time.time(), timestep=self._number, observation=seen, must_go=True)
        self._stub.SendObservations(send_bytes_in_chunks(pickle.dumps(timed), self._messages.Observation))
        answer = pickle.loads(self._stub.GetActions(self._messages.Empty()).data)
        return np.stack([one.get_action().numpy() for one in answer])


def _serve(least_s: float) -> None:
    import logging
    from concurrent import futures

    import grpc
    import torch
    from lerobot.async_inference import policy_server
    from lerobot.async_inference.configs import PolicyServerConfig

    torch.set_num_threads(1)
    config = PolicyServerConfig(host="127.0.0.1", port=1, fps=30, inference_latency=least_s, obs_queue_timeout=5)
    serving = policy_server.PolicyServer(config)
    logging.disable(logging.CRITICAL)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    policy_server.services_pb2_grpc.add_AsyncInferenceServicer_to_server(serving, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
