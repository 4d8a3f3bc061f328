"""A person played by a script: watches simulated arms, and takes over from the policy where it makes no headway."""

from dataclasses import dataclass

import numpy as np

from envs import Expert
from envs.task import SceneState, Task
from hal.spec import RobotSpec
from robotlearn.config.edge import ScriptedPersonConfig


@dataclass
class Effort:
    """What a person has done so far, over all arms that they watch; no more of either than the bounds.

    attended: episodes that they watched, or watch. corrected: those of them in which they took over.
    """

    most_attended: int | None = None
    most_corrected: int | None = None
    attended: int = 0
    corrected: int = 0

    @classmethod
    def of(cls, config: ScriptedPersonConfig) -> "Effort":
        """Nothing done yet, with the bounds of the config."""
        return cls(config.episodes, config.corrections)

    def attend(self) -> bool:
        """Whether they attend another episode; it counts."""
        if (self.most_attended is not None and self.attended >= self.most_attended) or self._tired:
            return False
        self.attended += 1
        return True

    def correct(self) -> bool:
        """Whether they take over in another episode; it counts."""
        if self._tired:
            return False
        self.corrected += 1
        return True

    @property
    def _tired(self) -> bool:
        return self.most_corrected is not None and self.corrected >= self.most_corrected


class ScriptedPerson:
    """Watches the episodes of n arms at one task; while they hold the enable switch they do what the `Expert` would.

    An arm makes headway in a step that brings the task's own measure, `Task.progress`, more than `headway` above where
    it last did (at first: where the episode began). The person takes over

    * after `patience` steps in a row without: the policy hesitates, or tries in vain;
    * at once where the measure is `setback` below where it last made headway: it goes astray, or has lost what it held.

    From then on headway counts anew, from where the arm is. The person gives back

    * with `until: headway`, after `steady` steps of headway, not necessarily in a row: the arm is on its way again, and
      the policy gets another try, and the person another look;
    * with `until: end`, not before the episode's end.

    Unlike a real person they need no time to react, and hands change without blending. They see the true state, not
    the observations. What they do passes the safety layer as the policy's actions do. Used by one thread.
    """

    def __init__(self, spec: RobotSpec, task: Task, arms: int, config: ScriptedPersonConfig, effort: Effort) -> None:
        """`effort` is counted up; persons who share it are one. Raises TaskError when `task` has no scripted expert."""
        self.effort = effort
        self._config, self._task, self._expert = config, task, Expert(spec, task)
        self.attends = np.zeros(arms, bool)
        """(n,) whose running episode the person watches."""
        self.holds = np.zeros(arms, bool)
        """(n,) on which arms the enable switch is held."""
        self.corrected = np.zeros(arms, bool)
        """(n,) in whose running episode the person took over, be it given back."""
        self._mark = np.zeros(arms)  # the progress at the last headway
        self._idle = np.zeros(arms, np.int64)  # steps since
        self._headway = np.zeros(arms, np.int64)  # steps of headway since the person took over

    def begin(self, ids: np.ndarray, state: SceneState) -> None:
        """Episodes of the arms `ids` (indices) begin; `state` is that of all n arms."""
        for arm in ids:
            self.attends[arm] = self.effort.attend()
        self.holds[ids] = self.corrected[ids] = False
        self._mark[ids] = self._task.progress(state)[ids]
        self._headway[ids] = 0
        self._idle[ids] = -1  # `act` looks before the first step, too

    def act(self, ids: np.ndarray, state: SceneState) -> tuple[np.ndarray, np.ndarray]:
        """Before each step of the running arms `ids`: those of them that the person holds, (k,) indices of arms, and
        what they do there, (k, D) float32. `state` is that of all n arms.
        """
        ids = ids[self.attends[ids]]
        progress = self._task.progress(state)
        ahead = progress[ids] > self._mark[ids] + self._config.headway
        self._mark[ids[ahead]] = progress[ids[ahead]]
        self._idle[ids] = np.where(ahead, 0, self._idle[ids] + 1)
        self._headway[ids] += ahead
        if self._config.until == "headway":
            self.holds[ids[self._headway[ids] >= self._config.steady]] = False
        stuck = self._idle[ids] >= self._config.patience
        astray = progress[ids] <= self._mark[ids] - self._config.setback
        self._take_over(ids[~self.holds[ids] & (stuck | astray)], progress)
        held = ids[self.holds[ids]]
        return held, self._expert.act(_rows(state, held))

    def _take_over(self, ids: np.ndarray, progress: np.ndarray) -> None:
        """Where the bounds still allow it. An episode in which they did so before costs no more."""
        for arm in ids:
            self.holds[arm] = self.corrected[arm] or self.effort.correct()
        taken = ids[self.holds[ids]]
        self.corrected[taken] = True
        self._mark[taken], self._headway[taken] = progress[taken], 0


def _rows(state: SceneState, ids: np.ndarray) -> SceneState:
    objects = {name: pose[ids] for name, pose in state.objects.items()}
    return SceneState(state.position[ids], state.tcp[ids], state.rotation[ids], objects, state.goal[ids])
