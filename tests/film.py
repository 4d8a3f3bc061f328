"""A camera that LeRobot reads over ZeroMQ: its OpenCV camera insists on setting sizes, which needs a real device."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import zmq


@contextmanager
def filming(picture: np.ndarray) -> Iterator[dict[str, object]]:
    """LeRobot's options of a camera before which nothing changes; any number of robots may look through it."""
    import cv2

    height, width, _ = picture.shape
    message = json.dumps({"images": {"c": base64.b64encode(cv2.imencode(".jpg", picture)[1].tobytes()).decode()}})
    over = threading.Event()
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        def film() -> None:
            while not over.wait(0.01):
                socket.send_string(message)

        thread = threading.Thread(target=film)
        thread.start()
        try:
            yield {
                "type": "zmq",
                "server_address": "127.0.0.1",
                "port": port,
                "width": width,
                "height": height,
                "fps": 30,
            }
        finally:
            over.set()
            thread.join()
