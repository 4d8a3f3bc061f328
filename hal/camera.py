"""`SceneCamera`: what the cameras of a simulated scene deliver, drawn as cheaply as a policy's small images allow."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any

import mujoco
import numpy as np

from hal.errors import DriverError
from hal.robot import Image

OPENGL = threading.Lock()
"""Held while something is drawn: Mesa's software renderer, at least version 22, crashes when two threads draw."""

_PLAIN = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)


class SceneCamera:
    """Draws images (height, width, 3) of one model without shadows, reflections and smoothed edges, from fewer facets.

    At 64 x 64 pixels such an image takes about 1/30 of the time of `mujoco.Renderer` where no GPU draws. An image
    depends on the model and the given state only, not on what was drawn before, nor on the thread.

    It holds an OpenGL context, so it belongs to the thread that made it: `draw` and `close` must be called there. Those
    of several threads draw one after the other (`OPENGL`); processes draw side by side.

    Raises:
        DriverError: this process can't draw, or not with images that big.
    """

    def __init__(self, model: Any, height: int, width: int) -> None:
        # Mesa's software renderer otherwise hands each picture to threads of its own, which costs more than small
        # pictures take. It reads this when the first context of the process is made.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        self._model = copy.copy(model)  # the settings below are read when the context is made
        quality, buffer = self._model.vis.quality, self._model.vis.global_
        quality.offsamples, quality.numslices, quality.numstacks, quality.numquads = 0, 12, 6, 2
        buffer.offwidth, buffer.offheight = width, height
        self._scene = mujoco.MjvScene(self._model, maxgeom=2 * model.ngeom + 200)
        for flag in _PLAIN:
            self._scene.flags[flag] = False
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._context: Any = None
        self._gl: Any = None
        try:
            with OPENGL:
                self._gl = mujoco.GLContext(width, height)
                self._gl.make_current()
                self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except Exception as error:  # each platform's OpenGL has exceptions of its own
            self.close()
            raise DriverError(
                f"camera images of {width} x {height} pixels can't be drawn: {' '.join(str(error).split())}; without a "
                "display set MUJOCO_GL to egl or osmesa before mujoco is imported"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def draw(self, data: Any, camera: int, out: Image | None = None) -> Image:
        """The image (height, width, 3) of the model's camera `camera`, into `out` if given.

        data: an MjData of the model whose body, geom and camera poses are those to be seen.
        """
        self._view.fixedcamid = camera
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, self._view, every, self._scene)
        with OPENGL:
            self._gl.make_current()
            mujoco.mjr_render(self._rect, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        image: Image = np.empty_like(self._pixels) if out is None else out
        image[:] = self._pixels[::-1]  # OpenGL's rows go upwards
        return image

    def close(self) -> None:
        """Frees the OpenGL context. Allowed any number of times."""
        with OPENGL:
            if self._context is not None:
                self._gl.make_current()
                self._context.free()
            if self._gl is not None:
                self._gl.free()
            self._context = self._gl = None
