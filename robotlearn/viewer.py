"""`Viewer`: MuJoCo's window, and what an arm stands in that has no scene of its own. Imports no torch."""

import sys
import threading
import warnings
from contextlib import AbstractContextManager
from typing import Any

import mujoco
import numpy as np

from envs.scene import add_sky
from hal.mjcf import load_mjcf, refused
from hal.spec import RobotSpec
from robotlearn.errors import DisplayError
from robotlearn.window import need_display

_AWAY = 1.1
"""How far the camera is, in diagonals of what there is to see."""


def bare_scene(spec: RobotSpec) -> Any:
    """The arm's MJCF, compiled with a floor, a sky and a light where it has none. Raises SpecError."""
    mjcf = load_mjcf(spec)
    world = mjcf.worldbody
    if not any(texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX for texture in mjcf.textures):
        add_sky(mjcf)
    mjcf.visual.headlight.ambient = [0.3, 0.3, 0.3]
    if not world.lights:
        world.add_light(pos=[0.6, -0.6, 1.8], dir=[-0.1, 0.4, -1.0], diffuse=[0.7, 0.7, 0.7], castshadow=True)
    if not any(geom.type == mujoco.mjtGeom.mjGEOM_PLANE for geom in world.geoms):
        world.add_geom(
            name="floor",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[1, 1, 0.02],
            rgba=[0.72, 0.62, 0.5, 1],
            contype=0,
            conaffinity=0,
        )
    try:
        return mjcf.compile()
    except ValueError as error:
        raise refused(spec, error) from None


class Viewer(AbstractContextManager["Viewer"]):
    """MuJoCo's window; it counts as closed too when `stop` is set."""

    def __init__(self, model: Any, data: Any, stop: threading.Event, *, sliders: bool) -> None:
        """`sliders`: show the panel with the actuators' sliders. Raises DisplayError when it can't be opened."""
        need_display()
        self._stop = stop
        try:
            from mujoco import viewer
        except (ImportError, RuntimeError) as error:
            raise DisplayError(f"MuJoCo's viewer can't be used here: {' '.join(str(error).split())}") from error
        # launch_passive would wait for ever for its thread, in which this fails; on macOS that is not ours to call.
        if sys.platform != "darwin":
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                if not viewer.glfw.init():
                    reasons = "; ".join(str(warning.message) for warning in said)
                    raise DisplayError(f"no window can be opened: {reasons or 'GLFW does not say why'}")
        before = threading.enumerate()
        try:
            self._handle = viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=sliders)
        except RuntimeError as error:
            if "mjpython" not in str(error):
                raise
            again = " ".join(sys.argv[1:])
            raise DisplayError(f"on macOS a window needs MuJoCo's launcher: mjpython -m robotlearn {again}") from None
        self._threads = [thread for thread in threading.enumerate() if thread not in before]
        _frame(self._handle, model, data)

    def is_running(self) -> bool:
        return self._handle.is_running() and not self._stop.is_set()

    def sync(self) -> None:
        self._handle.sync()

    def __exit__(self, *error: object) -> None:
        self._handle.close()
        # It only asks for the end: a process, or an MjData, that goes while the window is still drawn crashes.
        for thread in self._threads:
            thread.join(5.0)


def _frame(viewer: Any, model: Any, data: Any) -> None:
    """Looks at all that isn't floor, from where arms are looked at: in front of them, from the side and above."""
    seen = model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE
    if not seen.any():
        return
    at, around = data.geom_xpos[seen], model.geom_rbound[seen, None]
    lower, upper = (at - around).min(axis=0), (at + around).max(axis=0)
    with viewer.lock():
        viewer.cam.lookat[:] = (lower + upper) / 2
        viewer.cam.distance = _AWAY * np.linalg.norm(upper - lower)
        viewer.cam.azimuth, viewer.cam.elevation = 140, -20
