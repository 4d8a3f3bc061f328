"""The transport of `RosRobot` by plain DDS: the topics of ROS 2 without any ROS installation."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from hal.drivers.ros import NUMBERS, TRAJECTORY, Endpoint, Publisher, RosRobot
from hal.drivers.ros_options import Qos
from hal.errors import DriverError, RobotFault
from hal.robot import Robot
from hal.spec import RobotSpec

_SEND_MS = 1  # how long a reliable writer may hold up the control loop when a reader is stuck
_BY_NAME = "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>"
"""Fast DDS 3 (Kilted and later) announces type objects that Cyclone rejects; peers are matched by type name instead.
Set in code and never through CYCLONEDDS_URI: the Cyclone of Jazzy's rmw ends at an element that it doesn't know."""
_LINGER = "<Internal><WriterLingerDuration>100ms</WriterLingerDuration></Internal>"
"""How long closing waits for the last command, a stop, to be acknowledged, by each writer; a dead peer never does."""
_LOCAL = (
    '<General><Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces><AllowMulticast>false</AllowMulticast>'
    "</General><Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>"
    '<Peers><Peer Address="127.0.0.1"/></Peers><InitialLocatorPruneDelay>inf</InitialLocatorPruneDelay></Discovery>'
)
"""What ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST (or ROS_LOCALHOST_ONLY=1) asks for: nobody on another machine. Without
multicast Cyclone calls to addresses, and by itself ceases to after 30 s: two who missed each other would never meet."""
_WAIT_NS = 10**9
_MANY = 100_000  # more endpoints than there are
_PARTICIPANT_HASH = "RIHS01_91a0593bacdcc50ea9bdcf849a938b128412cc1ea821245c663bcd26f83c295e"
_LATCHED = Qos(reliability="reliable")


def make(spec: RobotSpec, **options: Any) -> Robot:
    """The driver `dds`; options as in `hal.drivers.ros_options.RosOptions`.

    Raises DriverError as `RosRobot`, and where there is no cyclonedds.
    """
    _cyclonedds()
    return RosRobot(spec, DdsTransport, options)


class DdsTransport:
    """What ROS 2 sees as a node, with a thread of its own for what comes.

    Topics only: services and actions need rclpy.

    Of ROS 2's environment it heeds ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE (LOCALHOST) and ROS_LOCALHOST_ONLY; and
    CYCLONEDDS_URI.

    Raises DriverError when there is no cyclonedds, or the domain can't be joined.
    """

    def __init__(self, name: str, domain: int | None = None) -> None:
        _cyclonedds()
        from cyclonedds.core import DDSException, GuardCondition, WaitSet

        from hal.drivers import ros_types

        self._types: Any = ros_types
        self._error, self._closed = DDSException, False
        try:
            self._domain = _join(int(os.environ.get("ROS_DOMAIN_ID") or 0) if domain is None else domain)
        except (ValueError, DDSException) as error:
            where = f"DDS domain {domain}" if domain is not None else f"ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID')}"
            raise DriverError(f"{where}: {error}") from error
        self._participant = self._domain.participant
        self._info: Any = ros_types.NodeEntitiesInfo("/", f"{name}_{os.getpid()}")
        self._readers: list[tuple[Any, Any, Callable[[Any], None]]] = []
        self._writers: list[Any] = []
        self._domain.nodes.append(self._info)
        self._domain.announce()
        self._waitset, self._closing = WaitSet(self._participant), GuardCondition(self._participant)
        self._waitset.attach(self._closing)
        self._thread = threading.Thread(target=self._run, name=f"dds {name}", daemon=True)
        self._thread.start()

    def subscribe(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> None:
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        wanted = self._types.TYPES[kind]
        reader = DataReader(self._participant, Topic(self._participant, _name(topic), wanted), qos=_policies(qos))
        self._readers.append((reader, wanted, take))
        self._waitset.attach(ReadCondition(reader, ViewState.Any | SampleState.NotRead | InstanceState.Any))
        self._info.reader_gid_seq.append(_gid(reader))
        self._domain.announce()

    def publisher(self, topic: str, kind: str, qos: Qos) -> Publisher:
        writer = _writer(self._participant, _name(topic), self._types.TYPES[kind], _policies(qos))
        self._writers.append(writer)
        self._info.writer_gid_seq.append(_gid(writer))
        self._domain.announce()
        return _DdsPublisher(writer, topic, kind, self._types)

    def gripper(self, action: str, joint: str, parallel: bool, max_effort: float) -> Publisher:
        raise DriverError(f"the gripper's action {action} needs the driver 'ros2': plain DDS has topics only")

    def graph(self) -> list[Endpoint]:
        from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
        from cyclonedds.core import InstanceState, Policy, ReadCondition, SampleState, ViewState

        found = []
        for writes, builtin in ((True, BuiltinTopicDcpsPublication), (False, BuiltinTopicDcpsSubscription)):
            reader = BuiltinDataReader(self._participant, builtin)
            alive = ReadCondition(reader, ViewState.Any | SampleState.Any | InstanceState.Alive)
            everybody = reader.read(_MANY, alive)
            _delete(reader)
            for one in everybody:
                topic, kind = one.topic_name, one.type_name
                if topic.startswith("rt/") and kind.endswith("_"):
                    reliable = one.qos[Policy.Reliability] != Policy.Reliability.BestEffort
                    kind = kind.replace("::dds_::", "::").removesuffix("_").replace("::", "/")
                    found.append(Endpoint(topic.removeprefix("rt"), kind, writes, reliable))
        return found

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._closing.set(True)
        self._thread.join()
        _delete(self._waitset)
        _delete(self._closing)
        for entity in (*self._writers, *(reader for reader, _, _ in self._readers)):
            _delete(entity)  # a writer waits for what is on its way
        self._domain.nodes.remove(self._info)
        self._domain.announce()

    def _run(self) -> None:
        while not self._closed:
            self._waitset.wait(_WAIT_NS)
            for reader, wanted, take in list(self._readers):
                while True:
                    try:
                        messages = reader.take(1)  # one that can't be decoded takes with it all that are taken at once
                    except self._error:
                        break
                    except Exception as error:
                        take(error)
                        continue
                    if not messages:
                        break
                    if isinstance(messages[0], wanted):  # else that a writer is gone
                        take(messages[0])


class _Membership:
    """This process's participant in a domain, for all transports and for good; `nodes` is what ROS 2's graph shows.

    Not one per transport: Cyclone 11 clears a participant away after its deletion has returned, and one that is made
    meanwhile acknowledges, for both, what somebody who has just come sent to the first. Nobody says that twice, and so
    whoever came would not be found before it comes anew.
    """

    def __init__(self, domain: int) -> None:
        from cyclonedds.core import Policy
        from cyclonedds.core import Qos as DdsQos
        from cyclonedds.domain import Domain, DomainParticipant

        from hal.drivers import ros_types

        self._message: Any = ros_types.ParticipantEntitiesInfo
        self._configured = Domain(domain, _configuration())
        self.participant: Any = DomainParticipant(domain, qos=DdsQos(Policy.Userdata(b"enclave=/;")))
        self.nodes: list[Any] = []
        self._announcing = threading.Lock()
        self._graph = _writer(self.participant, "ros_discovery_info", self._message, _policies(_LATCHED, latched=True))
        atexit.register(self._leave)

    def announce(self) -> None:
        """Tell ROS 2's graph which nodes there are, and which endpoints are whose."""
        with self._announcing:
            self._graph.write(self._message(_gid(self.participant), list(self.nodes)))

    def _leave(self) -> None:
        """At once and not when everybody misses it."""
        if not self.nodes:
            _delete(self.participant)


_joined: dict[int, _Membership] = {}
_joining = threading.Lock()


class _DdsPublisher:
    def __init__(self, writer: Any, topic: str, kind: str, types: Any) -> None:
        from cyclonedds.core import DDSException

        self._writer, self._topic, self._kind = writer, topic, kind
        self._types, self._message, self._error = types, types.TYPES[kind], DDSException

    def publish(self, **fields: Any) -> None:
        types = self._types
        if self._kind == TRAJECTORY:
            seconds = fields["seconds"]
            after = types.Duration(int(seconds), int(seconds % 1 * 1e9))
            point = types.JointTrajectoryPoint(positions=fields["positions"], time_from_start=after)
            message = types.JointTrajectory(joint_names=fields["joint_names"], points=[point])
        else:
            message = self._message(**fields)
            if self._kind != NUMBERS:
                now = time.time_ns()
                message.header.stamp = types.Time(now // 10**9, now % 10**9)
        try:
            self._writer.write(message)
        except self._error as error:
            raise RobotFault(f"{self._topic}: nothing can be sent: {error}") from error

    def listeners(self) -> int:
        try:
            return int(self._writer.get_publication_matched_status().current_count)
        except self._error:  # closed meanwhile
            return 0


def _cyclonedds() -> None:
    try:
        import cyclonedds.domain  # noqa: F401
    except ImportError as error:
        raise DriverError(f"the driver 'dds' needs cyclonedds ({error}): pip install 'robotlearn[dds]'") from error


def _join(domain: int) -> _Membership:
    with _joining:
        if domain not in _joined:
            _joined[domain] = _Membership(domain)
        return _joined[domain]


def _configuration() -> str:
    local = (
        os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
        or os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    )
    ours = f'<CycloneDDS><Domain id="any">{_LOCAL if local else ""}{_BY_NAME}{_LINGER}</Domain></CycloneDDS>'
    users = os.environ.get("CYCLONEDDS_URI", "")
    return f"{users},{ours}" if users else ours


def _writer(participant: Any, name: str, kind: Any, qos: Any) -> Any:
    from cyclonedds.pub import DataWriter
    from cyclonedds.topic import Topic

    return DataWriter(participant, Topic(participant, name, kind), qos=qos)


def _gid(entity: Any) -> Any:
    from hal.drivers import ros_types

    kind: Any = ros_types.Gid
    return kind(list(entity.guid.bytes))


def _delete(entity: Any) -> None:
    """At once and not when it is collected as garbage, which may be never: conditions and readers hold each other."""
    entity.__del__()


def _name(topic: str) -> str:
    return "rt/" + topic.lstrip("/")


def _policies(qos: Qos, latched: bool = False) -> Any:
    from cyclonedds.core import Policy
    from cyclonedds.core import Qos as DdsQos
    from cyclonedds.util import duration

    reliable = qos.reliability == "reliable"
    policies = [
        Policy.Reliability.Reliable(duration(milliseconds=_SEND_MS)) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile,
        Policy.History.KeepLast(qos.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
    ]
    if latched:
        policies.append(Policy.Userdata(f"typehash={_PARTICIPANT_HASH};".encode()))
    return DdsQos(*policies)
