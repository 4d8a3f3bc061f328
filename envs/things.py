"""Things that words name by colour and shape: "red cube", "white plate"."""

import mujoco

from envs.errors import TaskError
from envs.objects import CUBE_MASS, FRICTION

COLOURS = {
    "red": (0.85, 0.15, 0.12),
    "blue": (0.12, 0.3, 0.85),
    "green": (0.15, 0.62, 0.22),
    "yellow": (0.95, 0.8, 0.1),
    "purple": (0.5, 0.15, 0.6),
    "white": (0.95, 0.95, 0.95),
    "black": (0.1, 0.1, 0.1),
    "orange": (0.95, 0.5, 0.08),
    "pink": (0.95, 0.5, 0.7),
}
_GEOM = mujoco.mjtGeom
SHAPES = {"cube": _GEOM.mjGEOM_BOX, "ball": _GEOM.mjGEOM_SPHERE, "can": _GEOM.mjGEOM_CYLINDER}


def add_thing(scene: mujoco.MjSpec, name: str, half_size: float, *, free: bool) -> None:
    """A body called `name`, as wide and as high as a cube of twice `half_size` m; "COLOUR SHAPE" says how it looks.

    free: it can be grasped; otherwise nothing collides with it. Raises TaskError for an unknown colour or shape.
    """
    body = scene.worldbody.add_body(name=name, mocap=not free, pos=[0, 0, half_size])
    geom = body.add_geom(type=_shape(name), size=[half_size] * 3, rgba=[*colour(name), 1])
    if free:
        body.add_freejoint()
        geom.mass, geom.friction, geom.condim = CUBE_MASS * (half_size / 0.02) ** 3, FRICTION, 4
    else:
        geom.contype = geom.conaffinity = 0


def add_plate(scene: mujoco.MjSpec, name: str, radius: float, half_height: float) -> None:
    """A round plate that stays where an episode puts it, and that things lie on."""
    plate = scene.worldbody.add_body(name=name, mocap=True, pos=[0, 0, half_height])
    plate.add_geom(type=_GEOM.mjGEOM_CYLINDER, size=[radius, half_height, 0], rgba=[*colour(name), 1])


def colour(name: str) -> tuple[float, float, float]:
    """RGB in [0, 1] of what is called so; raises TaskError for a colour that is none of `COLOURS`."""
    word = name.split()[0]
    if word not in COLOURS:
        raise TaskError(f"{name!r}: no colour {word!r}, there are {', '.join(COLOURS)}")
    return COLOURS[word]


def _shape(name: str) -> mujoco.mjtGeom:
    word = name.split()[-1]
    if word not in SHAPES:
        raise TaskError(f"{name!r}: no shape {word!r}, there are {', '.join(SHAPES)}")
    return SHAPES[word]
