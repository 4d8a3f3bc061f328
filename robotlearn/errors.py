"""Every error that robotlearn raises on purpose.

One tree: `except RobotlearnError` catches all of them. A message is one line that says what was wrong, where, and
what to do; the command line prints it without a traceback and exits with status 2. What the HAL refuses is a
`hal.errors.HalError`, a tree of its own.
"""


class RobotlearnError(Exception):
    """Raised when robotlearn can't go on for a reason that its user can mend; the root of all the errors below."""


class ConfigError(RobotlearnError):
    """Raised when a config can't be read or holds a wrong key, type or value; names file, key, value, expectation."""


class WireError(RobotlearnError):
    """Raised when a message or a record is malformed, too large, of another schema, or fails its checksum."""


class ContractError(RobotlearnError):
    """Raised when edge and learner disagree on what both must hold alike (policy, features, ...); names the key."""


class AddressError(RobotlearnError):
    """Raised when an address is malformed, in use, or public without leave to be so; names the address."""


class KeysError(RobotlearnError):
    """Raised when a key is missing, malformed, readable by others, or isn't one that may do what is asked for."""


class LogError(RobotlearnError):
    """Raised when an append-only log can't be opened, read or written: damaged before its tail, or no space left."""


class BufferEmptyError(RobotlearnError):
    """Raised when a sample is asked of a buffer that holds nothing to sample from."""


class CheckpointError(RobotlearnError):
    """Raised when a checkpoint is missing, damaged, or was written by a run with another contract."""


class DamagedCheckpointError(CheckpointError):
    """Raised when a checkpoint is not what was written: a part is missing, or differs from its hash."""


class RunFolderError(RobotlearnError):
    """Raised when a run folder is missing, isn't a run, is in use, or exists where a new one was asked for."""


class ProcessError(RobotlearnError):
    """Raised when a child process can't be started or ends by itself; names the process and its exit status."""


class StartError(RobotlearnError):
    """Raised when no length of imitation gives a start inside the success band; names what was measured."""


class ClusterError(RobotlearnError):
    """Raised when a Ray cluster can't be reached, or lacks what a run needs; names what, and how to add it."""


class DisplayError(RobotlearnError):
    """Raised when there is nothing to show something on: no screen, no viewer; says what can be done instead."""


class ExtraError(RobotlearnError):
    """Raised when an optional package is asked for and is missing, or too old; names the line that installs it."""
