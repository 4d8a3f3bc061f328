"""Touch: bring the tool to the one of two things that the words name."""

from itertools import product

import mujoco
import numpy as np

from envs.geometry import pointing_down, poses
from envs.language import CLOTH, LAMP, NOISE, SEEN, LanguageTask, Split
from envs.task import SceneState, ToolGoal
from envs.things import add_thing


class Touch(LanguageTask):
    """A red and a blue cube of 6 cm, one on the left and one on the right; the tool must come to the one that is meant.

    It must stay within 3 cm of the middle of its upper side for two steps; an episode that has it so long at anything
    else is over. Nothing collides with the cubes.

    On small tables lengths are in proportion. `observation.environment_state`, (9,): tool position (3, m), red cube
    minus tool (3, m), blue cube minus tool (3, m), to their upper sides. It doesn't tell which is meant.
    """

    name = "touch"
    things = ("red cube", "blue cube")
    goals = (("red cube",), ("blue cube",))
    wordings = (
        "move the gripper to the {}",
        "touch the {}",
        "go to the {}",
        "bring the hand over to the {}",
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
            wordings=("point at the {}", "put your fingers on the {}", "the {} is where the arm should be"),
        ),
        Split(
            "shapes", "semantics", "balls, not cubes", things=("red ball", "blue ball"),
            goals=(("red ball",), ("blue ball",)),
        ),
        Split(
            "colours", "semantics", "colours never named", things=("yellow cube", "purple cube"),
            goals=(("yellow cube",), ("purple cube",)),
        ),
        Split("clutter", "semantics", "two more things on the table", clutter=("green can", "orange ball")),
        Split("places", "execution", "cubes nearer or farther than ever", elsewhere=True),
        Split("start", "execution", "the tool starts higher and aside", start=(-0.02, 0.05, 0.06)),
        Split("moved", "execution", "the cubes are moved before the second step", moves_at=1),
    )  # fmt: skip
    episode_steps = 16
    hold_steps = 2
    virtual = True

    @property
    def half_size(self) -> float:
        """Of a thing, m."""
        return 0.03 * self.tabletop.scale

    @property
    def tolerance(self) -> float:
        """How near the tool must come, m."""
        return 0.03 * self.tabletop.scale

    def build(self, scene: mujoco.MjSpec) -> None:
        for name in self.objects:
            add_thing(scene, name, self.half_size, free=False)

    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        half = (self.tabletop.upper - self.tabletop.lower) / 2
        side = rng.choice([-1.0, 1.0], n)
        placed = {}
        for name, way in zip(self.things, (side, -side), strict=True):
            x = rng.uniform(-0.4, 0.4, n)
            if self.split.elsewhere:
                x = np.where(x < 0, -1.0, 1.0) + x / 2  # beyond 0.8, where it was within 0.4
            placed[name] = self._pose(half, x, way * rng.uniform(0.45, 0.8, n))
        for name, x in zip(self.clutter, (-1.4, 1.4), strict=False):
            placed[name] = self._pose(half, x + rng.uniform(-0.2, 0.2, n), rng.uniform(-0.5, 0.5, n))
        return placed

    def observe(self, state: SceneState) -> np.ndarray:
        ways = [self._top(state, name) - state.tcp for name in self.things]
        return np.concatenate([state.tcp, *ways], -1, dtype=np.float32)

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.linalg.norm(self._target(state) - state.tcp, axis=-1) < self.tolerance

    def failed(self, state: SceneState) -> np.ndarray:
        wrong = np.zeros(len(state.tcp), bool)
        for goal, name in product(range(len(self.goals)), self.objects):
            if name != self.goals[goal][0]:
                near = np.linalg.norm(self._top(state, name) - state.tcp, axis=-1) < self.tolerance
                wrong |= near & (state.goal == goal)
        return wrong

    def progress(self, state: SceneState) -> np.ndarray:
        return 1 - np.tanh(5 * np.linalg.norm(self._target(state) - state.tcp, axis=-1))

    def expert_goal(self, state: SceneState) -> ToolGoal:
        n = len(state.tcp)
        return ToolGoal(self._target(state), pointing_down(np.zeros(n)), np.full(n, self.spec.home[-1]))

    def _pose(self, half: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, 7) of a thing at x and y in halves of the tabletop's sides, from its middle."""
        centre = self.tabletop.centre
        where = np.stack([centre[0] + half[0] * x, centre[1] + half[1] * y, np.full(len(x), self.half_size)], -1)
        return poses(where, np.zeros(len(x)))

    def _top(self, state: SceneState, name: str) -> np.ndarray:
        return state.objects[name][:, :3] + [0, 0, self.half_size]

    def _target(self, state: SceneState) -> np.ndarray:
        tops = np.stack([self._top(state, goal[0]) for goal in self.goals])
        return tops[state.goal, np.arange(len(state.tcp))]
