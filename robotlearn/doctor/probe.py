"""What a child process of the doctor does; run as a file, so that it imports nothing of ours.

    python -P probe.py import numpy yaml ... | torch | mujoco | gl | gpu

Two lines for each thing: `begins NAME` before, `found JSON` after. What ends without the second died of it.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

REPORT = os.fdopen(os.dup(1), "w")
SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="1 1 0.1" rgba="0.3 0.5 0.3 1"/>
    <body pos="0 0 0.5"><freejoint/><geom size="0.1" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""


def attempt(name: str, look: Callable[[], dict[str, Any]]) -> None:
    print("begins", name, file=REPORT, flush=True)
    try:
        facts = look()
    except BaseException as error:
        text = " ".join(str(error).split())
        facts = {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__}
    print("found", json.dumps(facts), file=REPORT, flush=True)


def modules(names: list[str]) -> None:
    for name in names:
        attempt(name, lambda name=name: {"file": importlib.import_module(name).__file__})  # type: ignore[misc]


def torch() -> dict[str, Any]:
    import torch

    if float((torch.ones(64, 64) @ torch.ones(64, 64))[0, 0]) != 64.0:
        raise ArithmeticError("a product of matrices is wrong")
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.ones(8, 8, device=index).sum().item()  # a driver that is too old says so only here
            devices.append(torch.cuda.get_device_name(index))
    elif torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    return {"cuda": torch.version.cuda, "devices": devices}


def mujoco() -> dict[str, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 10)
    if data.qpos[2] >= 0.5:
        raise ArithmeticError("nothing falls")
    from mujoco import batch  # noqa: F401  (older ones, which the bounds allow, have none)

    return {}


def gl() -> dict[str, Any]:
    """A picture with the backend that MUJOCO_GL names."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 240, 320) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
        if picture.min() == picture.max():
            raise RuntimeError("the picture is empty")
        opengl = importlib.import_module("OpenGL.GL")  # MuJoCo's, not ours to depend on
        by = opengl.glGetString(opengl.GL_RENDERER)
    return {"by": by.decode(errors="replace") if by else "unknown"}


def gpu() -> dict[str, Any]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return {"gpus": []}
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip() or f"nvidia-smi ended with {done.returncode}")
    return {"gpus": [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line]}


if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # from here on for libraries that print
    what = sys.argv[1]
    if what == "import":
        modules(sys.argv[2:])
    else:
        attempt(
            os.environ["MUJOCO_GL"] if what == "gl" else what,
            {"torch": torch, "mujoco": mujoco, "gl": gl, "gpu": gpu}[what],
        )
