"""What can go wrong in environments and tasks."""


class EnvError(Exception):
    """Raised when an environment can't be built or is used against its contract."""


class TaskError(EnvError):
    """Raised when a task is unknown or can't be done with the given robot."""
