"""The messages of ROS 2 that a robot needs, as `cyclonedds` types: the same bytes on the wire, without any ROS.

Definitions: sensor_msgs, trajectory_msgs, std_msgs, builtin_interfaces and rmw_dds_common of ROS 2 Jazzy.
"""

# mypy: ignore-errors
# cyclonedds reads annotations that mean something else to mypy: a field of sequence[float64] is a list of floats.

import struct
from dataclasses import dataclass, field
from typing import Any

from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float64, int32, sequence, uint8, uint32


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32 = 0
    nanosec: uint32 = 0


@dataclass
class Duration(IdlStruct, typename="builtin_interfaces::msg::dds_::Duration_"):
    sec: int32 = 0
    nanosec: uint32 = 0


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    header: Header = field(default_factory=Header)
    name: sequence[str] = field(default_factory=list)
    position: sequence[float64] = field(default_factory=list)
    velocity: sequence[float64] = field(default_factory=list)
    effort: sequence[float64] = field(default_factory=list)


@dataclass
class JointTrajectoryPoint(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectoryPoint_"):
    positions: sequence[float64] = field(default_factory=list)
    velocities: sequence[float64] = field(default_factory=list)
    accelerations: sequence[float64] = field(default_factory=list)
    effort: sequence[float64] = field(default_factory=list)
    time_from_start: Duration = field(default_factory=Duration)


@dataclass
class JointTrajectory(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectory_"):
    header: Header = field(default_factory=Header)
    joint_names: sequence[str] = field(default_factory=list)
    points: sequence[JointTrajectoryPoint] = field(default_factory=list)


@dataclass
class MultiArrayDimension(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayDimension_"):
    label: str = ""
    size: uint32 = 0
    stride: uint32 = 0


@dataclass
class MultiArrayLayout(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayLayout_"):
    dim: sequence[MultiArrayDimension] = field(default_factory=list)
    data_offset: uint32 = 0


@dataclass
class Float64MultiArray(IdlStruct, typename="std_msgs::msg::dds_::Float64MultiArray_"):
    layout: MultiArrayLayout = field(default_factory=MultiArrayLayout)
    data: sequence[float64] = field(default_factory=list)


@dataclass
class Gid(IdlStruct, typename="rmw_dds_common::msg::dds_::Gid_"):
    data: array[uint8, 16] = field(default_factory=lambda: [0] * 16)


@dataclass
class NodeEntitiesInfo(IdlStruct, typename="rmw_dds_common::msg::dds_::NodeEntitiesInfo_"):
    node_namespace: str = "/"
    node_name: str = ""
    reader_gid_seq: sequence[Gid] = field(default_factory=list)
    writer_gid_seq: sequence[Gid] = field(default_factory=list)


@dataclass
class ParticipantEntitiesInfo(IdlStruct, typename="rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_"):
    gid: Gid = field(default_factory=Gid)
    node_entities_info_seq: sequence[NodeEntitiesInfo] = field(default_factory=list)


_LITTLE = b"\0\1\0\0"  # the encapsulation header of CDR, little endian


class _Bytes:
    """CDR (XCDR1, little endian) by hand: cyclonedds goes through a sequence of bytes one by one, 48 ms for VGA."""

    def __init__(self, data: bytes = _LITTLE) -> None:
        if data[:2] != _LITTLE[:2]:
            raise ValueError(f"a message has the encoding {bytes(data[:2]).hex()}, not CDR with little endian")
        self.view = memoryview(data)[4:]
        self.at, self.out = 0, bytearray()

    def put(self, layout: str, *values: Any) -> None:
        self.out += b"\0" * (-len(self.out) % struct.calcsize(layout[0]))
        self.out += struct.pack("<" + layout, *values)

    def put_bytes(self, data: Any, end: bytes = b"") -> None:
        self.put("I", len(data) + len(end))
        self.out += data
        self.out += end

    def get(self, layout: str) -> tuple[Any, ...]:
        self.at += -self.at % struct.calcsize(layout[0])
        values = struct.unpack_from("<" + layout, self.view, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def get_bytes(self) -> memoryview:
        (size,) = self.get("I")
        if self.at + size > len(self.view):
            raise ValueError("the message is shorter than it says")
        self.at += size
        return self.view[self.at - size : self.at]

    def text(self) -> str:
        return bytes(self.get_bytes()).rstrip(b"\0").decode(errors="replace")

    def put_header(self, header: Header) -> None:
        self.put("iI", header.stamp.sec, header.stamp.nanosec)
        self.put_bytes(header.frame_id.encode(), b"\0")

    def header(self) -> Header:
        stamp = Time(*self.get("iI"))
        return Header(stamp, self.text())

    def done(self) -> bytes:
        return _LITTLE + bytes(self.out)


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header = field(default_factory=Header)
    height: uint32 = 0
    width: uint32 = 0
    encoding: str = ""
    is_bigendian: uint8 = 0
    step: uint32 = 0
    data: sequence[uint8] = field(default_factory=list)

    def serialize(self, buffer: Any = None, endianness: Any = None, use_version_2: Any = None) -> bytes:
        cdr = _Bytes()
        cdr.put_header(self.header)
        cdr.put("II", self.height, self.width)
        cdr.put_bytes(self.encoding.encode(), b"\0")
        cdr.put("B", self.is_bigendian)
        cdr.put("I", self.step)
        cdr.put_bytes(self.data)
        return cdr.done()

    @classmethod
    def deserialize(cls, data: bytes, has_header: bool = True, use_version_2: Any = None) -> "Image":
        cdr = _Bytes(data)
        header = cdr.header()
        height, width = cdr.get("II")
        encoding = cdr.text()
        (big,) = cdr.get("B")
        (step,) = cdr.get("I")
        return cls(header, height, width, encoding, big, step, cdr.get_bytes())


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs::msg::dds_::CompressedImage_"):
    header: Header = field(default_factory=Header)
    format: str = ""
    data: sequence[uint8] = field(default_factory=list)

    def serialize(self, buffer: Any = None, endianness: Any = None, use_version_2: Any = None) -> bytes:
        cdr = _Bytes()
        cdr.put_header(self.header)
        cdr.put_bytes(self.format.encode(), b"\0")
        cdr.put_bytes(self.data)
        return cdr.done()

    @classmethod
    def deserialize(cls, data: bytes, has_header: bool = True, use_version_2: Any = None) -> "CompressedImage":
        cdr = _Bytes(data)
        return cls(cdr.header(), cdr.text(), cdr.get_bytes())


TYPES: dict[str, Any] = {
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
}
