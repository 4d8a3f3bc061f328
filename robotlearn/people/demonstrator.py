"""`Demonstrator`: a person shows a task, episode after episode, and says which ones are worth keeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event as Flag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import ArmEnv, LanguageTask
from hal.errors import LeaseError, RobotFault, Stopped
from hal.virtual_scene import VirtualScene
from robotlearn.people.guidance import guidance
from robotlearn.people.intent import Device, Event, Intent
from robotlearn.people.mapping import Mapping
from robotlearn.people.recording import Recording
from robotlearn.people.resets import Reset
from robotlearn.people.taken import Taken

_POLL_S = 0.02
_NEAR = 0.2  # [rad] how far a leader may be from its follower when an episode begins


class _Ended(Exception):
    """Raised when the person quits, or a signal comes, on the way to a start."""


class Demonstrator:
    """Records until `recording` holds `episodes` successes, the person quits, or `stop` is set.

    An episode begins with the person's first motion, so that nobody learns to wait; with a leader arm when that is
    enabled near the follower. It ends when the task says so, with the person's word (success, failure), or out of
    time, which is a failure. Both are kept. Discarded is not kept, nor is what an e-stop broke off: it is done again.

    env: reset and stepped here alone. device: its e-stop presses `taken`'s. seed: the starts follow from it; None: no
    two sessions have the same. shown: the objects that `line` tells the way to.
    """

    def __init__(
        self,
        taken: Taken,
        env: ArmEnv,
        device: Device,
        recording: Recording,
        *,
        episodes: int,
        speed: float,
        reset: Reset,
        say: Callable[[str], object],
        seed: int | None = None,
        shown: tuple[str, ...] = (),
    ) -> None:
        self._taken, self._env, self._device, self._recording = taken, env, device, recording
        self._episodes, self._reset, self._say = episodes, reset, say
        self._mapping = Mapping(taken.spec, speed)
        self._events: list[Event] = []
        self._state, self._step = "starts", 0
        self._quit, self._shown, self._placed = False, shown, False
        self._stop, self._seed = Flag(), seed

    def run(self, stop: Flag) -> None:
        """Blocks. Raises DeviceError when the device is gone, RobotFault when the robot fails, LogError."""
        self._stop = stop
        if isinstance(self._env.robot, VirtualScene):
            self._env.robot.between = self._on_the_way
        while self._recording.successes < self._episodes and self._goes_on(stop):
            try:
                self._state = "goes to its start"
                self._placed = False
                observations, _ = self._env.reset(seed=self._seed)
                self._seed = None
                self._placed = True
                how = self._device.go_on
                if self._reset.wait(lambda: self._goes_on(stop), self._asked, self._show, how) and self._ready(stop):
                    self._episode(observations, stop)
            except _Ended:
                return
            except (Stopped, LeaseError) as error:
                self._wait_after(str(error), stop)

    def line(self) -> str:
        """How it stands, in one line; may be called from any thread."""
        kept = self._recording
        return (
            f"{kept.successes} of {self._episodes} | {self._words()}{self._state} | {self._way()}step {self._step} | "
            f"failed {kept.failures}, discarded {kept.discarded} | missed {self._env.missed_ticks}"
        )

    def _words(self) -> str:
        """What is to be done, where each episode has words of its own."""
        told = self._placed and isinstance(self._env.task, LanguageTask)
        return f"{self._env.instruction} | " if told else ""

    def _way(self) -> str:
        if not self._placed:  # the objects are still those of the episode before
            return ""
        try:
            task, shown = self._env.task, self._shown
            if shown and isinstance(task, LanguageTask):
                shown = task.goals[task.goal_of(self._env.instruction)]
            return guidance(self._env.scene_state(), shown) + " | "
        except RobotFault as error:
            return f"{error} | "

    def _on_the_way(self) -> None:
        self._read()
        if not self._goes_on(self._stop):
            raise _Ended

    def _show(self, state: str) -> None:
        self._state = state

    def _goes_on(self, stop: Flag) -> bool:
        return not stop.is_set() and not self._quit

    def _read(self) -> Intent:
        intent = self._device.read()
        self._quit = self._quit or Event.QUIT in intent.events
        return intent

    def _asked(self) -> bool:
        return Event.NEXT in self._read().events

    def _ready(self, stop: Flag) -> bool:
        """Waits for the person to begin; False when that doesn't come. The arm rests.

        Whoever still holds a key, or the switch, of the episode before must let go of it first.
        """
        self._device.release()
        held = True
        while self._goes_on(stop):
            if self._taken.estop.pressed:
                raise Stopped(f"{self._taken.spec.name}: {self._taken.estop.reason()}")
            intent = self._read()
            wants = intent.enable and intent.moves
            held = held and wants
            apart = "" if intent.target is None else self._apart(intent.target)
            self._state = "let go" if held else apart or "move to begin"
            if wants and not held and not apart:
                return True
            time.sleep(_POLL_S)
        return False

    def _apart(self, target: NDArray[Any]) -> str:
        joints = len(self._taken.spec.joints)
        gap = (target - self._env.set_point)[:joints]
        worst = int(np.abs(gap).argmax())
        if abs(gap[worst]) < _NEAR:
            return ""
        return f"bring the leader to the arm: {self._taken.spec.names[worst]} by {-gap[worst]:+.2f} rad"

    def _episode(self, observations: dict[str, NDArray[Any]], stop: Flag) -> None:
        self._recording.begin(observations, self._env.instruction)
        self._env.start_clock()
        self._mapping.engage()
        self._state, self._step = "records", 0
        while self._goes_on(stop):
            intent = self._read()
            if Event.DISCARD in intent.events:
                self._recording.discard()
                self._say("discarded: once more")
                return
            set_point = self._env.set_point
            wanted = self._mapping.action(intent, set_point) if intent.enable else self._mapping.rest(set_point)
            action = wanted.astype(np.float32)
            observations, reward, terminated, truncated, info = self._env.step(action)
            if info["stopped"]:
                self._recording.discard()
                raise Stopped(info["stopped"])
            success = bool(info["success"]) or Event.SUCCESS in intent.events
            failure = Event.FAILURE in intent.events and not success
            # The person's word counts as the task's own would: success pays 1, once.
            reward += float(success and not info["success"])
            terminated = terminated or success
            truncated = (truncated or failure) and not terminated
            self._recording.step(
                observations,
                proposed=action,
                executed=info["executed"],
                held=bool(info["held"]),
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                success=success,
                monotonic=self._env.reading.monotonic,
                wall=self._env.reading.wall,
            )
            self._step += 1
            if terminated or truncated:
                self._env.hold()
                self._recording.keep()
                how = "success" if success else "failure" if failure else "out of time, a failure"
                self._say(f"episode of {self._step} steps: {how}")
                return

    def _wait_after(self, why: str, stop: Flag) -> None:
        """The arm was stopped: nothing goes on before the person says so."""
        self._device.release()
        self._say(f"{why}: {self._taken.remedy}; the running episode is discarded")
        while self._goes_on(stop):
            estopped = self._taken.estop.pressed
            self._state = "E-STOP" if estopped else "stopped"
            events = self._read().events
            if (Event.CLEAR in events and self._taken.clear(self._say)) or (Event.NEXT in events and not estopped):
                return
            time.sleep(_POLL_S)
