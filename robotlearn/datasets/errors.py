"""What can go wrong with datasets, bags and labels."""

from robotlearn.errors import RobotlearnError


class DatasetError(RobotlearnError):
    """Raised when a dataset, a bag or labels can't be read or written; names what, where, and the option that helps."""
