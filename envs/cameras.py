"""`Cameras`: images of many simulated arms, drawn by child processes side by side."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile
from typing import Any

import mujoco
import numpy as np

from envs.errors import EnvError

PLACES = ("qpos", "mocap_pos", "mocap_quat")
"""The fields of MjData from which it follows where everything is."""


class Cameras:
    """Child processes (`python -m envs.drawing`) that draw one scene's cameras; states and images are in shared memory.

    Processes, since OpenGL drivers are not to be trusted with two threads: Mesa 22's software renderer crashed now and
    then. Pixels don't depend on their number. A child ends with its parent, however that ends.

    model: the scene. n: arms. sizes: for names of the scene's cameras height and width of their images, in pixels.
    `images` are the last ones drawn, camera's name to uint8 (n, H, W, 3), valid until `close`.

    Raises:
        EnvError: the children can't draw, or the scene lacks a camera.
    """

    def __init__(self, model: Any, n: int, sizes: Mapping[str, tuple[int, int]], processes: int) -> None:
        known = [model.cam(camera).name for camera in range(model.ncam)]
        if missing := [name for name in sizes if name not in known]:
            raise EnvError(f"the scene has no camera {missing[0]!r}, which the spec names; it has {', '.join(known)}")
        binary = np.empty(mujoco.mj_sizeModel(model), np.uint8)
        mujoco.mj_saveModel(model, None, binary)
        shapes = {name: getattr(mujoco.MjData(model), name).shape for name in PLACES}
        layout = Layout(n, shapes, list(sizes.values()))
        # Not in /dev/shm: containers bound it to 64 MB, and a page too many kills the process that writes it.
        with os.fdopen(os.memfd_create("images"), "r+b") if sys.platform == "linux" else TemporaryFile() as file:
            file.truncate(layout.bytes)
            memory = mmap.mmap(file.fileno(), layout.bytes)
            order = {
                "n": n,
                "shapes": shapes,
                "cameras": [known.index(name) for name in sizes],
                "sizes": list(sizes.values()),
                "model": len(binary),
            }
            self._children = [_start(order, binary.tobytes(), file.fileno()) for _ in range(min(processes, n))]
        self._close = weakref.finalize(self, _end, self._children)
        self._places, images = layout.arrays(memory)
        self.images = dict(zip(sizes, images, strict=True))
        try:
            self._wait(self._children)
        except EnvError:
            self.close()
            raise

    def draw(self, ids: np.ndarray, places: Mapping[str, np.ndarray]) -> None:
        """Draw the arms `ids` (indices), which are where `places` says: each of `PLACES`, (n, ...). Waits for them.

        Raises EnvError when a child failed; nothing can be drawn after that.
        """
        if not len(ids):
            return
        for name, rows in self._places.items():
            rows[ids] = places[name][ids]
        busy = self._children[: len(ids)]
        for index, child in enumerate(busy):
            try:
                _send(child, json.dumps(ids[index :: len(busy)].tolist()).encode())
            except OSError:
                continue  # the answer that doesn't come says why
        self._wait(busy)

    def close(self) -> None:
        """End the children. Allowed any number of times."""
        self._close()

    def _wait(self, busy: list[subprocess.Popen[bytes]]) -> None:
        for child in busy:
            assert child.stdout is not None
            answer = child.stdout.readline().decode().strip()
            if answer != "done":
                reason = answer or f"the process that draws them ended with status {child.wait()}"
                raise EnvError(f"no camera images: {reason}")


class Layout:
    """Where the arrays are in the memory that parent and children share."""

    def __init__(self, n: int, shapes: Mapping[str, Sequence[int]], sizes: Sequence[Sequence[int]]) -> None:
        self._fields: list[tuple[tuple[int, ...], type]] = [((n, *shape), np.float64) for shape in shapes.values()]
        self._fields += [((n, *size, 3), np.uint8) for size in sizes]
        self._names = tuple(shapes)
        self.bytes = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self._fields)

    def arrays(self, memory: mmap.mmap) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """The places, by name, and the images of each camera."""
        made, start = [], 0
        for shape, kind in self._fields:
            count = int(np.prod(shape))
            made.append(np.frombuffer(memory, kind, count, start).reshape(shape))
            start += count * np.dtype(kind).itemsize
        count = len(self._names)
        return dict(zip(self._names, made[:count], strict=True)), made[count:]


def _start(order: Mapping[str, object], model: bytes, memory: int) -> subprocess.Popen[bytes]:
    # The child must find what this process finds, wherever it was started.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen(
        [sys.executable, "-m", "envs.drawing", str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(memory,),
        env=os.environ | {"PYTHONPATH": path},
    )
    _send(child, json.dumps(order).encode(), model)
    return child


def _send(child: subprocess.Popen[bytes], line: bytes, more: bytes = b"") -> None:
    assert child.stdin is not None
    child.stdin.write(line + b"\n" + more)
    child.stdin.flush()


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(OSError):
            child.stdin.close()  # at which it ends
        child.stdout.close()
    for child in children:
        child.wait()
