"""A paced edge: arm process and policy server under one roof, with recorder, spool and uplink. Imports no torch."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np

from envs.spaces import observation_space
from hal.registry import check_driver
from robotlearn.cells import cells_of, env_options, policy_dim
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.contract import contract
from robotlearn.edge import local
from robotlearn.edge.encoder import Encoder
from robotlearn.edge.gatekeeper import Gatekeeper
from robotlearn.edge.latencies import described
from robotlearn.edge.outgoing import outgoing
from robotlearn.edge.paced_arm import PacedArm
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.edge.server_place import ServerPlace
from robotlearn.robots.states import robot_state

log = logging.getLogger(__name__)

FLUSH_S = 3.0
_ARM = np.zeros(1, np.int64)


class Station:
    """Keeps an arm and its policy server at work, opens the gate, records what the arm did.

    Of an episode with a missing or malformed line nothing more is recorded; it is dropped and counted.
    """

    def __init__(
        self,
        config: Config,
        edge: PacedEdgeConfig,
        address: str,
        state: Path,
        arguments: Callable[[str], list[str]],
    ) -> None:
        """`arguments(part)` is the command line of the child `part` ("arm", "policy-server") up to the endpoints."""
        cells = cells_of(config)
        spec, task = (cell := cells_of(config, edge)[0]).spec, cell.task
        check_driver(edge.driver or spec.driver)
        self._name = edge.name
        self._spool, self._uplink = outgoing(edge, 1, address, state, contract(config, cells), config.learner.key)
        self._gate = Gatekeeper(self._uplink, self._spool, edge.offline_episodes)
        self._encoder = Encoder(self._gate.record)
        spaces = observation_space(spec, task, env_options(config)).spaces
        self._recorder = Recorder(
            1,
            Origin(edge.name, f"{edge.name}/arm", spec.embodiment),
            Sizes(
                {key: (space.shape, space.dtype) for key, space in spaces.items()},
                config.policy.horizon,
                config.policy.path_steps,
                spec.dim,
                config.policy.path_dim(policy_dim([each.spec for each in cells])),
            ),
            edge.segment_steps,
            self._encoder.put,
            edge.encodings(),
        )
        session = ["--session", str(self._spool.session)]
        self._arm = PacedArm(
            edge.name,
            self,
            lambda part: [*arguments(part), *(session if part == "policy-server" else [])],
            say=log.error,
            place=ServerPlace(None if edge.server is None else f"{edge.server} {address}"),
        )
        self._steps = self._held = 0
        self._steps_before, self._rate_at, self._rate = 0, time.monotonic(), 0.0
        self._uplink.start()

    def run(self, stop: Event) -> None:
        """Work until `stop`. Raises ContractError when the learner refuses this edge; ProcessError when a child ends
        for a fault that its user must mend.
        """
        while not stop.is_set():
            self._uplink.check()
            self._encoder.check()
            self._arm.turn()
            if self._arm.idle and self._gate.may_start(1, self.version):
                self._arm.start()
            self._report()

    def close(self) -> None:
        """Stop the arm first, then the rest; what the learner has not answered for stays in the spool."""
        self._arm.close()
        self._encoder.close()
        self._gate.flush(FLUSH_S)
        self._uplink.close()
        self._spool.close()

    @property
    def version(self) -> int:
        """The version that the policy server serves, -1 before the first."""
        return self._arm.version

    def broken(self, why: str) -> None:
        """The running episode ended in another way than its task says."""
        log.info("%s: an episode is given up: %s", self._name, why)
        self._uplink.episode_aborted()

    def hear(self, message: local.Begin | local.Line | local.Preview) -> None:
        """Record the next message of the running episode."""
        match message:
            case local.Begin():
                seen = {key: value[None] for key, value in local.arrays(message.observations).items()}
                self._recorder.begin(_ARM, seen, [message.instruction])
            case local.Line():
                self._record(message)

    def _absent(self) -> str:
        """Why there is no arm process: what the last one told, if it told anything."""
        told = robot_state(self._name)
        return told.line() if told is not None and told.state == "fault" else "arm process starting"

    def _record(self, line: local.Line) -> None:
        self._steps += 1
        self._held += line.held
        if line.chunk is not None:
            self._recorder.chunk(
                _ARM,
                version=line.chunk.version,
                path=line.chunk.path.array(),
                stochastic=line.chunk.stochastic.array(),
                log_prob=line.chunk.log_prob.array(),
                first=line.first,
                lag=line.lag,
            )
        self._recorder.step(
            _ARM,
            {key: value[None] for key, value in local.arrays(line.observations).items()},
            proposed=line.proposed.array()[None],
            executed=line.executed.array()[None],
            from_chunk=np.array([line.from_chunk]),
            monotonic=line.monotonic,
            wall=line.wall,
            intervention=np.array([line.intervention]),
            held=np.array([line.held]),
            reward=np.array([line.reward], np.float32),
            terminated=np.array([line.terminated]),
            truncated=np.array([line.truncated]),
            success=np.array([line.success]),
        )

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._rate_at < 0.5:
            return
        self._rate = (self._steps - self._steps_before) / (now - self._rate_at)
        self._steps_before, self._rate_at = self._steps, now
        arm = self._arm.arm
        if arm is None:
            state, waits_for = self._absent(), "the arm process"
        elif self.version < 0 and self._uplink.state == "connected":
            busy = self._arm.server.busy if self._arm.server is not None else ""
            waits_for = f"the policy server, which is {busy}" if busy else "the policy server's first weights"
            state = arm.state
        else:
            frames = f"; frames: {arm.frames}" if arm.frames else ""
            took = described(self._arm.server.latencies) if self._arm.server is not None else ""
            state = (
                f"{arm.state} ({arm.health}; starved {arm.starved}, missed {arm.missed}{frames}"
                f"{'; ' if took else ''}{took})"
            )
            person = f"a person: {arm.waits_for}" if arm.waits_for else ""
            waits_for = person if self._arm.active is not None else self._gate.waits_for(self.version)
        self._uplink.report(
            version=self.version,
            state=self._gate.state + state,
            waits_for=waits_for,
            rates={"steps": self._rate, "episodes": float(self._arm.started), **self._gate.traffic.rates(1)},
            counts={
                "steps_held": self._held,
                "steps_clipped": arm.clipped if arm is not None else 0,
                "episodes_broken": self._arm.gaps,
                "ticks_missed": arm.missed if arm is not None else 0,
                "answers_dropped": arm.dropped_answers if arm is not None else 0,
                "lines_lost": arm.lost_lines if arm is not None else 0,
            },
        )
