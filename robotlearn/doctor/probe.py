"""What a child process of the doctor does; run as a file, so that it imports nothing of ours.

    python -P probe.py imports '["numpy", ...]' | torch | mujoco | gl MJCF | zmq | package NAME | gpu

One JSON object per line: {"begins": NAME} before, {"name": NAME, ...} after; what ends without the latter died of it.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def attempt(name: str, look: Callable[[], dict[str, Any]]) -> None:
    say(begins=name)
    try:
        facts = look()
    except BaseException as error:
        text = " ".join(str(error).split())
        facts = {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__}
    say(name=name, **facts)


def module_of(distribution: str) -> str:
    """What is imported of a distribution: pyyaml is `yaml`, pyzmq is `zmq`."""
    plain = distribution.lower().replace("-", "_")
    names = [str(file).split("/")[0].removesuffix(".py") for file in metadata.files(distribution) or []]
    known = [name for name in dict.fromkeys(names) if name.isidentifier() and not name.startswith("_")]
    return plain if plain in known or not known else known[0]


def imports(distributions: str) -> None:
    for distribution in json.loads(distributions):

        def look(distribution: str = distribution) -> dict[str, Any]:
            found = metadata.version(distribution)
            module = importlib.import_module(module_of(distribution))
            return {"version": found, "file": getattr(module, "__file__", None)}

        attempt(distribution, look)


def torch() -> None:
    def look() -> dict[str, Any]:
        import torch

        product = torch.ones(64, 64) @ torch.ones(64, 64)
        assert float(product[0, 0]) == 64.0, "a product of matrices is wrong"
        facts: dict[str, Any] = {"version": metadata.version("torch"), "cuda_built": torch.version.cuda, "devices": []}
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                assert float((torch.ones(8, 8, device=index) @ torch.ones(8, 8, device=index))[0, 0]) == 8.0
                facts["devices"].append(torch.cuda.get_device_name(index))
        elif torch.backends.mps.is_available():
            facts["devices"].append("Apple GPU (mps)")
        return facts

    def vision() -> dict[str, Any]:
        import torchvision  # noqa: F401

        return {"version": metadata.version("torchvision")}

    attempt("torch", look)
    attempt("torchvision", vision)


def mujoco() -> None:
    def look() -> dict[str, Any]:
        import mujoco

        model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><freejoint/><geom size='0.1'/></body></worldbody></mujoco>"
        )
        data = mujoco.MjData(model)
        mujoco.mj_step(model, data, 10)
        assert data.qpos[2] < 0, "nothing falls"
        try:
            from mujoco import batch  # noqa: F401
        except ImportError:
            return {"version": mujoco.__version__, "batch": False}
        return {"version": mujoco.__version__, "batch": True}

    attempt("mujoco", look)


def gl(mjcf: str) -> None:
    """A picture of an arm with the backend that MUJOCO_GL names."""

    def look() -> dict[str, Any]:
        import mujoco

        model = mujoco.MjModel.from_xml_path(mjcf)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 240, 320) as renderer:
            renderer.update_scene(data)
            picture = renderer.render()
            assert int(picture.max()) > int(picture.min()), "the picture is empty"
            begun = time.perf_counter()
            for _ in range(5):
                renderer.update_scene(data)
                renderer.render()
            spent = (time.perf_counter() - begun) / 5
            from OpenGL import GL  # MuJoCo brings it

            name = GL.glGetString(GL.GL_RENDERER)
        return {"ms": round(spent * 1e3, 1), "by": name.decode(errors="replace") if name else ""}

    attempt(os.environ["MUJOCO_GL"], look)


def zmq() -> None:
    def look() -> dict[str, Any]:
        import zmq

        facts = {"version": metadata.version("pyzmq"), "libzmq": zmq.zmq_version(), "curve": bool(zmq.has("curve"))}
        with zmq.Context() as context:
            with context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
                for socket in (server, client):
                    socket.linger, socket.rcvtimeo = 0, 3000
                if facts["curve"]:
                    public, server.curve_secretkey = zmq.curve_keypair()
                    server.curve_server = True
                    client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
                    client.curve_serverkey = public
                client.connect(f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}")
                client.send(b"well?")
                assert server.recv() == b"well?", "a message came changed"
        return facts

    attempt("pyzmq", look)


def package(name: str) -> None:
    def look() -> dict[str, Any]:
        module = importlib.import_module(name)
        try:
            return {"version": metadata.version(name)}
        except metadata.PackageNotFoundError:
            return {"version": getattr(module, "__version__", "")}

    attempt(name, look)


def ffmpeg() -> None:
    def look() -> dict[str, Any]:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, timeout=5).stdout
        return {"version": said.split()[2], "file": program}

    attempt("ffmpeg", look)


def gpu() -> None:
    def look() -> dict[str, Any]:
        query = "--query-gpu=name,memory.total,driver_version"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=8)
        except FileNotFoundError:
            return {"gpus": []}
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr).strip() or f"nvidia-smi ended with {done.returncode}")
        return {"gpus": [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line]}

    attempt("gpu", look)


if __name__ == "__main__":
    {"imports": imports, "torch": torch, "mujoco": mujoco, "gl": gl, "zmq": zmq, "package": package,
     "ffmpeg": ffmpeg, "gpu": gpu}[sys.argv[1]](*sys.argv[2:])  # fmt: skip
