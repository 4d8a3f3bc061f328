"""The simulated world of a task: the spec's arm, a table, the task's objects."""

import math

import mujoco

from envs.errors import TaskError
from envs.task import Task
from hal.mjcf import load_mjcf
from hal.spec import RobotSpec


def build_scene(spec: RobotSpec, task: Task) -> mujoco.MjModel:
    """Compile the arm's MJCF with a table (top at z = 0 of the base frame), lights, and what the task adds.

    The MJCF's timestep is the longest allowed: it is shortened so that a period of the driver is a whole number of
    them. Its own floor, lights and sky are left out: every robot's scene is lit alike, as the task's look says, and
    nothing lies on two floors.

    Raises TaskError when the spec names no MJCF or the scene does not compile, SpecError when the MJCF can't be read.
    """
    if spec.mujoco is None:
        raise TaskError(f"robot {spec.name} has no MuJoCo model, so task {task.name} can't be simulated with it")
    scene = load_mjcf(spec)
    world = scene.worldbody
    floors = [geom for geom in world.geoms if geom.type == mujoco.mjtGeom.mjGEOM_PLANE]
    skies = [texture for texture in scene.textures if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX]
    for part in (*floors, *world.lights, *skies):
        scene.delete(part)
    scene.option.timestep = spec.dt_driver / math.ceil(spec.dt_driver / scene.option.timestep - 1e-9)
    scene.visual.quality.shadowsize = 1024  # MuJoCo's 4096 triples the time of a picture that is drawn without a GPU
    add_sky(scene)
    task.look.add_to(scene)
    if not any(camera.name == "front" for camera in scene.cameras):  # what films are taken with
        (x, y), scale = task.tabletop.centre, task.tabletop.scale
        pos = [x + 0.85 * scale, y, 0.6 * scale]
        world.add_camera(name="front", pos=pos, xyaxes=[0, 1, 0, -0.45, 0, 0.89], fovy=34)
    task.build(scene)
    try:
        return scene.compile()
    except ValueError as error:
        raise TaskError(f"the scene of task {task.name} with robot {spec.name} does not compile: {error}") from error


def add_sky(scene: mujoco.MjSpec) -> None:
    """A pale one, behind everything."""
    scene.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.75, 0.82, 0.9],
        rgb2=[0.95, 0.97, 1.0],
        width=64,
        height=64,
    )
