"""The control loop of an arm, by the clock. Imports no torch."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event

import numpy as np
import zmq

from envs import ArmEnv, LanguageTask
from hal.control_loop import ControlLoop
from hal.errors import LeaseError, RobotFault, Stopped
from robotlearn.config.edge import ExecutionConfig
from robotlearn.edge import local
from robotlearn.edge.delay import Delay
from robotlearn.edge.executor import ChunkExecutor
from robotlearn.edge.shared_frames import MAX_SLOTS, FrameRing, FramesWay, NotShared
from robotlearn.errors import WireError
from robotlearn.people.intent import Event as Said
from robotlearn.people.person import Person
from robotlearn.people.resets import Reset

log = logging.getLogger(__name__)

STATE_PERIOD_S = 0.5
ANSWER_PATIENCE_S = 1.0
_TO_WRITE_S, _TO_WRITE = 0.002, 0.1
"""From an answer to its written action, seconds or share of the driver's period: whichever is longer."""

Observations = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Received:
    """A chunk's answer and the step whose observation it started from."""

    answer: local.ChunkAnswer
    step: int


class ArmLoop:
    """Rests until its station opens the gate, runs one episode, rests again.

    Within an episode every tick takes what is there: sends never block, a missing chunk is a held step, unless the arm
    is to wait for it at rest (`execution.way`). A chunk is waited for until shortly before the arm's own loop looks
    again for a goal, up to a period of the driver later, for until then it makes no difference. After the spec's
    `watchdog_s` without a new action the robot is stopped and the episode ends, truncated; so it does when `control`
    stopped the robot, or the station's lease is over. Runs on the caller's thread.
    """

    def __init__(
        self,
        env: ArmEnv,
        control: ControlLoop,
        robot: str,
        *,
        server: str,
        station: str,
        horizon: int,
        execution: ExecutionConfig,
        person: Person | None = None,
        scene_reset: Reset | None = None,
    ) -> None:
        """Connect to the endpoints of the policy server and the station; either may start later or come again.

        `control`: the loop of the environment's robot, with leases. `person`: who may take over; belongs to this object
        from now on. `scene_reset`: what each episode waits for, the arm at its start.
        """
        self._env, self._control, self._robot = env, control, robot
        self._person, self._scene_reset = person, scene_reset
        assert control.leases is not None
        self._leases = control.leases
        self._executor: ChunkExecutor[Received] = ChunkExecutor(
            horizon, execution, len(env.robot.spec.joints)
        )
        self._execution, self._delay = execution, Delay()
        self._rests_since: float | None = None
        self._chunk_shape = (horizon, *(env.action_space.shape or ()))
        self._context = zmq.Context()
        self._server = local.local_socket(self._context, zmq.DEALER)
        # A request to a server that is not there is asked anew, never queued: an old observation is worthless.
        self._server.immediate = True
        self._server.connect(server)
        self._station = local.local_socket(self._context, zmq.DEALER, queue=65536)
        self._station.identity = robot.encode()
        self._station.connect(station)
        self._stop = Event()
        self._started = -1
        self._lease: int | None = None
        self._reported: local.ArmActivity | None = None
        self._waits_for = ""
        self._step = self._asked_step = 0
        self._asked_at = self._reported_at = -math.inf
        self._steps = self._lost = self._clipped = 0
        self._unanswered = False  # the last request
        self._least_s = self._to_write_s = max(_TO_WRITE_S, _TO_WRITE * env.robot.spec.dt_driver)
        self.frames = ""
        """How its camera images go to the station, "" without cameras; may be read on any thread."""
        self._way = FramesWay("ipc")
        self._ring: FrameRing | None = None
        self._taken = 0  # the newest number of the ring that the station has taken
        self._told: tuple[Observations, dict[str, local.Tensor]] = ({}, {})  # the last ones, and as they go out
        self._image_bytes = sum(
            math.prod(space.shape or ()) for space in env.observation_space.spaces.values() if space.dtype == np.uint8
        )
        if self._image_bytes:
            # While a request may be answered its images stay; and a station that hangs for a second loses none.
            slots = math.ceil(env.robot.spec.control_hz * ANSWER_PATIENCE_S) + 2
            try:
                self._ring = FrameRing(min(slots, MAX_SLOTS), self._image_bytes)
            except NotShared as error:
                self._way.why = str(error)

    @property
    def marks(self) -> str:
        """How its person says that an episode succeeded or failed, "" where nobody can."""
        return "" if self._person is None else self._person.marks

    @property
    def judge(self) -> local.Judge:
        """Who says how its episodes ended, when it isn't a stop."""
        if self._env.judged:
            return "task"
        return "person" if self.marks else "nobody"

    def run(self, stop: Event) -> None:
        """Run one episode per `Start` until `stop`. Raises RobotFault when the arm is at fault, at rest too."""
        self._stop = stop
        while not stop.is_set():
            self._report("e-stopped" if self._control.estopped else "resting")
            if self._control.activity == "fault":
                raise RobotFault(f"{self._robot}: {self._control.health().detail}")
            start = self._hear_station(50)
            if self._person is not None:
                self._person.look()
                self._person.take_events()
            if start is None:
                continue
            self._started = start.episode
            if self._leases.valid(start.token):
                self._control.token = start.token
                try:
                    self._episode(start.episode, stop)
                    self._env.hold()
                except (Stopped, LeaseError) as error:
                    log.error("%s: %s", self._robot, error)
                    self._let_go()
            self._report("e-stopped" if self._control.estopped else "resting", now=True)
        self._report("stopped", now=True)

    def keep_in_touch(self) -> None:
        """For what takes long before an episode: the station is heard, and told that this goes on. Raises Stopped."""
        self._hear_station(0)
        self._report("driving to a start")
        if self._stop.is_set():
            raise Stopped(f"{self._robot}: asked to end on the way to a start")

    def close(self) -> None:
        """Stop the robot and close the sockets; lines still on their way get half a second."""
        self._env.close()
        if self._person is not None:
            self._person.close()
        if self._ring is not None:
            self._ring.close()
        self._server.close()
        self._station.close(linger=500)
        self._context.term()

    def _hear_station(self, timeout_ms: int) -> local.Start | None:
        """What the station wants: the lease, which it gets or keeps where that may be, and an episode."""
        while self._station.poll(timeout_ms):
            timeout_ms = 0
            try:
                message = local.decode(self._station.recv(zmq.NOBLOCK))
            except WireError as error:
                log.warning("%s: %s", self._robot, error)
                continue
            if isinstance(message, local.Start):
                return message
            if isinstance(message, local.Hold):
                if self._ring is not None:
                    self._way.shared = message.frames == self._ring.memory.name
                    self._way.why = "" if self._way.shared else message.frames
                    self._taken = message.taken
                self._lend(message)
        return None

    def _lend(self, wish: local.Hold) -> None:
        if self._leases.valid(self._lease):
            assert self._lease is not None
            self._leases.renew(self._lease)
            return
        before, self._lease = self._lease, None
        try:
            self._lease = self._leases.acquire(wish.holder, wish.ttl).token
        except LeaseError as error:
            log.info("%s: %s", self._robot, error)
        if self._lease != before and self._reported is not None:
            self._report(self._reported, now=True)

    def _set_up(self) -> Observations:
        """The first observations, the arm at its start and the scene as a person has set it up."""
        observations, _ = self._env.reset()
        if self._person is not None:
            self._person.restart()
            self._person.take_events()
            if isinstance(self._env.task, LanguageTask):
                self._person.tell(self._env.instruction)
        if self._scene_reset is None or self._scene_reset.kind == "pose":
            return observations
        how = "" if self._person is None else self._person.go_on
        try:
            if not self._scene_reset.wait(self._waits, self._asked_for, self._tell, how):
                raise Stopped(f"{self._robot}: asked to end while the scene was set up")
        finally:
            self._waits_for = ""
        return self._env.observe()

    def _tell(self, text: str) -> None:
        """What a person is waited for: in the log, at their own terminal, and at the station."""
        log.warning("%s: %s", self._robot, text)
        if self._person is not None:
            self._person.tell(text)
        self._waits_for = text
        self._report("waiting for its scene", now=True)

    def _let_go(self) -> None:
        if self._person is not None:
            self._person.release()

    def _waits(self) -> bool:
        self._hear_station(0)
        self._report("waiting for its scene")
        return not self._stop.is_set()

    def _asked_for(self) -> bool:
        if self._person is None:
            return False
        self._person.look()
        return Said.NEXT in self._person.take_events()

    def _marked(self) -> Said | None:
        """What the person said of the running episode: that it succeeded, or failed."""
        if self._person is None:
            return None
        marks = [said for said in self._person.take_events() if said in (Said.SUCCESS, Said.FAILURE)]
        return marks[-1] if marks else None

    def _episode(self, episode: int, stop: Event) -> None:
        observations = self._set_up()
        self._executor.start()
        self._step = 0
        self._delay.restart()
        # The arm rests until its first chunk is there; only then does the episode begin.
        if not self._wait_for_chunk(observations, stop):
            return
        self._send(local.Begin(episode, self._env.instruction, self._fields(observations)))
        self._env.start_clock()
        acted_at = time.monotonic()
        done = False
        while not done:
            self._report("working")
            self._hear_station(0)
            self._take_answers()
            self._ask(observations)
            if self._waits_in_between():
                self._env.hold()
                if not self._wait_for_chunk(observations, stop):
                    return
                self._env.start_clock()
                acted_at = time.monotonic()
            self._await_answer()
            answered_at = time.monotonic()
            taken = self._executor.take()
            action = self._env.rest_action() if taken is None else taken.action
            own = None
            if self._person is not None:
                own = self._person.action(self._env.reading, self._env.set_point, action)
                if own is not None:
                    self._executor.interrupt()
            # A person's device may take its time: the longest of late.
            self._to_write_s = max(self._least_s + time.monotonic() - answered_at, 0.9 * self._to_write_s)
            observations, reward, terminated, truncated, info = self._env.step(action if own is None else own)
            self._executor.executed(info["executed"])
            if (mark := self._marked()) is not None:
                terminated, info["success"] = True, mark is Said.SUCCESS
                reward = float(info["success"])
            now = time.monotonic()
            stopped = info["stopped"]
            if taken is not None or own is not None:
                acted_at = now
            elif (waited := now - acted_at) > self._env.robot.spec.watchdog_s - self._env.robot.spec.dt / 2:
                self._control.stop()
                stopped, truncated = stopped or f"{self._robot}: no action for {waited:.2f} s", True
            if stopped:
                log.error("%s: arm stopped, episode ended", stopped)
                self._let_go()
            began = taken.began if taken is not None else None
            # A stop asked for in mid-episode leaves the episode unfinished: it is not recorded as one that ended.
            done = terminated or truncated or stop.is_set()
            self._clipped += bool(info["clipped"])
            self._steps += 1
            self._send(
                local.Line(
                    episode=episode,
                    step=self._step,
                    observations=self._fields(observations),
                    proposed=local.Tensor.of(action),
                    executed=local.Tensor.of(info["executed"]),
                    from_chunk=taken is not None,
                    held=(taken is None and own is None) or bool(info["held"]),
                    intervention=own is not None,
                    reward=float(reward),
                    terminated=terminated,
                    truncated=truncated,
                    success=bool(info["success"]),
                    monotonic=self._env.reading.monotonic,
                    wall=self._env.reading.wall,
                    chunk=began.answer if began else None,
                    first=taken.first if taken is not None else 0,
                    lag=self._step - began.step if began else 0,
                    stopped=stopped,
                )
            )
            self._step += 1

    def _wait_for_chunk(self, observations: Observations, stop: Event) -> bool:
        """At rest, until an action is there, asking again and again. False: asked to end."""
        self._rests_since = time.monotonic()
        while not self._executor.ready:
            self._report("waiting for a chunk")
            self._hear_station(0)
            self._ask(observations)
            self._server.poll(20)
            self._take_answers()
            if stop.is_set():
                return False
        self._rests_since = None
        return True

    def _waits_in_between(self) -> bool:
        if self._execution.way != "wait" or self._executor.ready:
            return False
        # A rest would end a stop, and a person needs no chunk.
        return self._control.activity != "stopped" and not (self._person is not None and self._person.enabled)

    def _now(self) -> int:
        """The control step that this is; at rest, that it would be if steps went on."""
        rested = 0.0 if self._rests_since is None else time.monotonic() - self._rests_since
        return self._step + math.ceil(rested * self._env.robot.spec.control_hz)

    def _ask(self, observations: Observations) -> None:
        now = time.monotonic()
        # A policy that takes longer would be asked anew for ever, and each of its answers would be an old one.
        if now - self._asked_at > max(ANSWER_PATIENCE_S, 2 * self._delay.longest_s):
            self._executor.give_up()
        delay = self._delay.steps
        request = self._executor.due(delay)
        if request is None:
            return
        self._asked_step, self._asked_at = self._step, now
        # Whatever keeps the server from the memory: what it gave no answer to comes again in a message.
        fields = self._in_message(observations) if self._unanswered else self._fields(observations)
        memory = self._ring.memory if self._ring is not None and self._way.shared else None
        plan = None
        if self._execution.way == "vlash":
            foreseen = self._env.foresee(observations, self._executor.plan(delay))
            fields = {**fields, **local.tensors(foreseen)}
        elif self._execution.way in ("rtc", "prefix") and len(left := self._executor.plan()):
            plan = left
            delay = len(left) if delay is None else min(delay, len(left))
        asked = local.ChunkRequest(
            self._robot,
            request,
            self._env.instruction,
            fields,
            memory,
            None if plan is None else local.Tensor.of(plan),
            0 if plan is None or delay is None else delay,
        )
        self._unanswered = True
        self._delay.asked(request, plan is not None, self._now(), now)
        try:
            self._server.send(local.encode(asked), zmq.NOBLOCK)
        except zmq.Again:
            self._executor.give_up()

    def _await_answer(self) -> None:
        """An answer is in time as long as an action that is written then is carried out like one written now."""
        if self._person is not None and self._person.enabled:
            return  # theirs is there
        while self._executor.asks and (left := self._control.until_tick - self._to_write_s) > 0.001:
            self._server.poll(int(1000 * left))
            self._take_answers()

    def _take_answers(self) -> None:
        while True:
            try:
                answer = local.decode(self._server.recv(zmq.NOBLOCK))
                if not isinstance(answer, local.ChunkAnswer):
                    raise WireError("the policy server sent something else than a chunk")
                actions = answer.actions.array()
                if actions.shape != self._chunk_shape:
                    raise WireError(f"a chunk has shape {actions.shape}, expected {self._chunk_shape}")
            except zmq.Again:
                return
            except WireError as error:
                log.warning("%s: %s", self._robot, error)
                continue
            self._unanswered = False
            self._delay.answered(answer.request, answer.server, answer.version, self._now(), time.monotonic())
            self._executor.offer(answer.request, actions, Received(answer, self._asked_step))

    def _fields(self, observations: Observations) -> dict[str, local.Tensor]:
        """As they go into messages. Those of one moment are copied once, whoever gets them."""
        if self._told[0] is not observations:
            self._told = observations, self._in_memory(observations)
        return self._told[1]

    def _in_memory(self, observations: Observations) -> dict[str, local.Tensor]:
        ring = self._ring
        # Never over what the station has not taken: what it has no slot for it gets in a message.
        if ring is not None and self._way.shared and ring.number - self._taken < ring.memory.slots:
            try:
                return local.shared(observations, ring)
            except NotShared as error:
                log.warning("%s: %s", self._robot, error)
                self._way.shared, self._way.why, self._ring = False, str(error), None
                ring.close()
        return self._in_message(observations)

    def _in_message(self, observations: Observations) -> dict[str, local.Tensor]:
        self._way.sent(self._image_bytes)
        return local.tensors(observations)

    def _send(self, message: local.AnyMessage) -> None:
        try:
            self._station.send(local.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # The station sees the gap in the step numbers and drops the episode; here it is counted.
            self._lost += 1

    def _report(self, state: local.ArmActivity, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and moment - self._reported_at < STATE_PERIOD_S:
            return
        self._reported_at, self._reported = moment, state
        health = self._env.robot.health()
        self.frames = self._way.told() if self._image_bytes else ""
        self._send(
            local.ArmState(
                state=state,
                episode=self._started,
                health=health.state if not health.detail else f"{health.state}: {health.detail}",
                holder=self._leases.holder,
                token=self._lease if self._leases.valid(self._lease) else None,
                steps=self._steps,
                starved=self._executor.starved,
                missed=self._env.missed_ticks,
                clipped=self._clipped,
                dropped_answers=self._executor.dropped,
                lost_lines=self._lost,
                waits_for=self._waits_for,
                memory=self._ring.memory if self._ring is not None else None,
                frames=self.frames,
                delay=self._delay.steps,
                judge=self.judge,
            )
        )
