"""`Look`: what a scene's table looks like and how it is lit."""

from dataclasses import dataclass

import mujoco

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """What a camera sees of a scene besides the arm and what lies on the table. Colours are RGB in [0, 1].

    Attributes:
        table: the table's colour.
        checks: the other colour of a checked table, in squares of 6 cm; None: it is of one colour.
        lamp, lamp_from, lamp_towards: colour of the lamp that casts the light, its place, m, and its direction.
        fill: by what the weaker light from the other side, and the one beside the camera, are multiplied.
    """

    table: Triple = (0.72, 0.62, 0.5)
    checks: Triple | None = None
    lamp: Triple = (0.7, 0.7, 0.7)
    lamp_from: Triple = (0.6, -0.6, 1.8)
    lamp_towards: Triple = (-0.1, 0.4, -1.0)
    fill: float = 1.0

    def add_to(self, scene: mujoco.MjSpec) -> None:
        """The lights and the table, its top at z = 0."""
        world = scene.worldbody
        for light in (scene.visual.headlight.ambient, scene.visual.headlight.diffuse):
            light[:] = self.fill * light
        world.add_light(pos=self.lamp_from, dir=self.lamp_towards, diffuse=self.lamp, castshadow=True)
        world.add_light(pos=[0.2, 0.8, 1.5], dir=[0.2, -0.5, -1.0], diffuse=[0.3 * self.fill] * 3, castshadow=False)
        table = world.add_geom(
            name="table",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0.5, 0.6, 0.02],
            pos=[0.4, 0, 0],
            rgba=[*self.table, 1],
        )
        if self.checks is not None:
            scene.add_texture(
                name="table",
                type=mujoco.mjtTexture.mjTEXTURE_2D,
                builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
                rgb1=self.table,
                rgb2=self.checks,
                width=64,
                height=64,
            )
            cloth = scene.add_material(name="table", texrepeat=[1 / 0.12, 1 / 0.12], texuniform=True)
            cloth.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
            table.material, table.rgba = "table", [1, 1, 1, 1]
