"""A paced edge: arm process and policy server under one roof, with recorder, spool and uplink. Imports no torch."""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import zmq

from envs.spaces import observation_space
from hal.registry import check_driver
from robotlearn.buffer.spool import Spool
from robotlearn.cells import cells_of, env_options, policy_dim
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.contract import contract
from robotlearn.edge import local
from robotlearn.edge.gatekeeper import Gatekeeper
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.errors import ProcessError, WireError
from robotlearn.processes import REFUSED, Child, Keeper, stop_all
from robotlearn.wire.uplink import Uplink

log = logging.getLogger(__name__)

FLUSH_S = 3.0
HUNG_S = 60.0
"""A process of this edge that says nothing for so long is killed and started again: it holds an episode."""
_ARM = np.zeros(1, np.int64)


class Station:
    """Starts the arm process and the policy server, keeps both alive, opens the gate, records what the arm did.

    What arrives from the arm is a line per control step; a line that is missing (the arm never waits to send one) makes
    the rest of its episode worthless: it is dropped and counted.
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
        check_driver(spec.driver)
        self._name = edge.name
        self._spool = Spool(state / "spool", edge=edge.name, sync=edge.spool.sync, max_bytes=edge.spool.max_bytes)
        self._uplink = Uplink(address, self._spool, edge=edge.name, contract=contract(config, cells))
        self._gate = Gatekeeper(self._uplink, self._spool, edge.offline_episodes)
        spaces = observation_space(spec, task, env_options(config)).spaces
        self._recorder = Recorder(
            1,
            Origin(edge.name, f"{edge.name}/arm", spec.embodiment),
            Sizes(
                {key: (space.shape, space.dtype) for key, space in spaces.items()},
                config.policy.horizon,
                config.policy.path_steps,
                spec.dim,
                policy_dim([each.spec for each in cells]),
            ),
            edge.segment_steps,
            self._gate.record,
        )
        # A short path: the name of a Unix socket has about 100 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
        here = {part: f"ipc://{self._folder}/{part}" for part in ("server", "station")}
        self._context = zmq.Context()
        self._socket = local.local_socket(self._context, zmq.ROUTER, queue=65536)
        # An arm process that was started again takes over the name of the one before.
        self._socket.router_handover = True
        self._socket.bind(here["station"])
        ends = ["--server", here["server"], "--station", here["station"]]
        session = ["--session", str(self._spool.session)]
        self._keepers = {
            "arm": Keeper(lambda: Child("arm", [*arguments("arm"), *ends])),
            "policy-server": Keeper(lambda: Child("policy-server", [*arguments("policy-server"), *ends, *session])),
        }
        self._heard: dict[str, float] = {}  # when each process last told how it is
        self._arm: local.ArmState | None = None
        self._server: local.ServerState | None = None
        self._active: int | None = None
        self._recording = False
        self._next_step = 0
        self._episodes = self._steps = self._held = self.broken_episodes = 0
        self._steps_before, self._rate_at, self._rate = 0, time.monotonic(), 0.0
        self._uplink.start()

    def run(self, stop: Event) -> None:
        """Work until `stop`. Raises ContractError when the learner refuses this edge; ProcessError when a child ends
        for a fault that its user must mend.
        """
        while not stop.is_set():
            self._uplink.check()
            for name, keeper in self._keepers.items():
                silent = time.monotonic() - self._heard.get(name, math.inf)
                if silent > HUNG_S:
                    log.error("%s: the %s process says nothing for %.0f s and is killed", self._name, name, silent)
                    keeper.child.kill()
                status = keeper.tend()
                if status == REFUSED:
                    raise ProcessError(f"edge {self._name}: its {name} process can't work, and has said why")
                if status is not None:
                    self._lost(name, status)
            self._receive()
            self._start_episode()
            self._report()

    def close(self) -> None:
        """Stop the arm first, then the rest; what the learner has not answered for stays in the spool."""
        stop_all([keeper.child for keeper in self._keepers.values()], patience_s=4.0)
        self._receive(timeout_ms=0)
        self._gate.flush(FLUSH_S)
        self._uplink.close()
        self._socket.close()
        self._context.term()
        self._spool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def version(self) -> int:
        """The version that the policy server serves, -1 before the first."""
        return self._server.version if self._server is not None else -1

    def _lost(self, name: str, status: int) -> None:
        log.error("%s: the %s process ended with status %d; it is started again", self._name, name, status)
        self._heard.pop(name, None)
        if name == "arm":
            self._arm = None
            self._abort()
        else:
            self._server = None

    def _start_episode(self) -> None:
        arm = self._arm
        if self._active is not None or arm is None or arm.state != "resting" or arm.episode > self._episodes:
            return
        if self._gate.may_start(1, self.version):
            self._episodes += 1
            self._active, self._recording = self._episodes, False
            self._socket.send_multipart([self._name.encode(), local.encode(local.Start(self._active))])

    def _abort(self) -> None:
        if self._active is not None:
            self._active = None
            self._uplink.episode_aborted()

    def _receive(self, timeout_ms: int = 20) -> None:
        if not self._socket.poll(timeout_ms):
            return
        while True:
            try:
                _, frame = self._socket.recv_multipart(zmq.NOBLOCK)
                self._take(local.decode(frame))
            except zmq.Again:
                return
            except (WireError, ValueError, KeyError) as error:
                # Half of it may be recorded: what follows of this episode can't be trusted.
                self._recording = False
                log.warning("%s: dropped a malformed local message: %s", self._name, error)

    def _take(self, message: local.AnyMessage) -> None:
        match message:
            case local.Line():
                self._take_line(message)
            case local.Begin() if message.episode == self._active:
                seen = {key: value[None] for key, value in local.arrays(message.observations).items()}
                self._recorder.begin(_ARM, seen, [message.instruction])
                self._recording, self._next_step = True, 0
            case local.ArmState():
                self._arm = message
                self._heard["arm"] = time.monotonic()
                if message.state == "resting" and message.episode == self._active:
                    # At rest again without a last line: it was stopped in mid-episode, or the line was lost.
                    self._abort()
            case local.ServerState():
                self._server = message
                self._heard["policy-server"] = time.monotonic()

    def _take_line(self, line: local.Line) -> None:
        if line.episode != self._active or not self._recording:
            return
        if line.step != self._next_step:
            self.broken_episodes += 1
            log.error("%s: %d lines of episode %d are missing", self._name, line.step - self._next_step, line.episode)
            self._recording = False
            return
        self._next_step += 1
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
        if line.terminated or line.truncated:
            # Before the segment goes to the spool, which then counts the episode as ended.
            self._active = None
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
        arm = self._arm
        if arm is None:
            state, waits_for = "arm process starting", "the arm process"
        elif self.version < 0 and self._uplink.state == "connected":
            state, waits_for = arm.state, "the policy server's first weights"
        else:
            state = f"{arm.state} ({arm.health}; starved {arm.starved}, missed {arm.missed})"
            waits_for = "" if self._active is not None else self._gate.waits_for(self.version)
        self._uplink.report(
            version=self.version,
            state=state,
            waits_for=waits_for,
            rates={"steps": self._rate, "episodes": float(self._episodes)},
            counts={
                "steps_held": self._held,
                "steps_clipped": arm.clipped if arm is not None else 0,
                "episodes_broken": self.broken_episodes,
                "ticks_missed": arm.missed if arm is not None else 0,
                "answers_dropped": arm.dropped_answers if arm is not None else 0,
                "lines_lost": arm.lost_lines if arm is not None else 0,
            },
        )
