"""What can go wrong with people's devices."""

from robotlearn.errors import RobotlearnError


class DeviceError(RobotlearnError):
    """Raised when a person's device is missing, can't be used, or is gone; names it, and what to do."""


class RecordingError(RobotlearnError):
    """Raised when a folder of demonstrations can't be gone on with, or read; names it and what differs."""
