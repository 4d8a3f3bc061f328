"""`LanguageTask`: a task whose words say which of several goals is meant, and its splits: what training never shows."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from envs.errors import TaskError
from envs.look import Look
from envs.task import Task
from hal.spec import RobotSpec

Axis = Literal["seen", "vision", "semantics", "execution"]
Goal = tuple[str, ...]
"""What fills the gaps of a wording, in their order: the names of what is meant."""


@dataclass(frozen=True)
class Split:
    """One way in which episodes differ from those of training; what it leaves out is as in training.

    The axes are those of "What can RL bring to VLA generalization?" (arXiv:2505.19789).

    Attributes:
        name, axis, what: what it is called, which kind of generalisation it asks for, and in a few words how.
        look: of table and light.
        image_noise: as in `Randomization`, on top of the run's own.
        wordings: of the instructions.
        things: what lies on the table and can be meant. goals: what is meant, of these.
        clutter: what else lies there.
        elsewhere: things lie where they never lay in training.
        start: by how much the tool waits elsewhere, m on a full-sized table: x, y, z.
        moves_at: the step before which things are moved.
    """

    name: str
    axis: Axis
    what: str
    look: Look | None = None
    image_noise: float = 0.0
    wordings: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    clutter: tuple[str, ...] = ()
    elsewhere: bool = False
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)
    moves_at: int | None = None


SEEN = Split("seen", "seen", "as in training")
CLOTH = Split(
    "table", "vision", "a checked cloth on the table", look=Look(table=(0.2, 0.32, 0.3), checks=(0.75, 0.78, 0.7))
)
LAMP = Split(
    "light",
    "vision",
    "dim and warm, from the other side",
    look=Look(lamp=(0.75, 0.55, 0.3), lamp_from=(1.2, 1.4, 1.2), lamp_towards=(-0.6, -1.0, -0.9), fill=0.35),
)
NOISE = Split("noise", "vision", "noise on each pixel, 1/8 of full brightness", image_noise=0.125)


class LanguageTask(Task):
    """A task of several goals that lie before the arm at once: only the words tell which is meant.

    A subclass states the constants below and, besides a task's methods, `failed`: a policy that tries one after
    another has not understood. Its `instructions` are every wording with every goal of training; an episode draws one,
    and `state.goal` is the index in `self.goals` of what it means. `observe` must not tell it: words do.

    An instance is the task under one of its splits; training, and whatever doesn't ask for another, has "seen".
    """

    things: tuple[str, ...]
    """Names of what lies on the table and can be meant."""
    goals: tuple[Goal, ...]
    """What can be meant: for each goal what fills the gaps, {}, of the wordings."""
    wordings: tuple[str, ...]
    """Instructions with gaps: "put the {} on the {}"."""
    clutter: tuple[str, ...] = ()
    """Names of what else lies on the table."""
    splits: ClassVar[tuple[Split, ...]]
    """`SEEN` first."""

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "wordings"):
            return
        names = [split.name for split in cls.splits]
        if names[0] != "seen" or len(set(names)) < len(names):
            raise TaskError(f"task {cls.name}: its splits are {', '.join(names)}: expected 'seen' first, and each once")
        cls.instructions = spelled(cls.wordings, cls.goals)
        further = [
            words
            for split in cls.splits
            for words in spelled(split.wordings or cls.wordings, split.goals or cls.goals)
            if words not in cls.instructions
        ]
        cls.held_out = tuple(dict.fromkeys(further))

    def __init__(self, spec: RobotSpec, split: str = "seen") -> None:
        """Raises TaskError when the robot can't do this task, or for a split that the task hasn't."""
        super().__init__(spec)
        found = {one.name: one for one in self.splits}
        if split not in found:
            near = difflib.get_close_matches(split, found, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(found)}"
            raise TaskError(f"task {self.name} has no split {split!r}; {hint}")
        self.split = chosen = found[split]
        self.things, self.goals = chosen.things or self.things, chosen.goals or self.goals
        self.wordings, self.clutter = chosen.wordings or self.wordings, chosen.clutter or self.clutter
        self.look, self.moves_at = chosen.look or self.look, chosen.moves_at
        self.objects = (*self.things, *self.clutter)
        self.instructions = spelled(self.wordings, self.goals)
        self._goal_by_words = {words: goal for goal in range(len(self.goals)) for words in self.told(goal)}

    @property
    def start_tcp(self) -> tuple[float, float, float]:
        x, y, z = super().start_tcp
        dx, dy, dz = (self.tabletop.scale * way for way in self.split.start)
        return (x + dx, y + dy, z + dz)

    def told(self, goal: int) -> tuple[str, ...]:
        """The words for one goal."""
        return spelled(self.wordings, self.goals[goal : goal + 1])

    def goal_of(self, instruction: str) -> int:
        """Raises TaskError for words that no episode of this task and split is told."""
        if instruction not in self._goal_by_words:
            raise TaskError(f"task {self.name}, split {self.split.name}: no episode is told {instruction!r}")
        return self._goal_by_words[instruction]


def spelled(wordings: Sequence[str], goals: Sequence[Goal]) -> tuple[str, ...]:
    """Every wording with every goal, the goals one after another."""
    return tuple(wording.format(*goal) for goal in goals for wording in wordings)
