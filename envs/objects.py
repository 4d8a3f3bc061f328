"""The bodies that tasks put on the table."""

from collections.abc import Sequence

import mujoco

CUBE_MASS = 0.05
"""kg, of a cube of 4 cm; smaller ones are of the same stuff."""
FRICTION = (1.0, 0.005, 0.0001)


def add_cube(
    scene: mujoco.MjSpec, name: str, position: Sequence[float], half_size: float, colour: Sequence[float]
) -> None:
    """A free cube."""
    add_block(scene, name, position, [half_size] * 3, CUBE_MASS * (half_size / 0.02) ** 3, colour)


def add_block(
    scene: mujoco.MjSpec,
    name: str,
    position: Sequence[float],
    half_sizes: Sequence[float],
    mass: float,
    colour: Sequence[float],
) -> None:
    """A free block; a gripper can hold it."""
    body = scene.worldbody.add_body(name=name, pos=position)
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=half_sizes, mass=mass, friction=FRICTION, condim=4, rgba=colour)


def add_mark(
    scene: mujoco.MjSpec, name: str, position: Sequence[float], radius: float, colour: Sequence[float]
) -> None:
    """A disc on the table that nothing collides with; episodes set its place."""
    mark = scene.worldbody.add_body(name=name, mocap=True, pos=position)
    mark.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[radius, 0.0005, 0], rgba=colour, contype=0, conaffinity=0)
