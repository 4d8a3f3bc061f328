"""Online policy learning for real robots: edges that act, a learner that learns, and the wire between them.

Importing this package imports neither torch nor MuJoCo.
"""

from robotlearn.version import __version__

__all__ = ["__version__"]
