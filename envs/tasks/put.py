"""Put: one of two cubes onto one of two plates, as the words say."""

from itertools import product

import mujoco
import numpy as np

from envs.features import object_features
from envs.geometry import poses
from envs.grasp import carry_goal, carry_progress, check_gripper, is_at, let_go
from envs.language import CLOTH, LAMP, NOISE, SEEN, LanguageTask, Split
from envs.task import SceneState, ToolGoal
from envs.things import add_plate, add_thing
from hal.spec import RobotSpec

PAIRS = (("red cube", "white plate"), ("red cube", "black plate"), ("blue cube", "white plate"))
NEVER = (("blue cube", "black plate"),)


class Put(LanguageTask):
    """A red and a blue cube of 4 cm and 50 g, a white and a black plate 8 cm wide, each near a corner of the tabletop.

    The cube that is meant must rest within 2 cm of the middle of the plate that is meant, the gripper open and above
    it, for three steps; an episode in which another cube lies so, or on another plate, is over. Training never asks
    for the blue cube on the black plate.

    On small tables lengths are in proportion. `observation.environment_state`, (33,): see `envs.features` (15) for the
    red cube, then entries 3 to 14 for the blue one; white plate minus tool, black plate minus tool, base frame (3, m,
    each). It doesn't tell which is meant.
    """

    name = "put"
    things = ("red cube", "blue cube", "white plate", "black plate")
    goals = PAIRS
    wordings = (
        "put the {} on the {}",
        "place the {} onto the {}",
        "pick up the {} and set it down on the {}",
        "move the {} to the {}",
    )
    splits = (
        SEEN,
        CLOTH,
        LAMP,
        NOISE,
        Split(
            "words",
            "semantics",
            "wordings never told",
            wordings=("the {} belongs on the {}", "lay the {} upon the {}", "serve the {} with the {} under it"),
        ),
        Split("pairs", "semantics", "a cube and a plate never named together", goals=NEVER),
        Split(
            "shapes", "semantics", "cans, not cubes", things=("red can", "blue can", "white plate", "black plate"),
            goals=tuple((thing.replace("cube", "can"), plate) for thing, plate in PAIRS),
        ),
        Split(
            "colours", "semantics", "cubes of colours never named",
            things=("yellow cube", "purple cube", "white plate", "black plate"),
            goals=tuple(product(("yellow cube", "purple cube"), ("white plate", "black plate"))),
        ),
        Split(
            "plates", "semantics", "plates of colours never named",
            things=("red cube", "blue cube", "pink plate", "green plate"),
            goals=tuple(product(("red cube", "blue cube"), ("pink plate", "green plate"))),
        ),
        Split("places", "execution", "along the tabletop's sides, not in its corners", elsewhere=True),
        Split("start", "execution", "the tool starts higher and aside", start=(-0.02, 0.05, 0.06)),
        Split("moved", "execution", "all is moved before the fifth step", moves_at=4),
    )  # fmt: skip
    episode_steps = 72
    hold_steps = 3
    expert_delta = 0.12

    def __init__(self, spec: RobotSpec, split: str = "seen") -> None:
        super().__init__(spec, split)
        scale = self.tabletop.scale
        self.half_size = self.tolerance = 0.02 * scale
        self.radius, self.half_height = 0.04 * scale, 0.004 * scale
        self.blocks, self.plates = self.things[:2], self.things[2:]
        check_gripper(spec, self.name, 2 * self.half_size, f"the {200 * self.half_size:.1f} cm cube")

    def build(self, scene: mujoco.MjSpec) -> None:
        for name in self.blocks:
            add_thing(scene, name, self.half_size, free=True)
        for name in self.plates:
            add_plate(scene, name, self.radius, self.half_height)

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        half = (self.tabletop.upper - self.tabletop.lower) / 2
        corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * 0.7
        sides = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]]) * 0.9
        spots = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
        centre = self.tabletop.centre + half * (sides if self.split.elsewhere else corners)[spots]
        where = centre + rng.uniform(-0.01, 0.01, centre.shape) * self.tabletop.scale
        placed = {}
        for index, name in enumerate(self.things):
            height = self.half_size if name in self.blocks else self.half_height
            yaw = rng.uniform(-np.pi / 4, np.pi / 4, n)
            placed[name] = poses(np.concatenate([where[:, index], np.full((n, 1), height)], -1), yaw)
        return placed

    def observe(self, state: SceneState) -> np.ndarray:
        one, other = (state.objects[name] for name in self.blocks)
        white, black = (state.objects[name][:, :3] for name in self.plates)
        cubes = [object_features(state, one), object_features(state, other)[:, 3:]]
        return np.concatenate([*cubes, white - state.tcp, black - state.tcp], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        return self._lies(state, self._block(state), self._place(state))

    def failed(self, state: SceneState) -> np.ndarray:
        wrong = np.zeros(len(state.tcp), bool)
        for pair in product(self.blocks, self.plates):
            lies = self._lies(state, state.objects[pair[0]], self._on(state, pair[1]))
            meant = self.goals.index(pair) if pair in self.goals else -1
            wrong |= lies & (state.goal != meant)
        return wrong

    def progress(self, state: SceneState) -> np.ndarray:
        return carry_progress(state, self._block(state)[:, :3], self._place(state), self.half_size)

    def expert_goal(self, state: SceneState) -> ToolGoal:
        return carry_goal(self, state, self._block(state), self._place(state), 2 * self.half_size)

    def _lies(self, state: SceneState, block: np.ndarray, place: np.ndarray) -> np.ndarray:
        at = is_at(block[:, :3], place, self.tolerance)
        return at & let_go(self, state, block[:, :3], 2 * self.half_size)

    def _on(self, state: SceneState, plate: str) -> np.ndarray:
        """(n, 3) where the middle of a cube on that plate is."""
        return state.objects[plate][:, :3] + [0, 0, self.half_height + self.half_size]

    def _block(self, state: SceneState) -> np.ndarray:
        """(n, 7) the pose of the cube that is meant."""
        found = np.stack([state.objects[block] for block, _ in self.goals])
        return found[state.goal, np.arange(len(state.tcp))]

    def _place(self, state: SceneState) -> np.ndarray:
        """(n, 3) where its middle is to be."""
        found = np.stack([self._on(state, plate) for _, plate in self.goals])
        return found[state.goal, np.arange(len(state.tcp))]
