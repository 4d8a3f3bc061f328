"""How MuJoCo can draw without a screen: EGL, OSMesa, or not at all; and whether there is one."""

import ctypes
import os
import sys

LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6")}


def available() -> str:
    """The first way to draw that this machine has the library for, or ''."""
    for name, libraries in LIBRARIES.items():
        for library in libraries:
            try:
                ctypes.CDLL(library)
            except OSError:
                continue
            return name
    return ""


def choose() -> bool:
    """Set MUJOCO_GL on Linux unless the user has; call before mujoco is first imported. False: nothing to draw with."""
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL"):
        return True
    name = available()
    if name:
        os.environ["MUJOCO_GL"] = name
    return bool(name)


def has_display() -> bool:
    """Whether a window could be opened; only Linux can do without a screen."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
