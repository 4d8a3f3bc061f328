"""A task: what stands on the table, where an episode starts, what counts as success."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from envs.look import Look
from envs.options import EnvOptions
from envs.tabletop import Tabletop
from hal.spec import RobotSpec


@dataclass(frozen=True)
class SceneState:
    """What n arms and their objects look like at one moment.

    Attributes:
        position: (n, dim) joint positions in rad, then the gripper width in m.
        tcp: (n, 3) tool centre point in the arm's base frame, m.
        rotation: (n, 3, 3) orientation of the tool; its third column is the approach direction.
        objects: name to (n, 7) pose in the base frame: x, y, z in m, then a unit quaternion w, x, y, z.
        goal: (n,) which of the task's goals each arm was told, a whole number (`Task.goal_of`); None: all 0.
    """

    position: np.ndarray
    tcp: np.ndarray
    rotation: np.ndarray
    objects: Mapping[str, np.ndarray]
    goal: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.goal is None:
            object.__setattr__(self, "goal", np.zeros(len(self.tcp), np.int64))


@dataclass(frozen=True)
class ToolGoal:
    """Where a scripted expert wants the tools of n arms next.

    Attributes:
        position: (n, 3) tool centre point in the base frame, m.
        rotation: (n, 3, 3) orientation of the tool.
        width: (n,) what the gripper is to open to, m; ignored by an arm without one.
        turn_weight: how much an rad of wrong orientation counts beside a m of wrong position.
    """

    position: np.ndarray
    rotation: np.ndarray
    width: np.ndarray
    turn_weight: float = 1.0


class Task(ABC):
    """One task for any number of arms at once; holds no state of an episode, so one instance serves every arm.

    A subclass states the constants below and five methods, and `expert_goal` if it is to be demonstrated; `envs.tasks`
    finds it by `name`. `self.tabletop` says where on the arm's table things may lie and how large they are. One whose
    words say which of several things is meant is an `envs.language.LanguageTask`.
    """

    name: ClassVar[str]
    instructions: tuple[str, ...]
    """The task in words, in several wordings; each episode draws one. No two tasks share a wording."""
    held_out: ClassVar[tuple[str, ...]] = ()
    """Further words for it that no episode draws unless a split of the task asks for them, see `envs.language`."""
    episode_steps: ClassVar[int]
    """An episode is truncated after so many control steps."""
    hold_steps: ClassVar[int] = 1
    """Success is declared after so many consecutive steps in which `achieved` holds."""
    objects: tuple[str, ...]
    """Bodies whose pose an episode sets; each has a free joint or is a mocap body."""
    virtual: ClassVar[bool] = False
    """Nothing touches the objects: a real arm can do the task with none of them there."""
    expert_delta: ClassVar[float] = 0.08
    """Largest joint delta of the scripted expert, rad per control step."""
    start_noise: ClassVar[float] = 0.02
    """Standard deviation of the start's joint angles, rad."""
    look: Look = Look()
    """What the table looks like and how it is lit."""
    moves_at: int | None = None
    """Before this step of an episode, counted from 0, the objects are placed anew; None: they stay."""

    def __init__(self, spec: RobotSpec) -> None:
        """Raises TaskError when the robot can't do this task: here, when its spec says nothing of a tabletop."""
        self.spec = spec
        self.tabletop = Tabletop.of(spec, self.name)

    @property
    def start_tcp(self) -> tuple[float, float, float]:
        """Where the tool waits at the start of an episode, in the base frame, m; it points down."""
        x, y = self.tabletop.centre
        return (float(x), float(y), 0.16 * self.tabletop.scale)

    @abstractmethod
    def build(self, scene: mujoco.MjSpec) -> None:
        """Add the task's bodies to a scene that already holds the arm and the table (its top at z = 0)."""

    @abstractmethod
    def place(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """Draw the objects' start poses of n episodes: name to (n, 7)."""

    @abstractmethod
    def observe(self, state: SceneState) -> np.ndarray:
        """Return `observation.environment_state`, (n, E) float32."""

    @abstractmethod
    def achieved(self, state: SceneState) -> np.ndarray:
        """Return (n,) bool: the goal holds at this moment."""

    @abstractmethod
    def progress(self, state: SceneState) -> np.ndarray:
        """Return (n,) in [0, 1]: how far it has come, rising all the way to success; for the shaped reward."""

    def failed(self, state: SceneState) -> np.ndarray:
        """Return (n,) bool: what was done at this moment is not what was asked for.

        An episode is cut off (truncated) after as many consecutive steps of it as success takes. By default nothing
        fails: an episode without success lasts for all its steps.
        """
        return np.zeros(len(state.tcp), bool)

    def goal_of(self, instruction: str) -> int:
        """Which of the task's goals these words mean, what `SceneState.goal` says. By default there is one, 0."""
        return 0

    def expert_goal(self, state: SceneState) -> ToolGoal:
        """Where the scripted expert goes next, from the state alone: it has no memory, since a policy has none.

        A phase that can't be seen in the observation can't be imitated. Tasks that don't define this have no expert.
        """
        raise NotImplementedError


class Referee:
    """Counts the steps of n episodes of one task and calls success, end and reward, for simulated and real arms.

    sees: the poses of the task's objects are true. Otherwise it calls the end of the time alone, and rewards are 0.
    """

    def __init__(self, task: Task, n: int, options: EnvOptions, *, sees: bool = True) -> None:
        self.task, self.sees = task, sees
        self.episode_steps = options.episode_steps or task.episode_steps
        self.steps = np.zeros(n, np.int64)
        self._held, self._lost = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._shaped = sees and options.reward == "shaped"
        self._progress = np.zeros(n)

    def start(self, ids: np.ndarray, state: SceneState) -> None:
        """A new episode begins for the arms `ids` (indices); `state` is that of all n arms."""
        self.steps[ids] = 0
        self._held[ids] = self._lost[ids] = 0
        if self._shaped:
            self._progress[ids] = self.task.progress(state)[ids]

    def judge(self, state: SceneState, running: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """After one step of the arms in the mask `running`: (reward f32, success, truncated), each (n,).

        The sparse reward is 1 at the step where success is declared, which also terminates the episode, else 0; the
        shaped one adds what the step changed of the task's progress, so that it sums up to the same but for where the
        episode began and ended (Ng et al., 1999). Rows of arms that don't run mean nothing.
        """
        self.steps += running
        if not self.sees:
            return np.zeros(len(running), np.float32), np.zeros(len(running), bool), self.steps >= self.episode_steps
        self._held = np.where(self.task.achieved(state), self._held + 1, 0)
        self._lost = np.where(self.task.failed(state), self._lost + 1, 0)
        success = self._held >= self.task.hold_steps
        over = (self.steps >= self.episode_steps) | (self._lost >= self.task.hold_steps)
        reward = success.astype(np.float32)
        if self._shaped:
            progress = self.task.progress(state)
            reward += (progress - self._progress).astype(np.float32)
            self._progress = progress
        return reward, success, over & ~success
