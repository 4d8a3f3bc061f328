"""A dry run of an arm: chunks are computed from what it sees and shown, and nothing moves. Imports no torch."""

import time
from threading import Event
from typing import Any

import numpy as np

from envs import ArmEnv
from envs.control import JointDeltaControl
from robotlearn.edge import local
from robotlearn.edge.arm_loop import ArmLoop

_ONE = np.zeros(1, np.int64)


class DryRun(ArmLoop):
    """Per `Start`, one observation, the chunk that the policy server makes of it, and a `Preview` to the station.

    It never resets or steps its environment. That it can't move the arm is not its own doing: its robot must be
    `ReadOnly`, to which any command is an error.
    """

    def __init__(self, env: ArmEnv, *arguments: Any, **options: Any) -> None:
        """As `ArmLoop`."""
        super().__init__(env, *arguments, **options)
        self._actions = JointDeltaControl(env.robot.spec, 1)

    def _episode(self, episode: int, stop: Event) -> None:
        self._executor.start()
        observations = self._env.observe()
        if not self._wait_for_chunk(observations, stop):
            return
        latency = time.monotonic() - self._asked_at
        answer = self._executor.take().began.answer
        actions = answer.actions.array()
        # As a run would begin: at rest where the arm is.
        self._actions.reset(_ONE, self._env.reading.position[None])
        applied = [self._actions.apply(_ONE, action[None]) for action in actions]
        self._send(
            local.Preview(
                episode=episode,
                version=answer.version,
                observations=self._fields(observations),
                proposed=answer.actions,
                executed=local.Tensor.of(np.concatenate([step.executed for step in applied])),
                clipped=local.Tensor.of(np.concatenate([step.clipped for step in applied])),
                held=local.Tensor.of(np.concatenate([step.held for step in applied])),
                latency_ms=1000 * latency,
            )
        )
