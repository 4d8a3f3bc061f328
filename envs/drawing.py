"""A child process of `envs.cameras.Cameras`: `python -m envs.drawing FD`, FD being the memory that both share.

Standard input brings one line of JSON that says what is where, the model's bytes, then a line with the numbers of the
arms to draw each time. A line "done" answers each of them, or one that says what went wrong. It ends with its input.
"""

import json
import mmap
import signal
import sys

import mujoco

from envs.cameras import Layout
from hal.camera import SceneCamera
from hal.errors import HalError


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    order = json.loads(sys.stdin.buffer.readline())
    model = mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": sys.stdin.buffer.read(order["model"])})
    layout = Layout(order["n"], order["shapes"], order["sizes"])
    places, images = layout.arrays(mmap.mmap(int(sys.argv[1]), layout.bytes))
    data = mujoco.MjData(model)
    try:
        sizes = [tuple(size) for size in order["sizes"]]
        cameras = {size: SceneCamera(model, *size) for size in dict.fromkeys(sizes)}
    except HalError as error:
        print(error, flush=True)
        return
    print("done", flush=True)
    while line := sys.stdin.buffer.readline():
        for arm in json.loads(line):
            for name, rows in places.items():
                getattr(data, name)[:] = rows[arm]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_camlight(model, data)
            for index, size, rows in zip(order["cameras"], sizes, images, strict=True):
                cameras[size].draw(data, index, rows[arm])
        print("done", flush=True)
    for camera in cameras.values():
        camera.close()


if __name__ == "__main__":
    main()
